"""A user's optimizer: the same rule and state, in one kernel."""

from __future__ import annotations

from typing import Any

import torch

from bptcnn.inner.descent import is_watched

UNUSUAL = ("maximize", "differentiable", "capturable")
"""Options of an optimizer that somebody chose with care."""

KNOWN = ("cpu", "cuda")
"""Kinds of devices with such kernels."""


def fuse(optimizer: torch.optim.Optimizer) -> bool:
    """Let an optimizer of PyTorch move all weights in one kernel.

    By default it goes through all weights once for each operation of its rule. Left alone is whatever somebody chose
    with care: hooks, classes of their own, options such as ``foreach``, weights on neither CPU nor GPU.

    Args:
        optimizer: may be anything.

    Returns:
        Whether it was changed.

    Example:
        >>> weights = [torch.zeros(2, requires_grad=True)]
        >>> fuse(torch.optim.SGD(weights)), fuse(torch.optim.SGD(weights, foreach=True))
        (True, False)
    """
    if type(optimizer) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW) or is_watched(optimizer):
        return False
    groups: list[dict[str, Any]] = optimizer.param_groups
    states = [(weight, optimizer.state.get(weight, {})) for group in groups for weight in group["params"]]
    if not all(map(_is_plain, groups)) or not all(_can_be_fused(weight, state) for weight, state in states):
        return False
    for group in groups:
        group["fused"] = True
    for weight, state in states:
        if isinstance(state.get("step"), torch.Tensor):  # the kernel itself counts Adam's steps
            state["step"] = state["step"].to(weight.device, torch.float32)
    return True


def _is_plain(group: dict[str, Any]) -> bool:
    """Whether nobody chose a way, or options that the fused one may not know."""
    chosen = any(group.get(name) is not None for name in ("foreach", "fused"))
    return not chosen and not any(group.get(name) for name in UNUSUAL) and isinstance(group["lr"], float | int)


def _can_be_fused(weight: torch.Tensor, state: dict[str, Any]) -> bool:
    """Whether there is a kernel for it, and weight, gradient and state lie alike: it goes through them at once."""
    tensors = (weight.grad, *state.values())
    alike = all(
        tensor.stride() == weight.stride()
        for tensor in tensors
        if isinstance(tensor, torch.Tensor) and tensor.shape == weight.shape
    )
    return weight.device.type in KNOWN and weight.is_floating_point() and alike
