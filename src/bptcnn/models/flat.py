"""A network as one flat vector: what workers send, servers merge and checkpoints hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bptcnn.errors import ModelError


class FlatModel:
    """A module whose weights, statistics and gradients lie in two contiguous vectors.

    Every parameter and every floating buffer becomes a *view* into ``vector``, every ``p.grad`` a view into
    ``gradient``: forward, backward and batch-norm's running statistics work in place, and an optimiser, a merge or a
    message is one operation on one vector. Tied parameters are held once; integer buffers are left alone.

    ``vector = [parameters that train | floating buffers that change]``

    What is frozen (``requires_grad=False``) stays where it is and is no part of the vector: nobody needs to send what
    is the same everywhere. Batch normalisation whose parameters are all frozen is frozen as a whole: its statistics are
    no part of the vector either, and :meth:`train` leaves it in evaluation mode.

    Move the module to its device *before* wrapping it; clear gradients with :meth:`zero_grad`, never with
    ``set_to_none``; a layer of your own updates its buffers in place, as batch-norm does.

    Args:
        module: the network; it keeps its own names and its real ``nn.Parameter`` objects.

    Raises:
        ModelError: nothing trains, or something floating is not float32.

    Attributes:
        module: the network itself.
        vector: all that changes, float32 [num_weights].
        trained: the parameters that an optimiser updates.
        parameters_vector: the part that an optimiser updates, a view, float32 [num_parameters].
        gradient: the gradient of ``parameters_vector``, float32 [num_parameters].

    Example:
        >>> flat = FlatModel(nn.Linear(2, 1))
        >>> flat.load(np.array([3.0, 4.0, 5.0], np.float32))
        >>> flat.module(torch.tensor([[1.0, 1.0]])).item()
        12.0
    """

    def __init__(self, module: nn.Module) -> None:
        _check_types(module)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not trained:
            raise ModelError(
                f"model {type(module).__name__!r} has nothing to train: "
                "give it at least one parameter with requires_grad=True"
            )
        self._frozen_norms = tuple(layer for layer in module.modules() if _is_frozen_norm(layer))
        kept = {id(buffer) for layer in self._frozen_norms for buffer in layer.buffers()}
        others = [buffer for buffer in module.buffers() if buffer.is_floating_point() and id(buffer) not in kept]
        device = trained[0].device
        count = sum(parameter.numel() for parameter in trained)
        self.module = module
        self.trained = tuple(trained)
        self.vector = torch.empty(count + sum(tensor.numel() for tensor in others), device=device)
        self.parameters_vector = self.vector[:count]
        self.gradient = torch.zeros(count, device=device)
        _adopt([*trained, *others], self.vector)
        for parameter, view in zip(trained, _views(trained, self.gradient), strict=True):
            parameter.grad = view

    @property
    def num_parameters(self) -> int:
        """Number of weights that train."""
        return self.gradient.numel()

    @property
    def num_weights(self) -> int:
        """Number of all weights that change: trained, and floating buffers."""
        return self.vector.numel()

    @property
    def is_partial(self) -> bool:
        """Whether something is frozen, so that the vector does not make the whole network."""
        return any(not parameter.requires_grad for parameter in self.module.parameters())

    def train(self) -> None:
        """Put the network in training mode, but for batch normalisation that is frozen."""
        self.module.train()
        for layer in self._frozen_norms:
            layer.eval()

    def pieces(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """The part of each trained parameter in a vector that is laid out as ``parameters_vector`` is.

        Args:
            vector: float32 [num_parameters].

        Returns:
            Views, shaped as the parameters are.
        """
        return list(_views(self.trained, vector))

    def zero_grad(self) -> None:
        """Set every gradient to zero, in place."""
        self.gradient.zero_()

    def load(self, vector: npt.NDArray[np.float32] | torch.Tensor) -> None:
        """Copy weights in.

        Args:
            vector: float32 [num_weights]; may be read-only.

        Raises:
            ModelError: it belongs to another network.
        """
        if tuple(vector.shape) != (self.num_weights,):
            raise ModelError(
                f"weights of shape {list(vector.shape)} do not fit a model of {self.num_weights} weights: "
                "use the model that they were saved from"
            )
        if isinstance(vector, torch.Tensor):
            self.vector.copy_(vector)
        elif self.vector.device.type == "cpu":
            np.copyto(self.vector.numpy(), vector)  # reads read-only memory in place; torch.from_numpy would warn
        else:
            self.vector.copy_(torch.tensor(vector))

    def snapshot(self) -> npt.NDArray[np.float32]:
        """A fresh copy of all weights that change, float32 [num_weights]."""
        return np.array(self.vector.cpu().numpy(), copy=True)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All tensors under the module's own names, frozen ones too, cloned and contiguous."""
        return dict(cloned(self.module.state_dict()))


def cloned(state: Mapping[str, object]) -> Iterator[tuple[str, torch.Tensor]]:
    """Copy the tensors of a state dict, so that tied ones no longer share memory.

    Args:
        state: a module's state dict; what is no tensor is left out.

    Yields:
        Names and contiguous copies, on the CPU.
    """
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            yield name, value.detach().to("cpu", copy=True).contiguous()


def _is_frozen_norm(layer: nn.Module) -> bool:
    """Whether a layer is batch normalisation that has parameters and trains none of them."""
    if not isinstance(layer, nn.modules.batchnorm._BatchNorm) or not layer.track_running_stats:
        return False
    parameters = list(layer.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _check_types(module: nn.Module) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"model {type(module).__name__!r} holds {name!r} as {kind}: build it in float32, "
                "for example with module.float()"
            )


def _views(tensors: Sequence[torch.Tensor], vector: torch.Tensor) -> Iterator[torch.Tensor]:
    """Consecutive pieces of ``vector``, shaped like ``tensors``."""
    start = 0
    for tensor in tensors:
        yield vector[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()


def _adopt(tensors: Sequence[torch.Tensor], vector: torch.Tensor) -> None:
    """Copy tensors into ``vector`` and make them views of it."""
    for tensor, view in zip(tensors, _views(tensors, vector), strict=True):
        view.copy_(tensor.data)
        tensor.data = view
