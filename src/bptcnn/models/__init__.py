"""Networks: a small zoo, the user's own, and every one of them as a flat vector."""

from __future__ import annotations

from bptcnn.models.build import ModelConfig, build
from bptcnn.models.files import load_model, read_model, restore, save_model
from bptcnn.models.flat import FlatModel
from bptcnn.models.tuning import adopt, freeze
from bptcnn.models.zoo import MODELS

__all__ = [
    "MODELS",
    "FlatModel",
    "ModelConfig",
    "adopt",
    "build",
    "freeze",
    "load_model",
    "read_model",
    "restore",
    "save_model",
]
