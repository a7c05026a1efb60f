"""Residual networks: the small ones for CIFAR, and ResNet-18.

Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016: table 1 (ResNet-18) and
section 4.2 (the 6n+2 layers for CIFAR).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from bptcnn.models.layers import Shape, he_initialized

IMAGENET_SIDE = 64  # from this side on, ResNet-18 first shrinks the image by 4


def resnet8(shape: Shape, num_classes: int) -> nn.Module:
    """The CIFAR ResNet of 6n+2 layers with n = 1: as :func:`resnet20`, with 75,290 weights.

    Args:
        shape: of an image: channels, height, width.
        num_classes: number of outputs.

    Returns:
        The network.
    """
    return _cifar_resnet(1, shape, num_classes)


def resnet20(shape: Shape, num_classes: int) -> nn.Module:
    """The CIFAR ResNet of 6n+2 layers with n = 3: 269,722 weights for 3x32x32 images of 10 classes.

    Widths 16, 32, 64; shortcuts of option A (sub-sampled, new channels zero, no weights), as in section 4.2.

    Args:
        shape: of an image: channels, height, width.
        num_classes: number of outputs.

    Returns:
        The network.
    """
    return _cifar_resnet(3, shape, num_classes)


def resnet18(shape: Shape, num_classes: int) -> nn.Module:
    """ResNet-18: 11,689,512 weights for 3x224x224 images of 1000 classes.

    Shortcuts of option B (1x1 convolutions where the size changes). Images with a side under 64 enter by a 3x3
    convolution; larger ones by the paper's 7x7 convolution and pooling, which shrink them by 4.

    Args:
        shape: of an image: channels, height, width.
        num_classes: number of outputs.

    Returns:
        The network.
    """
    stem = _stem(shape[0], 64) if min(shape[1:]) < IMAGENET_SIDE else _imagenet_stem(shape[0], 64)
    return _resnet(stem, [64, 128, 256, 512], 2, num_classes, shortcut=_projection)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: ``relu(F(x) + shortcut(x))``.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: 2 halves the sides.
        shortcut: what joins the sizes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = shortcut

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        return functional.relu(self.residual(images) + self.shortcut(images))


class PadShortcut(nn.Module):
    """Option A: every ``stride``-th pixel, and zeros for the channels that are new.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: 2 halves the sides.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.new_channels = outputs - inputs
        self.stride = stride

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        return functional.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Option B: a 1x1 convolution."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


def _stem(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _imagenet_stem(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def _cifar_resnet(blocks: int, shape: Shape, num_classes: int) -> nn.Module:
    return _resnet(_stem(shape[0], 16), [16, 32, 64], blocks, num_classes, shortcut=PadShortcut)


def _resnet(
    stem: nn.Module,
    widths: list[int],
    blocks: int,
    num_classes: int,
    shortcut: Callable[[int, int, int], nn.Module],
) -> nn.Module:
    """Stages of equal length; each but the first halves the sides."""
    layers: list[nn.Module] = []
    inputs = widths[0]
    for outputs in widths:
        for _ in range(blocks):
            # The first block of a stage changes the width, and with it the sides.
            stride = 1 if inputs == outputs else 2
            joined = nn.Identity() if stride == 1 else shortcut(inputs, outputs, stride)
            layers.append(Block(inputs, outputs, stride, joined))
            inputs = outputs
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))
    return he_initialized(nn.Sequential(stem, nn.Sequential(*layers), head))
