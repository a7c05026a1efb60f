"""One flat vector: a network and its vector are the same memory, whatever torch does to either."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bptcnn.errors import ModelError
from bptcnn.models import FlatModel


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors on several threads are slow wherever the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(inputs))


def normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def images() -> torch.Tensor:
    return torch.arange(64.0).reshape(4, 1, 4, 4) / 64


def test_the_vector_is_parameters_then_running_statistics() -> None:
    flat = FlatModel(normed())
    assert flat.num_parameters == (18 + 2) + (2 + 2) + (24 + 3)
    assert flat.num_weights == flat.num_parameters + 2 + 2
    expected = torch.cat([p.flatten() for p in flat.module.parameters()])
    assert torch.equal(flat.parameters_vector, expected)
    assert flat.vector[-4:].tolist() == [0, 0, 1, 1]
    assert flat.vector.dtype == torch.float32
    assert flat.vector.is_contiguous()


def test_the_network_computes_with_the_vector() -> None:
    flat = FlatModel(nn.Linear(2, 1))
    flat.vector.copy_(torch.tensor([3.0, 4.0, 5.0]))
    assert flat.module(torch.tensor([[1.0, 1.0]])).item() == 12
    flat.parameters_vector.sub_(1)
    assert flat.module(torch.tensor([[1.0, 1.0]])).item() == 9


def test_flattening_changes_no_output() -> None:
    module = normed().eval()
    before = module(images())
    assert torch.equal(FlatModel(module).module(images()), before)


def test_gradients_accumulate_in_the_flat_gradient() -> None:
    flat = FlatModel(nn.Linear(2, 1))
    inputs = torch.tensor([[2.0, 3.0]])
    flat.module(inputs).sum().backward()
    assert flat.gradient.tolist() == [2, 3, 1]
    flat.module(inputs).sum().backward()
    assert flat.gradient.tolist() == [4, 6, 2]
    flat.zero_grad()
    assert flat.gradient.tolist() == [0, 0, 0]
    flat.module(inputs).sum().backward()
    assert flat.gradient.tolist() == [2, 3, 1]


@pytest.mark.parametrize("make", [normed, Tied, lambda: nn.Linear(3, 2)], ids=["normed", "tied", "linear"])
def test_the_flat_gradient_is_torchs_own(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = make()
    inputs = images() if isinstance(module, nn.Sequential) else torch.ones(2, 3)
    (module(inputs) ** 2).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    flat = FlatModel(module)
    flat.zero_grad()
    (flat.module(inputs) ** 2).sum().backward()
    assert torch.allclose(flat.gradient, expected, rtol=1e-5)


def test_running_statistics_are_part_of_the_vector() -> None:
    flat = FlatModel(normed())
    flat.module.train()
    flat.module(images())
    norm = flat.module[1]
    assert flat.vector[-4:].tolist() == [*norm.running_mean.tolist(), *norm.running_var.tolist()]
    assert flat.vector[-4:].tolist() != [0, 0, 1, 1]
    assert norm.num_batches_tracked.item() == 1
    seen = flat.snapshot()
    flat.module.eval()
    flat.module(images())
    assert np.array_equal(flat.snapshot(), seen)


def test_tied_weights_are_held_once() -> None:
    flat = FlatModel(Tied())
    assert flat.num_weights == 9 + 3 + 3
    flat.load(np.arange(15, dtype=np.float32))
    assert torch.equal(flat.module.first.weight, flat.module.second.weight)
    assert set(flat.state_dict()) == {"first.weight", "first.bias", "second.weight", "second.bias"}


def test_frozen_weights_are_neither_trained_nor_sent() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    flat = FlatModel(module)
    assert (flat.num_parameters, flat.num_weights, flat.is_partial) == (3, 3, True)
    flat.load(np.zeros(3, np.float32))
    assert torch.equal(module[0].weight, before)
    assert not module[1].weight.any()
    flat.module(torch.ones(1, 2)).sum().backward()
    assert flat.gradient[2].item() == 1
    assert set(flat.state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert not FlatModel(nn.Linear(2, 1)).is_partial


def test_a_frozen_norm_keeps_its_statistics_and_uses_them() -> None:
    module = nn.Sequential(*normed(), nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False), nn.BatchNorm1d(3))
    module[1].requires_grad_(False)
    module[5].weight.requires_grad_(False)  # its shift still trains
    flat = FlatModel(module)
    assert flat.num_weights == flat.num_parameters + 3 * (3 + 3)  # the others' statistics
    before = copy.deepcopy(module[1].state_dict())
    for _ in range(2):
        flat.train()
        assert [layer.training for layer in module] == [True, False, True, True, True, True, True, True]
        flat.module(images())
        flat.module.eval()
    assert all(torch.equal(value, before[name]) for name, value in module[1].state_dict().items())
    assert all(layer.num_batches_tracked == 2 for layer in module[5:])


def test_a_snapshot_is_a_copy_and_loads_back_without_a_word() -> None:
    flat = FlatModel(normed())
    saved = flat.snapshot()
    saved.setflags(write=False)
    flat.vector.add_(1)
    assert not np.array_equal(flat.snapshot(), saved)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat.load(saved)
    assert np.array_equal(flat.snapshot(), saved)
    flat.load(torch.zeros(flat.num_weights))
    assert not flat.snapshot().any()


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ModelError, match=r"weights of shape \[4\] do not fit a model of 3 weights"):
        FlatModel(nn.Linear(2, 1)).load(np.zeros(4, np.float32))


def test_a_state_dict_is_a_copy() -> None:
    flat = FlatModel(normed())
    state = flat.state_dict()
    assert list(state) == list(flat.module.state_dict())
    state["0.weight"].zero_()
    assert flat.module[0].weight.abs().sum() > 0


def test_parameters_stay_parameters_for_any_optimizer() -> None:
    flat = FlatModel(normed())
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in flat.module.parameters())
    before = flat.snapshot()
    flat.module(images()).sum().backward()
    torch.optim.SGD(flat.module.parameters(), lr=0.1).step()
    expected = before[: flat.num_parameters] - np.float32(0.1) * flat.gradient.numpy()
    assert np.allclose(flat.parameters_vector.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_only_float32_is_taken(dtype: torch.dtype) -> None:
    module = nn.Linear(2, 1)
    module.bias = nn.Parameter(torch.zeros(1, dtype=dtype))
    with pytest.raises(ModelError, match=r"model 'Linear' holds 'bias' as .*: build it in float32"):
        FlatModel(module)


def test_a_network_without_weights_is_refused() -> None:
    for module in (nn.ReLU(), nn.Linear(1, 1).requires_grad_(False)):
        with pytest.raises(ModelError, match="has nothing to train"):
            FlatModel(module)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_any_stack_of_layers_survives_the_way_through_a_vector(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers = [nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b)) for a, b in itertools.pairwise(sizes)]
    source = FlatModel(nn.Sequential(*layers))
    weights = torch.rand(source.num_weights, generator=generator)
    source.load(weights)
    copies = [nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b)) for a, b in itertools.pairwise(sizes)]
    copy = FlatModel(nn.Sequential(*copies))
    copy.load(source.snapshot())
    inputs = torch.rand(3, sizes[0], generator=generator)
    assert torch.equal(source.module.eval()(inputs), copy.module.eval()(inputs))
    assert np.array_equal(source.snapshot(), weights.numpy())
