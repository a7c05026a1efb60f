"""What several networks share: the size that a flattening yields, and He initialisation."""

from __future__ import annotations

import torch
from torch import nn

Shape = tuple[int, int, int]


def flat_size(features: nn.Module, shape: Shape) -> int:
    """Count the numbers that a stack of layers makes of one image.

    Args:
        features: layers without batch normalisation or dropout.
        shape: of an image: channels, height, width.

    Returns:
        The size of its flattened output.

    Raises:
        RuntimeError: the image is too small for the layers.

    Example:
        >>> flat_size(nn.MaxPool2d(2), (3, 8, 8))
        48
    """
    with torch.no_grad():
        return int(features(torch.zeros(1, *shape)).numel())


def he_initialized(module: nn.Module) -> nn.Module:
    """Draw weights from N(0, 2 / fan-in), those of the last linear layer from N(0, 1 / fan-in); set biases to 0.

    A layer before a ReLU loses half of its signal there, hence the 2; nothing follows the last one.
    Source: He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, section 2.2.

    Args:
        module: a network that is initialised in place.

    Returns:
        The same network.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    last = [layer for layer in layers if isinstance(layer, nn.Linear)][-1]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if layer is last else "relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module
