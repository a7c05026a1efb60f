"""The table of networks that have a name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from bptcnn.models.cases import CASES
from bptcnn.models.easgd import easgd_cifar
from bptcnn.models.layers import Shape
from bptcnn.models.lenet import lenet5
from bptcnn.models.resnet import resnet8, resnet18, resnet20

MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "lenet5": lenet5,
    "easgd-cifar": easgd_cifar,
    **CASES,
    "resnet8": resnet8,
    "resnet20": resnet20,
    "resnet18": resnet18,
}
