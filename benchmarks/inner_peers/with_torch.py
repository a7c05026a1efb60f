"""PyTorch's contenders, and ours, which has PyTorch's interface."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from bptcnn.inner.machine.memory import keep_memory
from bptcnn.models import ModelConfig, build
from inner_peers.case import LR, MOMENTUM, NUM_CLASSES, SEED, WEIGHT_DECAY, CannotRunError, Setup


class Runner:
    """A network that trains as a user of PyTorch writes it, or by our step.

    Args:
        setup: which of the contenders, and what it trains.

    Raises:
        CannotRunError: there is no C++ compiler, no such allocator, or no step of ours.
    """

    def __init__(self, setup: Setup) -> None:
        words = setup.contender.split()
        # Before the first tensor.
        if ("alloc" in words or "ours" in words) and not keep_memory() and "alloc" in words:
            raise CannotRunError("this C library's allocator cannot be told to keep memory")
        self.version = torch.__version__
        torch.set_num_threads(len(setup.cores))
        case = setup.case
        layout = torch.channels_last if "channels_last" in words else torch.contiguous_format
        model = build(ModelConfig(name=case.model), case.shape, NUM_CLASSES, SEED)
        model.to(memory_format=layout)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(
            model.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
        )
        batches = [
            (torch.from_numpy(images).to(memory_format=layout), torch.from_numpy(labels))
            for images, labels in case.batches()
        ]
        self._batches = itertools.cycle(batches)
        torch.manual_seed(SEED)  # of the dropout
        self._step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor | float]
        if "ours" in words:
            self._step = our_step(model, optimizer, batches[0], case.precision)
        else:
            module = compiled(model) if "compile" in words else model
            self._step = EagerStep(module, optimizer, case.precision)

    def run(self, num_steps: int) -> float:
        """Do so many steps; the loss of the last."""
        for images, labels in itertools.islice(self._batches, num_steps):
            loss = self._step(images, labels)
        return float(loss)


class EagerStep:
    """The step that every tutorial shows.

    Args:
        model: may be compiled.
        optimizer: of its weights.
        precision: ``bf16`` runs the forward pass under autocast.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, precision: str) -> None:
        self._model = model
        self._optimizer = optimizer
        self._autocast = precision == "bf16"

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Do one step; its loss."""
        self._optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._autocast):
            loss = functional.cross_entropy(self._model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()


def compiled(model: nn.Module) -> nn.Module:
    """Compile a network, if there is what that takes."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise CannotRunError(f"no C++ compiler: {compiler!r} is not on the path, and CXX names no other")
    module = torch.compile(model)
    assert isinstance(module, nn.Module)
    return module


def our_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[torch.Tensor, torch.Tensor], precision: str
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor | float]:
    """Our step, as a worker does it."""
    try:
        from bptcnn.inner import TrainStep  # the peers' processes do not carry it
    except ImportError as error:
        raise CannotRunError("bptcnn.inner has no TrainStep") from error
    step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor | float]
    step = TrainStep(model, functional.cross_entropy, optimizer, batch, precision=precision)
    return step
