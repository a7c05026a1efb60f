"""A network in one ``.safetensors`` file, under the module's own names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import nn

from bptcnn import durable
from bptcnn.errors import ModelError
from bptcnn.models.flat import cloned


def save_model(path: Path, model: nn.Module | Mapping[str, torch.Tensor]) -> None:
    """Write a network's tensors, as a whole or not at all.

    Tied tensors are written under each of their names.

    Args:
        path: the file, replaced if it exists.
        model: the network or its state dict.

    Raises:
        ModelError: the file cannot be written.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    data = safetensors.save(dict(cloned(state)), metadata={"format": "pt"})
    try:
        durable.replace(path, data)
    except OSError as error:
        raise ModelError(
            f"cannot write model {str(path)!r} ({error.strerror}): make room and make it writable"
        ) from error


def load_model(path: Path, module: nn.Module) -> None:
    """Read a network's tensors into a module, in place.

    Args:
        path: a file that :func:`save_model` wrote.
        module: a network of the same build.

    Raises:
        ModelError: the file is missing, damaged or of another network; the module is then left as it was.
    """
    restore(module, read_model(path), f"model file {str(path)!r}")


def read_model(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a file.

    Args:
        path: a ``.safetensors`` file.

    Returns:
        The tensors by name.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        return safetensors.load(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read model {str(path)!r} ({error.strerror}): name a model that was saved") from error
    except SafetensorError:
        raise ModelError(f"model file {str(path)!r} is damaged or no .safetensors file: save the model again") from None


def restore(module: nn.Module, stored: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy the tensors of an equal network into a module.

    Args:
        module: a network of the same build.
        stored: all tensors of its state.
        source: what they come from, for the message.

    Raises:
        ModelError: they are of another network; the module is then left as it was.
    """
    own = tensors(module)
    for name in sorted(own.keys() | stored.keys()):
        if kind(own.get(name)) != kind(stored.get(name)):
            raise ModelError(
                f"{source} does not fit: {name!r} is {kind(stored.get(name))} there and "
                f"{kind(own.get(name))} in the network, so build the network that was saved"
            )
    for name, value in own.items():
        value.copy_(stored[name])


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a module's state under its own names; to write to them is to write to the module."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def kind(tensor: torch.Tensor | None) -> str:
    """Type and shape of a tensor as messages name them; ``absent`` if there is none."""
    if tensor is None:
        return "absent"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
