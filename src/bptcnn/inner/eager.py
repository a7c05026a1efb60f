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
        channels_last: lay images out with their channels innermost, which the library's convolutions like better, if
            the network takes them so.
        gradients_stay: in the tensors that ``grad`` points to; else they may be new ones.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> eager = Eager(net)
        >>> loss, scores = eager(torch.ones(3, 1, 2, 2), torch.tensor([0, 1, 1]), nn.functional.cross_entropy)
        >>> scores.shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        module: nn.Module,
        precision: Precision = "fp32",
        *,
        channels_last: bool = False,
        gradients_stay: bool = False,
    ) -> None:
        self._module, self._gradients_stay = module, gradients_stay
        self._bf16 = precision == "bf16"
        self._channels_last = channels_last
        self._layout: torch.memory_format | None = None

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
        images = self.laid_out(images)
        self._forget_gradients()
        # Weights that are kept in bf16 between two forward passes would be old ones in a recorded step.
        keep = None if device.type == "cpu" else False
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._bf16, cache_enabled=keep):
            scores = self._module(images).float()
        value = loss(scores, labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach(), scores.detach()

    def _forget_gradients(self) -> None:
        """Begin anew: PyTorch hands a gradient over as it made it, but adds it to one that is there, twice the work."""
        for parameter in self._module.parameters():
            if parameter.grad is None:
                continue
            alone = parameter.grad.untyped_storage().nbytes() == parameter.grad.nbytes
            if alone and not self._gradients_stay:
                parameter.grad = None
            else:
                parameter.grad.zero_()

    def laid_out(self, images: torch.Tensor) -> torch.Tensor:
        """Lay images out as suits the network.

        Args:
            images: a batch, where the weights are.

        Returns:
            The same images.
        """
        if not self._channels_last or images.ndim != 4:
            return images
        if self._layout is None:
            fits = takes_channels_last(self._module, images[:2])
            self._layout = torch.channels_last if fits else torch.contiguous_format
        return images.contiguous(memory_format=self._layout)


def takes_channels_last(module: nn.Module, images: torch.Tensor) -> bool:
    """Find out whether a network works on images whose channels lie innermost.

    One that views its activations as vectors (``x.view(len(x), -1)``) does not. A forward pass in evaluation mode
    tells; mode, statistics and random numbers are as before.

    Args:
        module: the network.
        images: a few, where its weights are.

    Returns:
        Whether it does.

    Example:
        >>> class Views(nn.Conv2d):
        ...     def forward(self, images):
        ...         return super().forward(images).view(len(images), -1)
        >>> takes_channels_last(nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8))
        True
        >>> takes_channels_last(Views(3, 4, 3), torch.ones(1, 3, 8, 8))
        False
    """
    training = [part for part in module.modules() if part.training]
    device = device_of(module)
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            module.eval()
            module(images.contiguous(memory_format=torch.channels_last))
    except Exception:  # if it is not the layout's fault, the step itself will say so
        return False
    finally:
        for part in training:
            part.training = True
    return True
