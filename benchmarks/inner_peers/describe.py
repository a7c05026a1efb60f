"""From a network of the zoo to plain data, with the same weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from bptcnn.models import ModelConfig, build
from bptcnn.models.resnet import Block, PadShortcut
from inner_peers.case import NUM_CLASSES, SEED, Case
from inner_peers.layers import (
    Array,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    Mean,
    Network,
    Norm,
    Pool,
    Relu,
    Residual,
    Subsample,
)


def describe(case: Case) -> Network:
    """Build the case's network as the PyTorch contenders do, and read it.

    Args:
        case: names it.

    Returns:
        Its layers and weights.
    """
    module = build(ModelConfig(name=case.model), case.shape, NUM_CLASSES, SEED)
    reader = Reader(module, case)
    layers = tuple(reader.layers(module, ""))
    # The first layer needs no gradient of its input.
    flop = 2 * (3 * sum(reader.macs) - reader.macs[0])
    return Network(layers, reader.weights, reader.statistics, flop)


class Reader:
    """Reads a network that is made of the zoo's parts.

    Args:
        module: the network.
        case: gives the shape of its images.
    """

    def __init__(self, module: nn.Module, case: Case) -> None:
        self.weights: dict[str, Array] = {}
        self.statistics: dict[str, Array] = {}
        self.macs: list[int] = []
        self._shapes = shapes(module, case.shape)
        # Of what was flattened last, as long as no dense layer has taken it in.
        self._flattened: tuple[int, ...] | None = None

    def layers(self, module: nn.Module, name: str) -> Iterator[Layer]:
        """Read a module that has that name, and note its weights."""
        match module:
            case nn.Sequential():
                for key, child in module.named_children():
                    yield from self.layers(child, f"{name}.{key}")
            case Block():
                body = tuple(self.layers(module.residual, f"{name}.residual"))
                yield Residual(body, tuple(self.layers(module.shortcut, f"{name}.shortcut")))
            case nn.Conv2d():
                self._kernel(module, name, module.weight.permute(2, 3, 1, 0))
                yield Conv(name, module.stride[0], _number(module.padding), module.bias is not None)
            case nn.Linear():
                self._kernel(module, name, self._for_pixels_first(module.weight).T)
                yield Dense(name)
            case nn.BatchNorm2d():
                self.weights |= {f"{name}.scale": _array(module.weight), f"{name}.bias": _array(module.bias)}
                assert module.running_mean is not None
                assert module.running_var is not None
                self.statistics[f"{name}.mean"] = _array(module.running_mean)
                self.statistics[f"{name}.variance"] = _array(module.running_var)
                yield Norm(name, module.momentum or 0.0, module.eps)
            case nn.MaxPool2d():
                yield Pool(_number(module.kernel_size), _number(module.stride), _number(module.padding))
            case nn.Flatten():
                self._flattened = self._shapes[module][0]
                yield Flatten()
            case nn.Dropout():
                yield Dropout(module.p)
            case PadShortcut():
                yield Subsample(module.stride, module.new_channels)
            case nn.ReLU():
                yield Relu()
            case nn.AdaptiveAvgPool2d():
                yield Mean()
            case nn.Identity():
                pass
            case _:
                raise NotImplementedError(f"no plain form of {type(module).__name__}")

    def _kernel(self, module: nn.Conv2d | nn.Linear, name: str, kernel: torch.Tensor) -> None:
        self.weights[f"{name}.kernel"] = _array(kernel)
        if module.bias is not None:
            self.weights[f"{name}.bias"] = _array(module.bias)
        # Every weight is used once for each pixel that comes out.
        pixels = self._shapes[module][1][2:]
        self.macs.append(module.weight.numel() * int(np.prod(pixels)))

    def _for_pixels_first(self, weight: torch.Tensor) -> torch.Tensor:
        """Reorder a linear layer's inputs from flattened CHW to flattened HWC."""
        shape, self._flattened = self._flattened, None
        if shape is None or len(shape) != 4:
            return weight
        return weight.view(-1, *shape[1:]).permute(0, 2, 3, 1).flatten(1)


Shapes = dict[nn.Module, tuple[tuple[int, ...], tuple[int, ...]]]


def shapes(module: nn.Module, shape: tuple[int, int, int]) -> Shapes:
    """Sizes of what goes into each layer and of what comes out, for one image."""
    found: Shapes = {}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        found[layer] = tuple(inputs[0].shape), tuple(output.shape)

    hooks = [layer.register_forward_hook(note) for layer in module.modules()]
    module.eval()
    with torch.no_grad():
        module(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return found


def _number(value: object) -> int:
    """The one size of what is square."""
    number = value[0] if isinstance(value, tuple) else value
    assert isinstance(number, int)
    return number


def _array(tensor: torch.Tensor) -> Array:
    return np.array(tensor.detach().numpy(), np.float32, order="C", copy=True)
