"""The training step alone: its plan, its memory of plans, and what it does where nothing can be compiled."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from blocks import needs_bf16, needs_matrices
from torch import nn
from torch.nn import functional

from bptcnn.errors import UnsupportedError
from bptcnn.inner import TrainStep
from bptcnn.inner.compiled import Compiled
from bptcnn.inner.eager import Eager
from bptcnn.inner.lanes import Lanes
from bptcnn.inner.machine.processor import Simd
from bptcnn.inner.plan import Gradients, plan
from bptcnn.inner.step import gradients
from bptcnn.models import ModelConfig, build
from bptcnn.models.zoo import MODELS

IMAGES = torch.randn(32, 1, 12, 12, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(32) % 4


def lenet() -> nn.Module:
    return build(ModelConfig(name="lenet5"), (1, 12, 12), 4, seed=1)


class Clock:
    """Moves only when a candidate works."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are made in a moment."""
    monkeypatch.setattr("bptcnn.inner.plan.BUDGET_S", 0.2)


def candidate(clock: Clock, samples_per_s: float, calls: list[tuple[str, int]], name: str) -> Gradients:
    def work(images: torch.Tensor, labels: torch.Tensor, loss: object) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append((name, len(images)))
        clock.now += len(images) / samples_per_s
        return torch.zeros(()), torch.zeros(len(images), 4)

    return work


@pytest.mark.parametrize("promising", [320, 200])
def test_the_fastest_candidate_wins_and_the_reason_is_said(promising: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bptcnn.inner.plan.SMALL", 1)
    clock, calls = Clock(), []
    speeds = {"promising": promising, "near": 280, "far": 80}
    ways = {name: candidate(clock, speed, calls, name) for name, speed in speeds.items()}
    makers = {name: (lambda way=way: way) for name, way in ways.items()}
    made, winner = plan(nn.Identity(), (IMAGES, LABELS), functional.cross_entropy, makers, budget_s=3.0, clock=clock)
    assert made.winner == max(speeds, key=lambda name: speeds[name])
    assert winner is ways[made.winner]
    assert {row.name: row.samples_per_s for row in made.rows} == speeds
    assert [row.note for row in made.rows] == ["", "", "on 8 samples"]
    assert made.reason.startswith(f"{made.winner} is 1.{14 if promising == 320 else 40} times as fast as ")
    # The others on a quarter of the batch, then the most promising on all of it, then what came near.
    assert list(dict.fromkeys(calls)) == [("near", 8), ("far", 8), ("promising", 32), ("near", 32)]
    # Each after one step to warm up, for a third of the time.
    assert calls.count(("far", 8)) == 1 + 10


def test_what_was_disturbed_while_it_was_measured_has_another_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bptcnn.inner.plan.SMALL", 1)
    clock, calls = Clock(), []
    quiet, near = (candidate(clock, speed, calls, "any") for speed in (320, 280))
    disturbed = candidate(clock, 100, calls, "any")
    chances = iter([disturbed, quiet])
    makers: dict[str, Callable[[], Gradients]] = {"promising": lambda: next(chances), "near": lambda: near}
    made, winner = plan(nn.Identity(), (IMAGES, LABELS), functional.cross_entropy, makers, budget_s=3.0, clock=clock)
    assert (made.winner, winner) == ("promising", quiet)
    assert [row.samples_per_s for row in made.rows] == [320, 280]


def test_a_small_batch_is_tried_as_a_whole() -> None:
    clock, calls = Clock(), []
    ways = {name: candidate(clock, speed, calls, name) for name, speed in {"promising": 320, "far": 80}.items()}
    makers = {name: (lambda way=way: way) for name, way in ways.items()}
    made, _ = plan(nn.Identity(), (IMAGES, LABELS), functional.cross_entropy, makers, budget_s=2.0, clock=clock)
    assert [(row.samples_per_s, row.note) for row in made.rows] == [(320, ""), (80, "")]
    assert set(calls) == {("promising", 32), ("far", 32)}


def test_what_can_not_be_made_is_noted_and_the_module_is_as_before() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(144, 4))

    def broken() -> Gradients:
        raise UnsupportedError("layer X is not compiled")

    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    ways = {"compiled": broken, "pytorch": lambda: Eager(network)}
    ticks = itertools.count()
    made, _ = plan(network, (IMAGES, LABELS), functional.cross_entropy, ways, clock=lambda: float(next(ticks)))
    assert made.winner == "pytorch"
    assert [row.note for row in made.rows] == ["layer X is not compiled", ""]
    assert made.reason == "pytorch is the only one that was measured"
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_plan_is_remembered_for_this_network_and_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPTCNN_CACHE", str(tmp_path))
    network = lenet()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    first = TrainStep(network, functional.cross_entropy, optimizer, (IMAGES, LABELS))
    monkeypatch.setattr("bptcnn.inner.plan.plan", None)  # is not called again
    assert TrainStep(network, functional.cross_entropy, optimizer, (IMAGES, LABELS)).plan == first.plan
    with pytest.raises(TypeError):
        TrainStep(network, functional.cross_entropy, optimizer, (IMAGES[:8], LABELS[:8]))


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_any_optimizer_takes_the_same_steps_as_in_a_plain_loop(make: type[torch.optim.Optimizer]) -> None:
    network, plain = lenet(), lenet()
    # RMSprop's first steps are ten times its rate, whatever the gradient.
    lr, random = 0.001 if make is torch.optim.RMSprop else 0.01, torch.Generator().manual_seed(0)
    step = TrainStep(
        network, functional.cross_entropy, make(network.parameters(), lr=lr), (IMAGES, LABELS), num_lanes=2
    )
    optimizer = make(plain.parameters(), lr=lr)
    for count in (32, 32, 20, 48):
        images, labels = torch.randn(count, 1, 12, 12, generator=random), torch.arange(count) % 4
        optimizer.zero_grad()
        expected = functional.cross_entropy(plain(images), labels)
        expected.backward()
        optimizer.step()
        assert step(images, labels).item() == pytest.approx(expected.item(), rel=1e-4)
        assert step.scores.shape == (count, 4)
    for mine, other in zip(network.parameters(), plain.parameters(), strict=True):
        # Adam's first steps divide by the gradient's own size, and so make small differences large.
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-3)


def test_frozen_weights_stay_as_they_are() -> None:
    network = lenet()
    first, second, *_ = network.parameters()
    first.requires_grad_(False)
    before = first.clone(), second.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, weight_decay=0.1)
    step = TrainStep(network, functional.cross_entropy, optimizer, (IMAGES, LABELS), num_lanes=1)
    step._gradients = Compiled(network, (1, 12, 12), 32, Lanes(1))
    step(IMAGES, LABELS)
    assert torch.equal(first, before[0])
    assert not torch.equal(second, before[1])


def test_gradients_cleared_by_the_user_do_no_harm() -> None:
    network = lenet()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    step = TrainStep(network, functional.cross_entropy, optimizer, (IMAGES, LABELS), num_lanes=1)
    first = step(IMAGES, LABELS).item()
    for _ in range(10):
        optimizer.zero_grad(set_to_none=True)
        last = step(IMAGES, LABELS).item()
    assert last < first


def test_images_of_another_shape_are_trained_where_the_network_can() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    reference, (images, labels) = copy.deepcopy(network), (torch.randn(32, 1, 10, 10), torch.arange(32) % 4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    step = TrainStep(network, functional.cross_entropy, optimizer, (images, labels), num_lanes=1)
    smaller = images[..., :7, :6].contiguous()
    expected = functional.cross_entropy(reference(smaller), labels)
    torch.testing.assert_close(step(smaller, labels).detach(), expected.detach())
    assert step(images, labels).isfinite()
    assert all(weight.isfinite().all() for weight in network.parameters())


def test_labels_that_are_fewer_than_images_are_an_error_as_in_pytorch() -> None:
    network = lenet()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    step = TrainStep(network, functional.cross_entropy, optimizer, (IMAGES, LABELS), num_lanes=1)
    with pytest.raises(ValueError, match="batch_size"):
        step(IMAGES, LABELS[:-1])


def test_a_batch_of_nothing_is_what_it_is_in_pytorch() -> None:
    network = lenet()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    step = TrainStep(network, functional.cross_entropy, optimizer, (IMAGES, LABELS), num_lanes=1)
    assert step(IMAGES[:0], LABELS[:0]).isnan()


def test_unknown_layers_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bptcnn.inner.plan.BUDGET_S", 0.2)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(400, 4))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    step = TrainStep(network, functional.cross_entropy, optimizer, (IMAGES, LABELS), num_lanes=1)
    assert "GELU" in step.plan.rows[0].note
    assert step(IMAGES, LABELS).item() > step(IMAGES, LABELS).item()


@pytest.mark.parametrize("multiplied", [pytest.param(True, marks=needs_bf16), False])
def test_where_no_core_multiplies_bf16_float32_takes_its_place(
    multiplied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPTCNN_CACHE", str(tmp_path))  # of a machine that is another one
    monkeypatch.setattr("bptcnn.inner.plan.BUDGET_S", 0.2)
    monkeypatch.setattr("bptcnn.inner.layout.host_simd", lambda: Simd(16, 32, bf16=multiplied))
    network = lenet()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    step = TrainStep(network, functional.cross_entropy, optimizer, (IMAGES, LABELS), precision="bf16", num_lanes=1)
    compiled = step.plan.rows[0]
    assert compiled.name == "compiled"
    assert compiled.samples_per_s > 0
    first = step(IMAGES, LABELS)
    assert first.dtype == step.scores.dtype == torch.float32
    assert first.item() > step(IMAGES, LABELS).item()
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_workers_compile_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(gradients(lenet(), (1, 12, 12), 32, "fp32", 1), Compiled)
    assert isinstance(gradients(lenet(), (1, 12, 12), 1, "fp32", 1), Compiled)
    assert gradients(nn.Sequential(nn.Flatten(), nn.Linear(144, 4), nn.GELU()), (1, 12, 12), 32, "fp32", 1) is None
    monkeypatch.setattr("bptcnn.inner.layout.host_simd", lambda: Simd(16, 32, bf16=False))
    assert isinstance(gradients(lenet(), (1, 12, 12), 32, "bf16", 1), Compiled)


@needs_bf16
@pytest.mark.parametrize(
    ("model", "batch_size", "compiles"),
    [("lenet5", 512, True), ("resnet8", 4, True), ("resnet8", 32, False), ("easgd-cifar", 3, False)],
)
def test_wide_networks_are_left_to_pytorch_where_only_it_may_multiply_matrices(
    model: str, batch_size: int, compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = (1, 28, 28) if model == "lenet5" else (3, 32, 32)
    network = MODELS[model](images, 10)
    monkeypatch.setattr("bptcnn.inner.step.host_simd", lambda: Simd(16, 32, bf16=True, tiles=True))
    monkeypatch.setattr("bptcnn.inner.layout.granted", lambda: False)
    assert (gradients(network, images, batch_size, "bf16", 1) is not None) is compiles
    assert isinstance(gradients(network, images, batch_size, "fp32", 1), Compiled)


@needs_matrices
@pytest.mark.parametrize(
    ("model", "batch_size", "capacity"),
    [("resnet8", 32, 64), ("resnet8", 8, 16), ("resnet8", 4, 8), ("easgd-cifar", 100, 160), ("easgd-cifar", 3, 4)],
)
def test_workers_multiply_matrices_where_channels_fill_them(model: str, batch_size: int, capacity: int) -> None:
    compiled = gradients(MODELS[model]((3, 32, 32), 10), (3, 32, 32), batch_size, "bf16", 1)
    assert isinstance(compiled, Compiled)
    assert compiled.capacity == capacity


@needs_matrices
def test_wide_networks_whose_channels_fill_no_matrices_are_left_to_pytorch() -> None:
    network = nn.Sequential(nn.Conv2d(3, 40, 5), nn.ReLU(), nn.Conv2d(40, 40, 5), nn.Flatten(), nn.Linear(23040, 10))
    assert gradients(network, (3, 32, 32), 32, "bf16", 1) is None
    assert isinstance(gradients(network, (3, 32, 32), 32, "fp32", 1), Compiled)


@needs_bf16
@pytest.mark.parametrize(("batch_size", "capacity"), [(32, 64), (16, 32), (4, 8)])
def test_workers_compile_bf16_for_batches_of_any_size(
    batch_size: int, capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bptcnn.inner.layout.host_simd", lambda: Simd(16, 32, bf16=True))
    compiled = gradients(lenet(), (1, 12, 12), batch_size, "bf16", 1)
    assert isinstance(compiled, Compiled)
    assert compiled.capacity == capacity


def test_the_step_of_the_readme_trains() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    _, code = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    model = lenet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    names = {"nn": nn, "model": model, "optimizer": optimizer, "loader": [(IMAGES, LABELS)] * 30}
    with patch("bptcnn.inner.plan.BUDGET_S", 0.2):
        exec(code, names)
    assert names["loss"].item() < functional.cross_entropy(lenet()(IMAGES), LABELS).item()
