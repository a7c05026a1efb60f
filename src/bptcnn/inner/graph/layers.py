"""A network as a list of layers; neighbours are joined that run as one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from bptcnn.inner.kernels.shape import Plane, Window

IMAGES = 0
"""The value that a step is given."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: it makes value ``out`` from ``inputs``.

    Attributes:
        out: number of the value.
        inputs: numbers of the values that it sees; for :class:`Norm`, a second one is added.
        data: shape of the first.
        shape: of the result.
        relu: negative results become zero.
    """

    out: int
    inputs: tuple[int, ...]
    data: Plane
    shape: Plane
    relu: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Conv(Layer):
    """A convolution; a dense layer is one over maps of one place."""

    module: nn.Conv2d | nn.Linear
    window: Window


@dataclass(frozen=True, slots=True)
class Norm(Layer):
    """Batch normalisation over the whole batch, plus a shortcut if there are two inputs.

    Attributes:
        module: has the weights.
        fixed: it uses the running statistics and leaves them as they are; its weights do not train.
    """

    module: nn.BatchNorm2d
    fixed: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class MaxPool(Layer):
    """The largest of each window."""

    window: Window


@dataclass(frozen=True, slots=True)
class GlobalMean(Layer):
    """The mean of each map."""


@dataclass(frozen=True, slots=True)
class Add(Layer):
    """A sum of two values."""


@dataclass(frozen=True, slots=True)
class Relu(Layer):
    """ReLU where nothing in front of it could take it over."""


@dataclass(frozen=True, slots=True)
class Dropout(Layer):
    """Dropout, seeded by sample."""

    p: float


@dataclass(frozen=True, slots=True)
class Subsample(Layer):
    """Every ``stride``-th place, and new channels of zeros."""

    stride: int


def joined(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Let layers take over what follows them.

    - a sum after batch normalisation becomes its second input;
    - ReLU becomes part of what is in front of it;
    - ReLU before pooling goes behind it, which gives the same and leaves less to do.

    Args:
        layers: in the order of computation.

    Returns:
        Fewer layers that make the same scores.
    """
    merged: list[Layer] = []
    for layer in layers:
        before = {previous.out: previous for previous in merged}
        own = [before[value] for value in layer.inputs if value in before and _uses(layers, value) == 1]
        norms = [norm for norm in own if isinstance(norm, Norm) and norm.inputs[1:] == () and not norm.relu]
        if isinstance(layer, Add) and norms:
            (other,) = (value for value in layer.inputs if value != norms[-1].out)
            merged.remove(norms[-1])
            layer = replace(norms[-1], out=layer.out, inputs=(norms[-1].inputs[0], other))
        elif isinstance(layer, Relu) and own and isinstance(own[0], Conv | Norm | Add | MaxPool):
            merged.remove(own[0])
            layer = replace(own[0], out=layer.out, relu=True)
        elif isinstance(layer, MaxPool) and own and isinstance(own[0], Conv) and own[0].relu:
            merged[merged.index(own[0])] = replace(own[0], relu=False)
            layer = replace(layer, relu=True)
        merged.append(layer)
    return tuple(merged)


def trains(layer: Layer) -> bool:
    """Whether a layer has weights that train."""
    return isinstance(layer, Conv | Norm) and any(weight.requires_grad for weight in layer.module.parameters())


def trained_values(layers: Sequence[Layer]) -> set[int]:
    """The values that have a gradient: something that trains had a part in them.

    Example:
        >>> frozen, window = nn.Linear(4, 3).requires_grad_(False), Window(1, 1)
        >>> body = Conv(1, (IMAGES,), Plane(4), Plane(3), module=frozen, window=window)
        >>> head = Conv(2, (1,), Plane(3), Plane(2), module=nn.Linear(3, 2), window=window)
        >>> trained_values([body, head])
        {2}
    """
    values: set[int] = set()
    for layer in layers:
        if trains(layer) or not values.isdisjoint(layer.inputs):
            values.add(layer.out)
    return values


def products(layers: Sequence[Layer]) -> int:
    """Multiplications of a forward pass, per sample.

    Example:
        >>> products([Conv(1, (IMAGES,), Plane(4), Plane(3), module=nn.Linear(4, 3), window=Window(1, 1))])
        12
    """
    return sum(layer.shape.area * layer.module.weight.numel() for layer in layers if isinstance(layer, Conv))


def _uses(layers: tuple[Layer, ...], value: int) -> int:
    return sum(layer.inputs.count(value) for layer in layers)
