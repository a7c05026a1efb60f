"""From a module to its graph: traced by torch.fx, each step read as a layer, shapes inferred."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx, nn
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
    joined,
)
from bptcnn.inner.kernels.shape import Plane, Window
from bptcnn.models.resnet import PadShortcut


def graph(module: nn.Module, images: Plane) -> tuple[Layer, ...]:
    """Trace a network.

    Args:
        module: the network.
        images: shape of one.

    Returns:
        Its layers in the order of computation; the last makes the scores.

    Raises:
        UnsupportedError: it can't be traced, or holds something that is no layer known here.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(864, 10))
        >>> [type(layer).__name__ for layer in graph(net, Plane(1, 28, 28))]
        ['Conv', 'MaxPool', 'Conv']
    """
    try:
        traced = _Tracer().trace(module)
    except Exception as error:  # the user's code may raise anything when it is traced
        raise UnsupportedError(f"it can't be traced ({error})") from error
    reader = _Reader(module, images)
    for node in traced.nodes:
        reader.read(node)
    return joined(tuple(reader.layers))


class _Tracer(fx.Tracer):
    """Takes layers known here as one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, PadShortcut) or super().is_leaf_module(m, module_qualified_name)


class _Reader:
    """From the nodes of a trace to layers.

    Attributes:
        layers: those read so far.
    """

    def __init__(self, module: nn.Module, images: Plane) -> None:
        self.layers: list[Layer] = []
        self._modules = dict(module.named_modules())
        self._images = images
        self._values: dict[fx.Node, tuple[int, Plane]] = {}
        self._weights: set[int] = set()
        self._count = 0

    def read(self, node: fx.Node) -> None:
        """Take the next node in."""
        if node.op == "placeholder":
            if self._values:
                raise UnsupportedError("it takes more than one input")
            self._values[node] = (IMAGES, self._images)
        elif node.op != "output" and not node.users:
            raise UnsupportedError(f"what {node.target!s} makes is not used")
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node) or self._values[node.args[0]] != (self._count, self._scores()):
                raise UnsupportedError("its output is not one table of scores")
        elif node.op == "call_module":
            self._module(node, self._modules[str(node.target)])
        else:
            self._function(node)

    def _scores(self) -> Plane:
        if not self.layers:
            raise UnsupportedError("it has no layers")
        return Plane(self.layers[-1].shape.size)

    def _of(self, node: fx.Node, place: int = 0) -> tuple[int, Plane]:
        argument = node.args[place] if place < len(node.args) else None
        if not isinstance(argument, fx.Node) or argument not in self._values:
            raise UnsupportedError(f"{node.target!s} is not applied to what a layer made")
        return self._values[argument]

    def _append(self, node: fx.Node, make: Callable[[int], Layer]) -> None:
        layer = make(self._count + 1)
        if min(layer.shape.rows, layer.shape.columns) < 1:
            raise UnsupportedError(f"{node.target!s} sees maps that are smaller than its window")
        self._count += 1
        self.layers.append(layer)
        self._values[node] = (self._count, self.layers[-1].shape)

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        value, data = self._of(node)
        known = type(module) in KNOWN  # a subclass may do something else
        self._check_used_once(module)
        if known and isinstance(module, nn.Conv2d) and _plain(module):
            window = Window(module.kernel_size[0], module.kernel_size[1], module.stride[0], _padding(module))
            shape, of_window = window.outputs(data, module.out_channels), window
            conv = module
            self._append(node, lambda out: Conv(out, (value,), data, shape, module=conv, window=of_window))
        elif known and isinstance(module, nn.Linear):
            if data.area != 1 or data.size != module.in_features:
                raise UnsupportedError(f"a dense layer of {module.in_features} inputs sees maps that are not flattened")
            dense, scores = module, Plane(module.out_features)
            self._append(node, lambda out: Conv(out, (value,), data, scores, module=dense, window=Window(1, 1)))
        elif known and isinstance(module, nn.BatchNorm2d) and _complete(module):
            norm = module
            fixed = not module.training and not any(parameter.requires_grad for parameter in module.parameters())
            self._append(node, lambda out: Norm(out, (value,), data, data, module=norm, fixed=fixed))
        elif known and isinstance(module, nn.ReLU):
            self._check_in_place(node, in_place=module.inplace)
            self._append(node, lambda out: Relu(out, (value,), data, data, relu=True))
        elif known and isinstance(module, nn.MaxPool2d) and _common(module):
            seen = _pooling(module)
            self._append(node, lambda out: MaxPool(out, (value,), data, seen.outputs(data, data.channels), window=seen))
        elif known and isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            self._append(node, lambda out: GlobalMean(out, (value,), data, Plane(data.channels)))
        elif known and isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            self._values[node] = (value, Plane(data.size))
        elif known and isinstance(module, nn.Dropout) and module.p < 1:
            self._check_in_place(node, in_place=module.inplace)
            p = module.p
            self._append(node, lambda out: Dropout(out, (value,), data, data, p=p))
        elif known and isinstance(module, nn.Identity):
            self._values[node] = (value, data)
        elif isinstance(module, PadShortcut):
            step = module.stride
            wider = Plane(data.channels + module.new_channels, -(-data.rows // step), -(-data.columns // step))
            self._append(node, lambda out: Subsample(out, (value,), data, wider, stride=step))
        else:
            raise UnsupportedError(f"layer {module} is not compiled")

    def _check_used_once(self, module: nn.Module) -> None:
        """Weights that two layers share would get the gradient of one."""
        own = {id(parameter) for parameter in module.parameters()}
        if own & self._weights:
            raise UnsupportedError(f"layer {module} is used twice, or shares its weights")
        self._weights |= own
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            raise UnsupportedError(f"layer {module} has hooks")

    def _check_in_place(self, node: fx.Node, *, in_place: bool) -> None:
        if in_place and len(node.all_input_nodes[0].users) > 1:
            raise UnsupportedError(f"{node.target!s} changes in place what another layer sees")

    def _function(self, node: fx.Node) -> None:
        target = node.target
        if target in (operator.add, operator.iadd, torch.add) and len(node.args) == 2 and not node.kwargs:
            (one, data), (other, same) = self._of(node), self._of(node, 1)
            if data != same:
                raise UnsupportedError("a sum of different shapes is not compiled")
            self._append(node, lambda out: Add(out, (one, other), data, data))
        elif target in (functional.relu, torch.relu, "relu"):
            self._check_in_place(node, in_place=bool(node.kwargs.get("inplace") or node.args[1:] == (True,)))
            value, data = self._of(node)
            self._append(node, lambda out: Relu(out, (value,), data, data, relu=True))
        elif target in ("flatten", torch.flatten) and (*node.args[1:], *node.kwargs.values()) == (1,):
            value, data = self._of(node)
            self._values[node] = (value, Plane(data.size))
        else:
            raise UnsupportedError(f"operation {target!s} is not compiled")


KNOWN = (
    *(nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.Flatten, nn.Dropout, nn.Identity),
)
"""Layers that are compiled, or leave nothing to do."""


def _complete(norm: nn.BatchNorm2d) -> bool:
    """Whether batch normalisation has weights and running statistics of the common kind."""
    return norm.affine and norm.track_running_stats and norm.momentum is not None


def _plain(conv: nn.Conv2d) -> bool:
    """Whether a convolution is of the common kind."""
    square = conv.stride[0] == conv.stride[1] and 0 <= _padding(conv) < min(conv.kernel_size)
    return square and conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"


def _padding(conv: nn.Conv2d) -> int:
    """Padding that is the same on all sides; -1 where it is not."""
    if isinstance(conv.padding, str):
        side = _single(conv.kernel_size)
        return 0 if conv.padding == "valid" else (side - 1) // 2 if side % 2 else -1
    return _single(tuple(int(size) for size in conv.padding))


def _common(pool: nn.MaxPool2d) -> bool:
    """Whether pooling is of the common kind."""
    window = _pooling(pool)
    plain = _single(pool.dilation) == 1 and not pool.ceil_mode and not pool.return_indices
    return plain and window.stride > 0 and 0 <= window.padding < min(window.rows, window.columns)


def _pooling(pool: nn.MaxPool2d) -> Window:
    rows, columns = (pool.kernel_size,) * 2 if isinstance(pool.kernel_size, int) else pool.kernel_size
    return Window(rows, columns, _single(pool.stride), _single(pool.padding))


def _single(size: int | tuple[int, ...]) -> int:
    """A side given once or twice; -1 where they differ."""
    if isinstance(size, int):
        return size
    return size[0] if len(set(size)) == 1 else -1
