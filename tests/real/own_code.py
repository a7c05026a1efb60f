"""A user's own script: network and data set live in ``__main__``; arguments are a mode and further words for it."""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.utils.data import Dataset

import bptcnn


class Stripes(Dataset):
    """Black images, every other one striped."""

    classes = ("plain", "striped")

    def __init__(self, size: int, broken: int = -1) -> None:
        self.size, self.broken = size, broken

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == self.broken:
            raise ValueError("image 77 is torn")
        image = torch.zeros(1, 8, 8)
        image[0, :, ::2] = index % 2
        return image, index % 2


class Net(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)


if __name__ == "__main__":
    address = sys.argv[1]
    config = bptcnn.RunConfig(epochs=4, workers={"count": 2, "speeds": (800, 400)})
    try:
        bptcnn.train(config, model=Net, data=(Stripes(400, broken=77), Stripes(50)), out="broken")
    except bptcnn.BptcnnError as error:
        print(type(error).__name__, error)
    run = bptcnn.train(config, model=Net, data=(Stripes(400), Stripes(50)), out="whole", address=address)
    with torch.no_grad():
        striped = run.model()(Stripes(2)[1][0].unsqueeze(0)).argmax().item()
    print(type(run.model()).__name__, run.summary["test_accuracy"], striped)
