"""Compiled steps: the gradients of whole networks beside PyTorch's, to the bit the same whoever works."""

from __future__ import annotations

import copy
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from blocks import BF16, GROUPS, IF_BF16, IF_BF16_GROUPS, IF_MATRICES, IF_NARROW, needs_bf16, tolerance
from torch import nn
from torch.nn import functional

from bptcnn.errors import UnsupportedError
from bptcnn.inner.account import BARS, LastStep, account
from bptcnn.inner.compiled import Compiled
from bptcnn.inner.descent import SgdOptimizer
from bptcnn.inner.eager import Eager, Precision
from bptcnn.inner.graph.layers import Dropout
from bptcnn.inner.graph.reader import graph
from bptcnn.inner.kernels import library
from bptcnn.inner.kernels.shape import Plane, Vectors
from bptcnn.inner.lanes import Lanes
from bptcnn.inner.layout import host_vectors, vectors_for
from bptcnn.inner.machine.processor import Simd
from bptcnn.inner.machine.threads import one_thread
from bptcnn.inner.plan import Gradients
from bptcnn.inner.tasks.dag import Kind
from bptcnn.inner.tasks.trace import timeline_svg
from bptcnn.models import FlatModel, ModelConfig, build, freeze

Shape = tuple[int, int, int]
LANES = Lanes(2)

each_precision = pytest.mark.parametrize(
    "vectors",
    [host_vectors("fp32"), IF_BF16, IF_MATRICES, IF_NARROW],
    ids=["fp32", "bf16", "matrices", "narrow"],
)


class Branches(nn.Module):
    """Values that several layers see, with and without ReLU, and a sum that no norm takes over."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.left = nn.Conv2d(6, 6, 3, padding=1)
        self.right = nn.Conv2d(6, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(2)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        trunk = functional.relu(self.stem(images))
        left, right = self.left(trunk), self.right(trunk)
        both = functional.relu(left + right)
        more = self.norm(left) + both + trunk
        return self.head(torch.flatten(self.mean(self.pool(functional.relu(more))) + self.mean(more), 1))


def branches(shape: Shape, num_classes: int) -> nn.Module:
    return Branches()


def test_channels_share_a_register_where_samples_fill_it_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bptcnn.inner.layout.host_simd", lambda: Simd(16, 32, bf16=True))
    chosen = {batch: host_vectors("fp32", batch).width for batch in (128, 32, 20, 16, 8, 7, 4, 2, 1)}
    assert chosen == {128: 16, 32: 16, 20: 8, 16: 16, 8: 8, 7: 8, 4: 4, 2: 2, 1: 2}
    chosen = {batch: host_vectors("bf16", batch).width for batch in (128, 64, 40, 16, 8, 7, 4, 1)}
    assert chosen == {128: 32, 64: 32, 40: 16, 16: 16, 8: 8, 7: 8, 4: 4, 1: 4}


def test_columns_share_a_matrix_where_samples_fill_it_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bptcnn.inner.layout.host_simd", lambda: Simd(16, 32, bf16=True, tiles=True))
    monkeypatch.setattr("bptcnn.inner.layout.granted", lambda: True)
    layers = graph(a_network(zoo("resnet8"), (3, 8, 8)), Plane(3, 8, 8))
    chosen = {batch: vectors_for(layers, "bf16", batch) for batch in (128, 32, 24, 16, 12, 8, 4, 1)}
    assert all(vectors.matrices for vectors in chosen.values())
    widths = {batch: vectors.width for batch, vectors in chosen.items()}
    assert widths == {128: 32, 32: 32, 24: 8, 16: 16, 12: 4, 8: 8, 4: 4, 1: 4}


@pytest.mark.parametrize(
    ("bf16", "tiles", "chosen"), [(True, False, "bf16"), (True, True, "fp32"), (False, False, "fp32")]
)
def test_numbers_are_float32_where_bfloat16_is_no_faster(
    bf16: bool, tiles: bool, chosen: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bptcnn.inner.layout.host_simd", lambda: Simd(16, 32, bf16=bf16, tiles=tiles))
    monkeypatch.setattr("bptcnn.inner.layout.granted", lambda: True)
    layers = graph(a_network(zoo("lenet5"), (1, 16, 16)), Plane(1, 16, 16))
    for batch in (128, 4):
        assert vectors_for(layers, "bf16", batch) == host_vectors(chosen, batch)
        assert vectors_for(layers, "fp32", batch) == host_vectors("fp32", batch)


def odd(shape: Shape, num_classes: int) -> nn.Module:
    """No layer's channels, nor the outputs, fall into pairs."""
    first, second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 7, 3)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(63, 5))


def zoo(name: str) -> Callable[[Shape, int], nn.Module]:
    return lambda shape, num_classes: build(ModelConfig(name=name), shape, num_classes, seed=3)


def a_network(make: Callable[[Shape, int], nn.Module], shape: Shape) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = make(shape, 4).train()
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # chance has tests of its own
    return network


def a_batch(shape: Shape, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=numbers), torch.randint(0, 4, (count,), generator=numbers)


def gradients(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]


def errors(network: nn.Module, exact: nn.Module) -> list[float]:
    pairs = zip(network.parameters(), exact.parameters(), strict=True)
    return [float((p.grad.double() - q.grad).norm() / (q.grad.norm() + 1e-12)) for p, q in pairs]


CASES = [
    pytest.param(zoo("lenet5"), (1, 16, 16), 32, id="lenet5"),
    pytest.param(zoo("easgd-cifar"), (3, 24, 24), 20, id="easgd-cifar, ragged"),
    pytest.param(zoo("resnet8"), (3, 16, 16), 32, id="resnet8"),
    pytest.param(zoo("resnet8"), (1, 8, 8), 7, id="resnet8, less than a block"),
    pytest.param(zoo("resnet18"), (3, 8, 8), 20, id="resnet18, ragged"),
    pytest.param(branches, (2, 6, 6), 32, id="branches"),
    pytest.param(zoo("lenet5"), (1, 12, 12), 1, id="lenet5, one sample"),
    pytest.param(zoo("resnet18"), (3, 64, 64), 5, id="resnet18 with pooling, few samples"),
]


@pytest.mark.parametrize(("make", "shape", "count"), CASES)
def test_loss_scores_gradients_and_statistics_are_exact(
    make: Callable[[Shape, int], nn.Module], shape: Shape, count: int
) -> None:
    network = a_network(make, shape)
    single, exact = copy.deepcopy(network), copy.deepcopy(network).double()
    images, labels = a_batch(shape, count)
    loss, scores = Compiled(network, shape, count, LANES)(images, labels, functional.cross_entropy)
    functional.cross_entropy(single(images), labels).backward()
    expected = exact(images.double())
    functional.cross_entropy(expected, labels).backward()
    assert float(loss) == pytest.approx(float(functional.cross_entropy(expected, labels).detach()), rel=1e-5)
    torch.testing.assert_close(scores.double(), expected.detach(), rtol=1e-4, atol=1e-5)
    # Where a number is so near ReLU's corner that rounding decides, PyTorch's own float32 is as far off.
    assert max(errors(network, exact)) <= max(1e-5, 4 * max(errors(single, exact)))
    for name, value in exact.named_buffers():
        torch.testing.assert_close(network.get_buffer(name).double(), value.double(), rtol=1e-5, atol=1e-6)


BATCHES = 10


@needs_bf16
@pytest.mark.parametrize(
    ("make", "shape", "count"),
    [
        pytest.param(odd, (1, 8, 8), 32, id="odd"),
        pytest.param(zoo("resnet8"), (3, 8, 8), 39, id="resnet8, ragged"),
        pytest.param(branches, (2, 6, 6), 32, id="branches"),
        pytest.param(branches, (2, 6, 6), 7, id="branches, few samples"),
        pytest.param(zoo("resnet8"), (3, 8, 8), 3, id="resnet8, few samples"),
    ],
)
def test_bfloat16_is_on_average_no_further_off_than_under_autocast(
    make: Callable[[Shape, int], nn.Module], shape: Shape, count: int
) -> None:
    network = a_network(make, shape)
    other, exact = copy.deepcopy(network), copy.deepcopy(network).double()
    chosen = vectors_for(graph(network, Plane(*shape)), "bf16", count)
    vectors = chosen if chosen.bf16 else host_vectors("bf16", count)
    ways: list[tuple[nn.Module, Gradients, dict[str, float]]] = [
        (network, Compiled(network, shape, count, LANES, vectors), defaultdict(float)),
        (other, Eager(other, "bf16"), defaultdict(float)),
    ]
    for seed in range(BATCHES):
        images, labels = a_batch(shape, count, seed)
        exact.zero_grad()
        with one_thread():
            expected = exact(images.double())
            exact_loss = functional.cross_entropy(expected, labels)
            exact_loss.backward()
            made = [way(images, labels, functional.cross_entropy) for _, way, _ in ways]
        for (module, _, off), (loss, scores) in zip(ways, made, strict=True):
            assert scores.dtype == torch.float32
            off["loss"] += abs(float(loss) - exact_loss.item()) / BATCHES
            off["scores"] += float((scores - expected.detach()).norm() / expected.detach().norm()) / BATCHES
            for (name, _), one in zip(exact.named_parameters(), errors(module, exact), strict=True):
                off[name] += one / BATCHES
    for module, _, off in ways:
        for name, value in exact.named_buffers():
            off[name] = float((module.get_buffer(name) - value).double().norm() / value.double().norm())
    (_, _, mine), (_, _, theirs) = ways
    # Ten other sets of weights and batches gave gradients and scores 0.8 to 1.4 times as far off as autocast's.
    assert {name: off for name, off in mine.items() if not off <= 1.5 * theirs[name] + 1e-3} == {}


@pytest.mark.parametrize(
    "vectors",
    [Vectors(4, 32), Vectors(8, 32), Vectors(16, 32), GROUPS[0], IF_BF16, IF_BF16_GROUPS],
    ids=["4", "8", "16", "4 in groups", "bf16", "bf16 in groups"],
)
@pytest.mark.parametrize("num_lanes", [1, 3, 6])
def test_every_lane_count_gives_the_same_bits(vectors: Vectors, num_lanes: int) -> None:
    network = a_network(zoo("resnet8"), (3, 8, 8))
    count = 19 if vectors.width < 32 else 39
    batch = a_batch((3, 8, 8), count)
    alone, together = copy.deepcopy(network), copy.deepcopy(network)
    Compiled(alone, (3, 8, 8), count, Lanes(1), vectors)(*batch, functional.cross_entropy)
    compiled = Compiled(together, (3, 8, 8), count, Lanes(num_lanes), vectors)
    compiled(*batch, functional.cross_entropy)
    for mine, other in zip(gradients(alone), gradients(together), strict=True):
        assert torch.equal(mine, other)
    first = gradients(together)
    for layer in (together, alone):
        layer.load_state_dict(network.state_dict())  # the statistics
    for _ in range(5):
        compiled(*batch, functional.cross_entropy)
        assert all(map(torch.equal, gradients(together), first))


@each_precision
def test_smaller_batches_run_in_the_same_code_and_leave_nothing_behind(vectors: Vectors) -> None:
    network = a_network(zoo("resnet8"), (3, 8, 8))
    compiled = Compiled(network, (3, 8, 8), 40, LANES, vectors)
    for count in (40, 17, 3, 33, 40):
        fresh = copy.deepcopy(network)
        batch = a_batch((3, 8, 8), count, seed=count)
        compiled(*batch, functional.cross_entropy)
        Compiled(fresh, (3, 8, 8), count, LANES, vectors)(*batch, functional.cross_entropy)
        for mine, other in zip(gradients(network), gradients(fresh), strict=True):
            assert torch.equal(mine, other)


def test_images_of_any_layout_and_type_are_taken() -> None:
    network = a_network(zoo("lenet5"), (3, 16, 16))
    compiled = Compiled(network, (3, 16, 16), 32, LANES)
    images, labels = a_batch((3, 16, 16), 32)
    expected, _ = compiled(images, labels, functional.cross_entropy)
    for other in (images.contiguous(memory_format=torch.channels_last), images.double(), images.flip(0).flip(0)):
        loss, _ = compiled(other, labels, functional.cross_entropy)
        assert float(loss) == float(expected)


@each_precision
def test_weights_that_were_replaced_are_found_again(vectors: Vectors) -> None:
    network = a_network(zoo("lenet5"), (1, 12, 12))
    compiled = Compiled(network, (1, 12, 12), 16, LANES, vectors)
    batch = a_batch((1, 12, 12), 16)
    before, _ = compiled(*batch, functional.cross_entropy)
    for parameter in network.parameters():
        parameter.data = parameter.data * 0.5
        parameter.grad = None
    loss, _ = compiled(*batch, functional.cross_entropy)
    reference = copy.deepcopy(network)
    expected = functional.cross_entropy(reference(batch[0]), batch[1]).detach()
    near = pytest.approx(float(expected), rel=tolerance(vectors, 1e-5))
    assert float(loss) == near != pytest.approx(float(before), rel=1e-2)
    assert all(parameter.grad is not None for parameter in network.parameters())


@each_precision
def test_weights_that_were_changed_are_those_of_the_next_step(vectors: Vectors) -> None:
    network = a_network(zoo("lenet5"), (1, 12, 12))
    compiled, batch = Compiled(network, (1, 12, 12), 16, LANES, vectors), a_batch((1, 12, 12), 16)
    compiled(*batch, functional.cross_entropy)
    for parameter in network.parameters():
        parameter.data *= 0.5
    fresh = copy.deepcopy(network)
    _, scores = compiled(*batch, functional.cross_entropy)
    _, expected = Compiled(fresh, (1, 12, 12), 16, LANES, vectors)(*batch, functional.cross_entropy)
    assert torch.equal(scores, expected)
    assert all(map(torch.equal, gradients(network), gradients(fresh)))


@needs_bf16
def test_nothing_goes_back_or_moves_before_the_tables_of_weights_are_made() -> None:
    compiled = Compiled(a_network(zoo("resnet8"), (3, 8, 8)), (3, 8, 8), 64, Lanes(3), BF16)
    (whole,) = compiled.passes
    before: list[set[int]] = []
    for task in whole.program.tasks:  # each comes behind those that it comes after
        before.append(set(task.after).union(*(before[number] for number in task.after)))
    made = {task.id for task in whole.program.tasks if task.layer == "weights"}
    late = [task.id for task in whole.program.tasks if task.kind in (Kind.BACKWARD_DATA, Kind.BACKWARD_WEIGHT)]
    assert len(made) > 3  # of each lane, for both passes
    assert all(made <= before[task] for task in late)


def test_gradients_of_weights_fill_gaps_while_the_last_blocks_go_back_through_long_layers() -> None:
    def step(num_lanes: int) -> tuple[set[int], set[int]]:
        compiled = Compiled(a_network(zoo("lenet5"), (3, 32, 32)), (3, 32, 32), 64, Lanes(num_lanes), Vectors(8, 16))
        tasks = compiled.passes[0].program.tasks
        back = {task.id for task in tasks if task.kind is Kind.BACKWARD_DATA}
        (dense,) = {task.after for task in tasks if task.kind is Kind.BACKWARD_WEIGHT and task.layer == "conv 5"}
        return back, set(dense)

    back, before = step(num_lanes=2)
    assert len(back - before) == 8  # of each block, the way through both convolutions
    back, before = step(num_lanes=1)
    assert back <= before  # who works alone has no gaps


@each_precision
def test_frozen_weights_change_nothing_for_the_others(vectors: Vectors) -> None:
    network, batch = a_network(zoo("lenet5"), (1, 12, 12)), a_batch((1, 12, 12), 16)
    whole = copy.deepcopy(network)
    names = {name for place, (name, _) in enumerate(network.named_parameters()) if place in (0, 4, 5)}
    for name in names:
        network.get_parameter(name).requires_grad_(False)
    for module in (network, whole):
        Compiled(module, (1, 12, 12), 16, LANES, vectors)(*batch, functional.cross_entropy)
    moved = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert moved.keys() == dict(network.named_parameters()).keys() - names
    assert all(torch.equal(gradient, whole.get_parameter(name).grad) for name, gradient in moved.items())


FROZEN = [
    pytest.param(zoo("lenet5"), (1, 16, 16), ["0.*"], id="lenet5, convolutions"),
    pytest.param(zoo("lenet5"), (1, 16, 16), ["1.*"], id="lenet5, dense layers"),
    pytest.param(zoo("lenet5"), (1, 16, 16), ["*.bias", "0.0.*"], id="lenet5, biases"),
    pytest.param(zoo("resnet8"), (3, 8, 8), ["0.*", "1.0.*"], id="resnet8, the first layers"),
    pytest.param(zoo("resnet8"), (3, 8, 8), ["*.residual.[14].*"], id="resnet8, norms between what trains"),
    pytest.param(zoo("resnet8"), (3, 8, 8), ["0.1.weight", "1.1.*"], id="resnet8, half a norm, and in the middle"),
    pytest.param(branches, (2, 6, 6), ["stem.*", "left.*"], id="branches, one of two ways"),
    pytest.param(branches, (2, 6, 6), ["stem.*", "norm.*", "head.*"], id="branches, around what trains"),
    pytest.param(branches, (2, 6, 6), ["stem.*", "left.*", "right.*"], id="branches, a norm that sees no gradient"),
]


def frozen_network(make: Callable[[Shape, int], nn.Module], shape: Shape, patterns: list[str]) -> nn.Module:
    """A network as a worker trains it: its norms have seen data, those that are frozen keep what they saw."""
    network = a_network(make, shape)
    numbers = torch.Generator().manual_seed(4)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(generator=numbers)
            layer.running_var.uniform_(0.5, 2, generator=numbers)
            layer.weight.data.uniform_(0.5, 2, generator=numbers)
    freeze(network, patterns)
    FlatModel(network).train()
    return network


@pytest.mark.parametrize(("make", "shape", "patterns"), FROZEN)
def test_what_trains_beside_frozen_layers_has_the_exact_gradient(
    make: Callable[[Shape, int], nn.Module], shape: Shape, patterns: list[str]
) -> None:
    network = frozen_network(make, shape, patterns)
    exact = copy.deepcopy(network).double().requires_grad_(False)
    for name, parameter in network.named_parameters():
        exact.get_parameter(name).grad = None
        exact.get_parameter(name).requires_grad_(parameter.requires_grad)
    images, labels = a_batch(shape, 31)
    loss, _ = Compiled(network, shape, 31, LANES)(images, labels, functional.cross_entropy)
    expected = functional.cross_entropy(exact(images.double()), labels)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in network.named_parameters():
        gradient = exact.get_parameter(name).grad
        assert (parameter.grad is None) == (gradient is None) != parameter.requires_grad
        if gradient is not None:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad.double(), gradient, rtol=1e-5, atol=1e-5 * float(gradient.norm()))
    for name, value in exact.named_buffers():
        torch.testing.assert_close(network.get_buffer(name).double(), value.double(), rtol=1e-5, atol=1e-6)


@needs_bf16
def test_frozen_norms_in_bfloat16_are_as_exact_as_it_is() -> None:
    network = frozen_network(branches, (2, 6, 6), ["stem.*", "norm.*"])
    other, batch = copy.deepcopy(network), a_batch((2, 6, 6), 32)
    Compiled(network, (2, 6, 6), 32, LANES, BF16)(*batch, functional.cross_entropy)
    Compiled(other, (2, 6, 6), 32, LANES)(*batch, functional.cross_entropy)
    for mine, exact in zip(gradients(network), gradients(other), strict=True):
        assert float((mine - exact).norm() / exact.norm()) < 0.1


def test_nothing_goes_back_beyond_the_first_layer_that_trains() -> None:
    def goes_back(patterns: list[str]) -> tuple[int, int, int]:
        """Layers with a gradient of the data, or of the weights; and where all chains meet."""
        compiled = Compiled(frozen_network(zoo("resnet8"), (3, 8, 8), patterns), (3, 8, 8), 32, LANES)
        (program,) = (each.program for each in compiled.passes)
        weights = {task.layer for task in program.tasks if task.kind is Kind.BACKWARD_WEIGHT}
        of_first = [calls for calls, block in zip(program.calls, program.blocks, strict=True) if block == 0]
        data = sum(call.kernel.startswith("conv.backward_data(") for calls in of_first for call in calls)
        return data, len(weights), sum(task.kind is Kind.REDUCE for task in program.tasks)

    # Seven convolutions and a dense layer; seven norms meet twice, and all blocks for the loss.
    assert goes_back([]) == (7, 8, 2 * 7 + 1)
    # Of three convolutions nobody asks; the fourth needs no gradient of what they made.
    assert goes_back(["0.*", "1.0.*"]) == (4, 5, 2 * 4 + 1)
    assert goes_back(["0.*", "1.*"]) == (0, 1, 1)
    # Behind what trains, the way goes on; only the weights are left out.
    assert goes_back(["1.1.*"]) == (7, 6, 2 * 5 + 1)


def test_a_layer_that_thaws_is_compiled_anew() -> None:
    network, batch = a_network(zoo("lenet5"), (1, 12, 12)), a_batch((1, 12, 12), 16)
    whole = copy.deepcopy(network)
    freeze(network, ["0.*"])
    compiled = Compiled(network, (1, 12, 12), 16, LANES)
    compiled(*batch, functional.cross_entropy)
    assert network.get_parameter("0.0.weight").grad is None
    network.requires_grad_(True)
    for module, step in ((network, compiled), (whole, Compiled(whole, (1, 12, 12), 16, LANES))):
        step(*batch, functional.cross_entropy)
        assert len(gradients(module)) == 10
    assert all(map(torch.equal, gradients(network), gradients(whole)))


def test_room_for_gradients_is_used_again() -> None:
    compiled = Compiled(a_network(zoo("resnet20"), (3, 16, 16)), (3, 16, 16), 32, LANES)
    sizes = Counter(rows.array.shape[1] for rows in compiled._buffers._rooms)
    assert len(sizes) <= 4
    assert max(sizes.values()) <= 3  # of eight values in each of the three stages


def wide(shape: Shape, num_classes: int) -> nn.Module:
    """Layers so wide that gradients of weights are made by minimal filtering, with norms between them and without."""
    blocks = [(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(4)]
    twice = nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 5, padding=2), nn.ReLU()
    layers = nn.Conv2d(shape[0], 64, 3), *(layer for block in blocks for layer in block), *twice
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


FILTERED = Vectors(8, 16)


def test_sums_that_share_room_are_not_made_at_the_same_time() -> None:
    compiled = Compiled(a_network(wide, (3, 14, 14)), (3, 14, 14), 64, Lanes(3), FILTERED)
    (whole,) = compiled.passes
    before: list[set[int]] = []
    rooms: dict[int, dict[str, list[int]]] = defaultdict(dict)
    for task, calls in zip(whole.program.tasks, whole.program.calls, strict=True):
        before.append(set(task.after).union(*(before[number] for number in task.after)))
        for call in calls:
            if "weight_sums" in call.kernel:
                rooms[call.arguments[0]].setdefault(task.layer, []).append(task.id)
    assert sum(map(len, rooms.values())) == 6  # layers
    assert any(len(layers) > 1 for layers in rooms.values())
    for layers in rooms.values():
        for (_, earlier), (layer, sums) in pairwise(layers.items()):
            made = {task.id for task in whole.program.tasks if task.layer == layer} & set.union(
                *(before[number] for number in sums)
            )
            products = [task for task in made if whole.program.tasks[task].kind is Kind.BACKWARD_WEIGHT]
            assert products
            assert all(before[task].issuperset(earlier) for task in products)


def without_norms(shape: Shape, num_classes: int) -> nn.Module:
    """Long layers of every kind, between which no norm makes all blocks wait."""
    convs = nn.Conv2d(shape[0], 48, 3, stride=2), nn.ReLU(), nn.Conv2d(48, 96, 3, stride=2, padding=1), nn.ReLU()
    more = nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 64, 1), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*convs, *more, nn.Linear(4096, 512), nn.ReLU(), nn.Linear(512, num_classes))


@pytest.mark.parametrize("num_lanes", [1, 3])
@pytest.mark.parametrize("make", [zoo("lenet5"), zoo("easgd-cifar"), zoo("resnet8"), without_norms])
def test_weights_move_when_nobody_reads_them_any_more(make: Callable[[Shape, int], nn.Module], num_lanes: int) -> None:
    network, batch = a_network(make, (3, 32, 32)), a_batch((3, 32, 32), 64)
    compiled = Compiled(network, (3, 32, 32), 64, Lanes(num_lanes), Vectors(8, 16))
    move = SgdOptimizer(torch.optim.SGD(network.parameters(), lr=0.1), network).descent()
    compiled.step(*batch, functional.cross_entropy, move)
    (whole,) = compiled.passes
    before: list[set[int]] = []
    readers, moved = defaultdict[int, set[int]](set), defaultdict[int, list[int]](list)
    for task, calls in zip(whole.program.tasks, whole.program.calls, strict=True):
        before.append(set(task.after).union(*(before[number] for number in task.after)))
        for call in calls:
            if call.kernel.startswith("descent."):
                moved[call.arguments[0]].append(task.id)
            else:
                for number in call.arguments:
                    readers[number].add(task.id)
    for weight in network.parameters():
        assert moved[weight.data_ptr()]
        assert all(before[task] >= readers[weight.data_ptr()] - {task} for task in moved[weight.data_ptr()])


@pytest.mark.parametrize("num_lanes", [1, 3, 6])
def test_wide_layers_have_exact_gradients_and_the_same_bits_each_time(num_lanes: int) -> None:
    network = a_network(wide, (3, 14, 14))
    exact, batch = copy.deepcopy(network).double(), a_batch((3, 14, 14), 13)
    compiled = Compiled(network, (3, 14, 14), 16, Lanes(num_lanes), FILTERED)
    compiled(*batch, functional.cross_entropy)
    functional.cross_entropy(exact(batch[0].double()), batch[1]).backward()
    first = gradients(network)
    off = [float((mine - other).norm()) for mine, other in zip(first, gradients(exact), strict=True)]
    assert max(off) <= 1e-5 * max(float(gradient.norm()) for gradient in first)
    for _ in range(4):
        compiled(*batch, functional.cross_entropy)
        assert all(map(torch.equal, gradients(network), first))


def test_an_equal_network_needs_no_new_code() -> None:
    shape = (1, 12, 12)
    Compiled(a_network(zoo("lenet5"), shape), shape, 16, LANES)
    known = len(library._placed)
    Compiled(a_network(zoo("lenet5"), shape), shape, 16, LANES)
    assert len(library._placed) == known


@each_precision
def test_the_account_of_a_step_names_every_task_and_breaks_no_dependency(vectors: Vectors) -> None:
    network = a_network(zoo("resnet8"), (3, 8, 8))
    compiled = Compiled(network, (3, 8, 8), 64, Lanes(3), vectors)
    compiled(*a_batch((3, 8, 8), 64), functional.cross_entropy)
    tasks, schedule = account(compiled)  # made, it has checked itself
    assert {task.kind for task in tasks} == set(Kind)
    assert schedule.num_lanes == 3
    assert 0 < schedule.balance <= 1
    assert 0 < schedule.makespan_s < 60
    convolutions = sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in network.modules())
    assert len({task.layer for task in tasks if task.kind is Kind.BACKWARD_WEIGHT}) == convolutions
    assert LastStep.of(compiled).drawing == timeline_svg(tasks, schedule, most=BARS)


class Chance(nn.Module):
    """Dropout, and a dense layer that shows what is left."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.scale = nn.Conv2d(64, 64, 1, bias=False)
        self.drop = nn.Dropout(p)
        self.flatten = nn.Flatten()
        nn.init.eye_(self.scale.weight.data.view(64, 64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.flatten(self.drop(self.scale(images)))


@each_precision
def test_dropout_keeps_its_share_scales_it_and_differs_by_sample_and_step(vectors: Vectors) -> None:
    network = Chance(0.25)
    assert any(isinstance(layer, Dropout) for layer in graph(network, Plane(64)))
    compiled = Compiled(network, (64, 1, 1), 512, LANES, vectors)
    images = torch.ones(512, 64, 1, 1)
    torch.manual_seed(7)
    seen = []
    for _ in range(2):
        _, scores = compiled(images, images, lambda scores, _: scores.sum())
        seen.append(scores.clone())
        kept = scores != 0
        assert kept.float().mean().item() == pytest.approx(0.75, abs=0.015)
        assert torch.allclose(scores[kept], torch.tensor(1 / 0.75), rtol=tolerance(vectors, 1e-5))
        assert len({tuple(row.tolist()) for row in kept}) > 500
        # The gradient passes exactly where the numbers did: d sum / d W[o, i] counts the samples that kept o.
        expected = kept.sum(0).float() / 0.75
        found = network.scale.weight.grad[:, 0, 0, 0]
        torch.testing.assert_close(found, expected, rtol=tolerance(vectors, 1e-5), atol=1e-3)
    assert not torch.equal(*seen)
    torch.manual_seed(7)
    assert torch.equal(compiled(images, images, lambda scores, _: scores.sum())[1], seen[0])


def test_blocks_hold_what_the_cores_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bptcnn.inner.layout.host_simd", lambda: Simd(16, 32, bf16=True))
    assert (host_vectors("fp32"), host_vectors("bf16")) == (Vectors(16, 32), BF16)
    monkeypatch.setattr("bptcnn.inner.layout.host_simd", lambda: Simd(16, 32, bf16=False))
    assert host_vectors("fp32") == Vectors(16, 32)
    with pytest.raises(UnsupportedError, match=r"no products of bfloat16"):
        host_vectors("bf16")


def test_lanes_end_when_nobody_holds_them() -> None:
    before = threading.active_count()
    lanes = Lanes(4)
    assert threading.active_count() == before + 3
    helpers = [thread for thread in threading.enumerate() if thread.name == "lane"][-3:]
    del lanes
    for helper in helpers:
        helper.join(timeout=10)
    assert not any(helper.is_alive() for helper in helpers)
