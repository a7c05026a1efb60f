"""LeNet-5, the classic small network for digits."""

from __future__ import annotations

from torch import nn

from bptcnn.models.layers import Shape, flat_size, he_initialized


def lenet5(shape: Shape, num_classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max-pooling: 61,706 weights for 1x28x28 images of 10 classes.

    The first convolution pads by 2, as the original does by drawing 28x28 digits on 32x32; the second pads only where
    the image is too small to go without (sides under 12).

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proceedings of
    the IEEE 86(11), 1998, section II.B.

    Args:
        shape: of an image: channels, height, width; sides from 4.
        num_classes: number of outputs.

    Returns:
        The network.
    """
    padding = 0 if min(shape[1:]) >= 12 else 2
    features = nn.Sequential(
        nn.Conv2d(shape[0], 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    classifier = nn.Sequential(
        nn.Linear(flat_size(features, shape), 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, num_classes),
    )
    return he_initialized(nn.Sequential(features, classifier))
