"""Loss and gradients of a network on a GPU, recorded as one CUDA graph."""

from __future__ import annotations

import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import nn

from bptcnn.errors import UnsupportedError
from bptcnn.inner.eager import Eager, Loss, Precision
from bptcnn.inner.machine.devices import device_of

Outcome: TypeAlias = tuple[torch.Tensor, torch.Tensor]

WARM_UP = 3
"""Steps before a recording, in which the libraries choose their kernels and take their memory."""


class Replay(Protocol):
    """A recorded step."""

    def replay(self) -> None:
        """Do it again, on the same memory."""
        ...


class Graphed:
    """A network's forward and backward pass, recorded once and replayed: one launch in place of hundreds.

    Batches of the example's shape are replayed, others are left to PyTorch. What network and loss do in Python is done
    at the recording alone. The gradients stay in the tensors that ``grad`` points to, such as the views of a flat
    model; weights are read where they lie, and a network whose weights were put elsewhere is left to PyTorch too.

    Args:
        module: the network, on a GPU, in the mode in which it is to train; its statistics are as before.
        batch: an example: images and labels, on any device.
        loss: of scores and labels.
        precision: ``bf16`` runs both passes under autocast; weights stay float32.

    Raises:
        UnsupportedError: the step can't be recorded: it waits for the GPU, or draws random numbers elsewhere.
    """

    def __init__(self, module: nn.Module, batch: Outcome, loss: Loss, precision: Precision = "fp32") -> None:
        _refuse_hooks(module, loss)
        self._module, self._loss = module, loss
        # The weights' own layout is left alone: a flat model's must stay views, and an optimizer's state lies alike.
        self._eager = Eager(module, precision, channels_last=True, gradients_stay=True)
        device = device_of(module)
        self._images, self._labels = (tensor.detach().to(device, copy=True) for tensor in batch)
        self._images = self._eager.laid_out(self._images)
        self._gradients = [(p, _gradient(p)) for p in module.parameters() if p.requires_grad]
        before = [(buffer, buffer.clone()) for buffer in module.buffers()]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            chance = _chance()
            try:
                self._graph, (self._value, self._scores) = record(self._step, device)
            except RuntimeError as error:  # that of the recording's end hides what ended it
                reason = str(error.__context__ or error).strip().partition("\n")[0].rstrip(".")
                raise UnsupportedError(f"its step can't be recorded for the GPU ({reason})") from error
            finally:
                for buffer, value in before:
                    buffer.copy_(value)
            if _chance() != chance:
                raise UnsupportedError("it draws random numbers that a recorded step would repeat")
        self._recorded = self._facts()

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss) -> Outcome:
        """Compute loss and gradients.

        Args:
            images: a batch, on any device.
            labels: whatever ``loss`` takes.
            loss: of scores and labels.

        Returns:
            The loss, and the scores in float32.
        """
        alike = _alike(images, self._images) and _alike(labels, self._labels)
        if not alike or loss is not self._loss or self._facts() != self._recorded:
            return self._eager(images, labels, loss)
        self._images.copy_(images, non_blocking=True)
        self._labels.copy_(labels, non_blocking=True)
        self._graph.replay()
        for parameter, own in self._gradients:
            parameter.grad = own  # the user may have cleared it, and an optimizer moves whatever has a gradient
        return self._value.clone(), self._scores.clone()  # the next replay writes over them

    def _step(self) -> Outcome:
        return self._eager(self._images, self._labels, self._loss)

    def _facts(self) -> object:
        """What a recording holds fast: addresses, what trains, and the mode."""
        tensors = chain(self._module.parameters(), self._module.buffers())
        return self._module.training, [(tensor.data_ptr(), tensor.requires_grad) for tensor in tensors]


def record(step: Callable[[], Outcome], device: torch.device) -> tuple[Replay, Outcome]:
    """Record what a step does on a GPU.

    Args:
        step: works on tensors that stay where they are; called a few times.
        device: the GPU.

    Returns:
        The recording, and the tensors that each replay writes its outcome to.

    Raises:
        RuntimeError: the step can't be recorded.

    Source: PyTorch's notes on CUDA semantics, "Whole-network capture".
    """
    if device.type != "cuda":
        raise UnsupportedError(f"its weights are on the {device.type}, not on a GPU")
    graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(here)
    with torch.cuda.device(device), torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            step()
        # A recording that fails leaves PyTorch's allocator and random numbers in disorder: who waits is found here.
        with _waiting_forbidden():
            step()
        # Other threads, such as one that pins batches, may go on with what would end a recording of all threads.
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            outcome = step()
    here.wait_stream(aside)
    return graph, outcome


@contextmanager
def _waiting_forbidden() -> Iterator[None]:
    """Have PyTorch raise a RuntimeError where the CPU would wait for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it does not notice all
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _refuse_hooks(module: nn.Module, loss: Loss) -> None:
    """Hooks are Python: they would be called at the recording and never again."""
    for layer in chain(module.modules(), loss.modules() if isinstance(loss, nn.Module) else ()):
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
            raise UnsupportedError(f"layer {layer} has hooks")
    for name, weight in module.named_parameters():
        if weight._backward_hooks or weight._post_accumulate_grad_hooks:
            raise UnsupportedError(f"weight {name} has hooks")


def _chance() -> bytes:
    """The state of all random numbers that are not drawn on the GPU."""
    return pickle.dumps((random.getstate(), np.random.get_state(), torch.get_rng_state().numpy().tobytes()))


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    """The tensor that its gradient is summed up in."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _alike(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return tensor.shape == other.shape and tensor.dtype == other.dtype
