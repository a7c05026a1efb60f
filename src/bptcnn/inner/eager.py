"""Loss and gradients of a network by PyTorch, layer by layer: for whatever can't be compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from bptcnn.inner.machine.devices import device_of

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Precision = Literal["fp32", "bf16"]


class Eager:
    """A network's forward and backward pass by PyTorch, on its own threads or on a GPU.

    Args:
        module: the network; gradients are written to its parameters' ``grad``.
        precision: ``bf16`` runs both passes under autocast; weights stay float32.
        channels_last: lay images out with their channels innermost, which the library's convolutions like better.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> eager = Eager(net)
        >>> loss, scores = eager(torch.ones(3, 1, 2, 2), torch.tensor([0, 1, 1]), nn.functional.cross_entropy)
        >>> scores.shape
        torch.Size([3, 2])
    """

    def __init__(self, module: nn.Module, precision: Precision = "fp32", *, channels_last: bool = False) -> None:
        self._module = module
        self._bf16 = precision == "bf16"
        self._channels_last = channels_last

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute loss and gradients.

        Args:
            images: a batch; moved to where the weights are if that is a GPU.
            labels: whatever ``loss`` takes; likewise.
            loss: of scores and labels.

        Returns:
            The loss, and the scores in float32.
        """
        device = device_of(self._module)
        if device.type != "cpu":  # from pinned memory, this returns at once
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if self._channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        for parameter in self._module.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        # Weights that are kept in bf16 between two forward passes would be old ones in a recorded step.
        keep = None if device.type == "cpu" else False
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._bf16, cache_enabled=keep):
            scores = self._module(images).float()
        value = loss(scores, labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach(), scores.detach()
