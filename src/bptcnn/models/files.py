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
    try:
        stored = safetensors.load(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read model {str(path)!r} ({error.strerror}): name a model that was saved") from error
    except SafetensorError:
        raise ModelError(f"model file {str(path)!r} is damaged: save the model again") from None
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    for name in sorted(own.keys() | stored.keys()):
        if _kind(own.get(name)) != _kind(stored.get(name)):
            raise ModelError(
                f"model file {str(path)!r} does not fit: {name!r} is {_kind(stored.get(name))} there and "
                f"{_kind(own.get(name))} in the network, so build the network that was saved"
            )
    for name, value in own.items():
        value.copy_(stored[name])


def _kind(tensor: torch.Tensor | None) -> str:
    if tensor is None:
        return "absent"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
