"""Images in: data sets that are addressed by index and loaded by name or path.

``load`` reads a data set by its name, ``wrap`` takes the user's own PyTorch data sets. Both give a ``DataPair`` of
``Samples``: batches are asked for by sample index, so that a lease is only a list of indices.
"""

from __future__ import annotations

from bptcnn.data.augment import Transform
from bptcnn.data.config import DataConfig
from bptcnn.data.dataset import DatasetAdapter
from bptcnn.data.registry import load, wrap
from bptcnn.data.samples import Batch, DataPair, ImageSet, Samples

__all__ = ["Batch", "DataConfig", "DataPair", "DatasetAdapter", "ImageSet", "Samples", "Transform", "load", "wrap"]
