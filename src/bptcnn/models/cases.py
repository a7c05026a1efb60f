"""Seven networks of growing size, ``case1`` to ``case7``: our own grid.

Chen et al. ("A bi-layered parallel training architecture for large-scale convolutional neural networks", IEEE TPDS
2019) measure seven networks that differ in convolution layers, filters, dense layers and neurons. Their exact sizes are
not known to us; this grid spans the same four axes. Compare orders and trends with the paper, not absolute times.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bptcnn.models.layers import Shape, flat_size, he_initialized


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the grid; calling it makes the network.

    Attributes:
        conv_layers: 3x3 convolutions that keep the sides; 2x2 max-pooling follows every second one.
        filters: channels of every convolution.
        dense_layers: hidden dense layers.
        neurons: width of every hidden dense layer.
    """

    conv_layers: int
    filters: int
    dense_layers: int
    neurons: int

    def __call__(self, shape: Shape, num_classes: int) -> nn.Module:
        """Make the network.

        Args:
            shape: of an image: channels, height, width.
            num_classes: number of outputs.

        Returns:
            The network; sides under 4 are pooled no further, so it fits any image.
        """
        features = self._features(shape)
        layers: list[nn.Module] = [features]
        inputs = flat_size(features, shape)
        for _ in range(self.dense_layers):
            layers += [nn.Linear(inputs, self.neurons), nn.ReLU()]
            inputs = self.neurons
        return he_initialized(nn.Sequential(*layers, nn.Linear(inputs, num_classes)))

    def _features(self, shape: Shape) -> nn.Module:
        channels, side = shape[0], min(shape[1:])
        layers: list[nn.Module] = []
        for number in range(1, self.conv_layers + 1):
            layers += [nn.Conv2d(channels, self.filters, 3, padding="same"), nn.ReLU()]
            channels = self.filters
            if number % 2 == 0 and side >= 4:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        return nn.Sequential(*layers, nn.Flatten())


CASES = {
    "case1": Case(conv_layers=2, filters=8, dense_layers=1, neurons=32),
    "case2": Case(conv_layers=4, filters=16, dense_layers=1, neurons=128),
    "case3": Case(conv_layers=4, filters=32, dense_layers=2, neurons=256),
    "case4": Case(conv_layers=6, filters=64, dense_layers=2, neurons=512),
    "case5": Case(conv_layers=6, filters=96, dense_layers=3, neurons=768),
    "case6": Case(conv_layers=8, filters=128, dense_layers=3, neurons=1024),
    "case7": Case(conv_layers=8, filters=192, dense_layers=3, neurons=1536),
}
