"""Which device a network is on, and which one it goes to."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from bptcnn.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]


def device_named(name: Device, worker: int = 0, *, key: str = "workers.device") -> torch.device:
    """Find the device that is meant.

    Args:
        name: ``auto`` is a GPU where PyTorch sees one, else the CPU.
        worker: its number; workers take the GPUs of a machine in turns.
        key: how the user set it.

    Returns:
        The device.

    Raises:
        ConfigError: there is no GPU.

    Example:
        >>> device_named("cpu")
        device(type='cpu')
    """
    count = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cuda" and not count:
        raise ConfigError(
            f"{key} = 'cuda' but PyTorch {torch.__version__} sees no GPU on this machine: give 'cpu' or 'auto', "
            "or install the GPU's driver and a PyTorch for CUDA"
        )
    return torch.device("cuda", worker % count) if count else torch.device("cpu")


def device_of(module: nn.Module) -> torch.device:
    """Where a network's weights are; the CPU if it has none.

    Example:
        >>> device_of(nn.Linear(2, 1))
        device(type='cpu')
    """
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
