"""Your own network on a named data set, then used for a prediction.

    python examples/own_network.py

A factory may ask for `input_shape` and `num_classes` by these names.
"""

import torch
from torch import nn

import bptcnn
from bptcnn.data import DataConfig, load


def network(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """A small convolutional network for images of any size."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, num_classes),
    )


config = bptcnn.RunConfig(epochs=10, batch_size=32, workers={"count": 2, "speeds": (1500, 500)})
run = bptcnn.train(config, model=network, out="runs/own-network")

test_set = load(DataConfig(name="digits"), seed=0).test
images, labels = test_set.batch(torch.arange(8).numpy(), epoch=0)
with torch.inference_mode():
    print("predicted", run.model()(images).argmax(1).tolist())
print("true     ", labels.tolist())
