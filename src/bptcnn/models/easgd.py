"""The network of the elastic averaging paper, for results that can be set beside its own."""

from __future__ import annotations

from torch import nn

from bptcnn.models.layers import Shape, flat_size, he_initialized


def easgd_cifar(shape: Shape, num_classes: int) -> nn.Module:
    """The 7-layer CIFAR network of the EASGD paper: 351,946 weights for 3x28x28 crops of 10 classes.

    Without padding; dropout 0.5 before the last layer; biases start at 0.

    Source: Zhang, Choromanska, LeCun, "Deep learning with elastic averaging SGD", NIPS 2015 (arXiv 1412.6651),
    section 5 and supplement.

    Args:
        shape: of an image: channels, height, width; sides from 24.
        num_classes: number of outputs.

    Returns:
        The network.
    """
    features = nn.Sequential(
        nn.Conv2d(shape[0], 64, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(128, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
    )
    classifier = nn.Sequential(
        nn.Linear(flat_size(features, shape), 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, num_classes),
    )
    return he_initialized(nn.Sequential(features, classifier))
