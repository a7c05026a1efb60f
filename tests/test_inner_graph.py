"""Networks as lists of layers: what is read, what is joined, what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from bptcnn.errors import UnsupportedError
from bptcnn.inner.graph.layers import (
    IMAGES,
    Add,
    Conv,
    Dropout,
    GlobalMean,
    Layer,
    MaxPool,
    Norm,
    Relu,
    Subsample,
)
from bptcnn.inner.graph.reader import graph
from bptcnn.inner.kernels.shape import Plane
from bptcnn.models import ModelConfig, build

SHAPE = Plane(3, 8, 8)
SCORES = Plane(10)


class Net(nn.Module):
    """A network of some layers and what is computed with them."""

    def __init__(self, compute: Callable[..., object], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.compute = compute

    def forward(self, images: torch.Tensor) -> object:
        return self.compute(images, *self.layers)


def conv(inputs: int = 3, outputs: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def norm() -> nn.BatchNorm2d:
    """Batch normalisation that changes something in evaluation, too."""
    module = nn.BatchNorm2d(3)
    for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 2.0)
    return module


def words(layers: tuple[Layer, ...]) -> list[str]:
    """Each layer's kind, with what it took over."""
    return [
        type(layer).__name__
        + "+add" * (isinstance(layer, Norm) and len(layer.inputs) == 2)
        + "+relu" * (layer.relu and not isinstance(layer, Relu))
        for layer in layers
    ]


def evaluated(layers: tuple[Layer, ...], images: torch.Tensor) -> torch.Tensor:
    """What the layers make, by PyTorch, in evaluation."""
    values = {IMAGES: images}
    for layer in layers:
        first, *more = (values[value] for value in layer.inputs)
        first = first.reshape(len(first), layer.data.channels, layer.data.rows, layer.data.columns)
        if isinstance(layer, Conv):
            weight = layer.module.weight
            weight = weight[..., None, None] if weight.ndim == 2 else weight
            window = layer.window
            result = functional.conv2d(first, weight, layer.module.bias, window.stride, window.padding)
        elif isinstance(layer, Norm):
            result = layer.module(first) + sum(more)
        elif isinstance(layer, Add):
            result = first + more[0].reshape(first.shape)
        elif isinstance(layer, MaxPool):
            seen = layer.window
            result = functional.max_pool2d(first, (seen.rows, seen.columns), seen.stride, seen.padding)
        elif isinstance(layer, GlobalMean):
            result = functional.adaptive_avg_pool2d(first, 1)
        elif isinstance(layer, Subsample):
            result = functional.pad(
                first[:, :, :: layer.stride, :: layer.stride],
                (0, 0, 0, 0, 0, layer.shape.channels - layer.data.channels),
            )
        else:
            assert isinstance(layer, Relu | Dropout)
            result = first
        assert result.shape[1:] == (layer.shape.channels, layer.shape.rows, layer.shape.columns)
        values[layer.out] = result.relu() if layer.relu else result
    return values[layers[-1].out].flatten(1)


def flat(module: nn.Module) -> nn.Module:
    """A network that ends as one must, in a table of scores."""
    return nn.Sequential(module, nn.Flatten())


def same(module: nn.Module, shape: Plane = SHAPE) -> tuple[Layer, ...]:
    """The layers of a network, after a look whether they make the same."""
    module = flat(module).double().eval()
    images = torch.randn(2, shape.channels, shape.rows, shape.columns, dtype=torch.float64)
    layers = graph(module, shape)
    assert torch.allclose(evaluated(layers, images), module(images).flatten(1), rtol=1e-9, atol=1e-9)
    return layers


# ------------------------------------------------------------------------------------------------ networks of the zoo

CLASSIC = ["Conv", "MaxPool+relu", "Conv", "MaxPool+relu"]
STEM = ["Conv", "Norm+relu"]
EQUAL = ["Conv", "Norm+relu", "Conv", "Norm+add+relu"]
PADDED = ["Conv", "Norm+relu", "Conv", "Subsample", "Norm+add+relu"]
PROJECTED = ["Conv", "Norm+relu", "Conv", "Norm", "Conv", "Norm+add+relu"]
HEAD = ["GlobalMean", "Conv"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lenet5", [*CLASSIC, "Conv+relu", "Conv+relu", "Conv"]),
        ("easgd-cifar", [*CLASSIC, "Conv+relu", "Conv+relu", "Dropout", "Conv"]),
        ("resnet8", [*STEM, *EQUAL, *PADDED, *PADDED, *HEAD]),
        ("resnet20", [*STEM, *EQUAL * 3, *PADDED, *EQUAL * 2, *PADDED, *EQUAL * 2, *HEAD]),
        ("resnet18", [*STEM, *EQUAL * 2, *(PROJECTED + EQUAL) * 3, *HEAD]),
    ],
)
def test_a_network_of_the_zoo_becomes_these_layers(name: str, expected: list[str]) -> None:
    module = build(ModelConfig(name=name), (3, 32, 32), 10, seed=0)
    layers = same(module, Plane(3, 32, 32))
    assert words(layers) == expected
    assert layers[-1].shape == SCORES
    made = {IMAGES}
    for layer in layers:
        assert made.issuperset(layer.inputs)
        made.add(layer.out)


# ------------------------------------------------------------------------------------------------ joining


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Sequential(conv(), nn.ReLU()), ["Conv+relu"]),
        (nn.Sequential(conv(), nn.ReLU(inplace=True), nn.ReLU()), ["Conv+relu"]),
        (nn.Sequential(conv(), norm(), nn.ReLU()), ["Conv", "Norm+relu"]),
        (nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2)), ["Conv", "MaxPool+relu"]),
        (nn.Sequential(conv(), nn.MaxPool2d(2), nn.ReLU()), ["Conv", "MaxPool+relu"]),
        (nn.Sequential(norm(), nn.ReLU(), nn.MaxPool2d(2)), ["Norm+relu", "MaxPool"]),
        (nn.Sequential(nn.ReLU(), conv()), ["Relu", "Conv"]),
        (nn.Sequential(conv(), nn.Dropout(0.5), nn.ReLU()), ["Conv", "Dropout", "Relu"]),
        (nn.Sequential(conv(), nn.Identity(), nn.Flatten(), nn.ReLU()), ["Conv+relu"]),
        (Net(lambda x, a: functional.relu(torch.flatten(a(x), 1)), conv()), ["Conv+relu"]),
        (Net(lambda x, a: a(x).relu().flatten(1), conv()), ["Conv+relu"]),
        (Net(lambda x, a: torch.relu(torch.add(a(x), x)), conv()), ["Conv", "Add+relu"]),
        (Net(lambda x, a: x + a(x), norm()), ["Norm+add"]),
        (Net(lambda x, a: a(x) + x, norm()), ["Norm+add"]),
        (Net(lambda x, a, b: a(x) + b(x), norm(), norm()), ["Norm", "Norm+add"]),
        (Net(lambda x, a: a(x).relu() + x, norm()), ["Norm+relu", "Add"]),
    ],
)  # fmt: skip
def test_layers_take_over_what_follows_them(module: nn.Module, expected: list[str]) -> None:
    assert words(same(module)) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Net(lambda x, a: (y := a(x)).relu() + y, conv()), ["Conv", "Relu", "Add"]),
        (Net(lambda x, a, p: (y := a(x).relu()) + p(y), conv(), nn.MaxPool2d(1)), ["Conv+relu", "MaxPool", "Add"]),
        (Net(lambda x, a: (y := a(x)) + y, norm()), ["Norm", "Add"]),
        (Net(lambda x, a, b: b((y := a(x)) + x) + y, norm(), conv()), ["Norm", "Add", "Conv", "Add"]),
    ],
)  # fmt: skip
def test_a_value_that_is_used_twice_stays_as_it_is(module: nn.Module, expected: list[str]) -> None:
    assert words(same(module)) == expected


def test_a_norm_takes_over_one_sum_only() -> None:
    assert words(same(Net(lambda x, a, b: a(x) + x + b(x), norm(), conv()))) == ["Norm+add", "Conv", "Add"]


STEPS = st.tuples(
    st.sampled_from(["conv", "norm", "relu", "pool", "drop", "add"]), st.integers(0, 9), st.integers(0, 9)
)


@settings(max_examples=60)
@given(st.lists(STEPS, min_size=1, max_size=9))
def test_whatever_is_joined_makes_the_same(steps: list[tuple[str, int, int]]) -> None:
    makers: dict[str, Callable[[], nn.Module]] = {
        "conv": conv,
        "norm": norm,
        "relu": nn.ReLU,
        "pool": lambda: nn.MaxPool2d(1),
        "drop": nn.Dropout,
    }
    layers = [makers.get(kind, nn.Identity)() for kind, _, _ in steps]

    def compute(images: torch.Tensor, *modules: nn.Module) -> torch.Tensor:
        values, unused = [images], {0}
        for (kind, one, other), module in zip(steps, modules, strict=True):
            places = {one % len(values), other % len(values)} if kind == "add" else {one % len(values)}
            first, last = values[one % len(values)], values[other % len(values)]
            values.append(first + last if kind == "add" else module(first))
            unused = unused - places | {len(values) - 1}
        total = images
        for place in sorted(unused):
            total = total + values[place]
        return total

    same(Net(compute, *layers), Plane(3, 3, 4))


# ------------------------------------------------------------------------------------------------ refusals


class Two(nn.Module):
    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return one + other


SECOND = r"layer {}\(.*\) is not compiled"
REFUSED = [
    (nn.Sequential(nn.Conv2d(3, 3, 3, groups=3)), SECOND.format("Conv2d")),
    (nn.Sequential(nn.Conv2d(3, 3, 3, dilation=2)), SECOND.format("Conv2d")),
    (nn.Sequential(nn.Conv2d(3, 3, 3, padding=3)), SECOND.format("Conv2d")),
    (nn.Sequential(nn.Conv2d(3, 3, (1, 3), padding=1)), SECOND.format("Conv2d")),
    (nn.Sequential(nn.Conv2d(3, 3, 3, stride=(1, 2))), SECOND.format("Conv2d")),
    (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")), SECOND.format("Conv2d")),
    (nn.Sequential(nn.ConvTranspose2d(3, 3, 3)), SECOND.format("ConvTranspose2d")),
    (nn.Sequential(nn.MaxPool2d(2, dilation=2)), SECOND.format("MaxPool2d")),
    (nn.Sequential(nn.MaxPool2d(11)), "smaller than its window"),
    (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), SECOND.format("MaxPool2d")),
    (nn.Sequential(nn.MaxPool2d((1, 2))), SECOND.format("MaxPool2d")),
    (nn.Sequential(nn.AdaptiveAvgPool2d(2)), SECOND.format("AdaptiveAvgPool2d")),
    (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), SECOND.format("BatchNorm2d")),
    (nn.Sequential(nn.BatchNorm2d(3, affine=False)), SECOND.format("BatchNorm2d")),
    (nn.Sequential(nn.BatchNorm2d(3, momentum=None)), SECOND.format("BatchNorm2d")),
    (nn.Sequential(nn.LayerNorm(8)), SECOND.format("LayerNorm")),
    (nn.Sequential(nn.Dropout(1.0)), SECOND.format("Dropout")),
    (nn.Sequential(nn.Flatten(2)), SECOND.format("Flatten")),
    (nn.Sequential(nn.Linear(8, 8)), "not flattened"),
    (nn.Sequential(), "no layers"),
    (nn.Identity(), "no layers|can't be traced|is not compiled"),
    (Two(), "more than one input"),
    (Net(lambda x, a: (a(x), x), conv()), "not one table of scores"),
    (Net(lambda x, a: {"scores": a(x)}, conv()), "not one table of scores"),
    (Net(lambda x, a: a(x) if x.sum() > 0 else x, conv()), "can't be traced"),
    (Net(lambda x, a: a(x)[int(x.shape[0]) :], conv()), "can't be traced"),
    (Net(lambda x, a: torch.sigmoid(a(x)), conv()), "operation .*sigmoid.* is not compiled"),
    (Net(lambda x, a: a(x).view(1, -1), conv()), "operation view is not compiled"),
    (Net(lambda x, a: a(x) + 1.0, conv()), "not applied to what a layer made"),
    (Net(lambda x, a: torch.add(a(x), x, alpha=2), conv()), "operation .*add.* is not compiled"),
    (Net(lambda x, a: a(x) + x, conv(outputs=1)), "different shapes"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "text"), REFUSED, ids=[str(place) for place in range(len(REFUSED))])
def test_what_is_no_layer_known_here_is_refused_by_name(module: nn.Module, text: str) -> None:
    with pytest.raises(UnsupportedError, match=text):
        graph(module, SHAPE)


@pytest.mark.parametrize(
    "module",
    [
        Net(lambda x, a, r: (y := a(x), r(y), y)[1] + y, conv(), nn.ReLU(inplace=True)),
        Net(lambda x, a: (y := a(x), functional.relu(y, inplace=True), y)[1] + y, conv()),
        Net(lambda x, a, d: (y := a(x), d(y), y)[1] + y, conv(), nn.Dropout(0.5, inplace=True)),
    ],
    ids=["module", "function", "dropout"],
)
def test_a_change_in_place_of_a_value_that_is_used_elsewhere_is_refused(module: nn.Module) -> None:
    with pytest.raises(UnsupportedError):
        graph(flat(module), SHAPE)


def test_a_layer_whose_result_nobody_uses_is_left_out_or_refused() -> None:
    module = Net(lambda x, a, b: (a(x), b(x))[1], conv(), conv())
    try:
        layers = graph(flat(module), SHAPE)
    except UnsupportedError:
        return
    assert words(layers) == ["Conv"]


def test_a_layer_that_is_used_twice_is_refused() -> None:
    # Its gradient would be that of its last use alone.
    with pytest.raises(UnsupportedError):
        graph(flat(Net(lambda x, a: a(a(x)), conv())), SHAPE)
