"""A network as plain data, in the layout of TensorFlow and JAX: images NHWC, kernels HWIO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Conv:
    """A convolution: weights ``NAME.kernel`` [H, W, in, out] and perhaps ``NAME.bias``."""

    name: str
    stride: int
    padding: int
    bias: bool


@dataclass(frozen=True)
class Norm:
    """Batch normalisation: weights ``NAME.scale`` and ``NAME.bias``, statistics ``NAME.mean`` and ``NAME.variance``."""

    name: str
    rate: float
    epsilon: float


@dataclass(frozen=True)
class Dense:
    """A linear layer: weights ``NAME.kernel`` [in, out] and ``NAME.bias``."""

    name: str


@dataclass(frozen=True)
class Pool:
    """The maximum over squares."""

    side: int
    stride: int
    padding: int


@dataclass(frozen=True)
class Dropout:
    """Zeros with probability ``rate``, and what is left scaled up."""

    rate: float


@dataclass(frozen=True)
class Subsample:
    """Every ``stride``-th pixel, and zeros for the channels that are new."""

    stride: int
    new_channels: int


@dataclass(frozen=True)
class Residual:
    """``relu(body(x) + shortcut(x))``."""

    body: tuple[Layer, ...]
    shortcut: tuple[Layer, ...]


@dataclass(frozen=True)
class Relu:
    """``max(x, 0)``."""


@dataclass(frozen=True)
class Mean:
    """The mean over all pixels: [B, H, W, C] to [B, C]."""


@dataclass(frozen=True)
class Flatten:
    """[B, H, W, C] to [B, H * W * C]; nothing for what is flat."""


Layer = Conv | Norm | Dense | Pool | Dropout | Subsample | Residual | Relu | Mean | Flatten


@dataclass(frozen=True)
class Network:
    """Layers and what they start from.

    Attributes:
        layers: in order.
        weights: what trains, by name.
        statistics: batch-norm's running mean and variance, by name.
        flop: multiplications and additions that one image costs in training, in convolutions and linear layers: twice
            the multiply-accumulates, for each of forward, gradient of the weights and gradient of the input, the last
            of which the first layer does not need.
    """

    layers: tuple[Layer, ...]
    weights: Mapping[str, Array]
    statistics: Mapping[str, Array]
    flop: int
