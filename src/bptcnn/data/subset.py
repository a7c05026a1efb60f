"""A part of a data set, addressed by position."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bptcnn.data.arrays import Indices
from bptcnn.data.samples import Batch, ImageSet, Samples


@dataclass(frozen=True, eq=False)
class Subset:
    """The samples of ``source`` at ``chosen``, renumbered from 0.

    Args:
        source: the whole data set.
        chosen: int64 [n], indices into it.

    Example:
        >>> from bptcnn.data import DataConfig, load
        >>> train = load(DataConfig(name="digits"), seed=0).train
        >>> len(Subset(train, np.arange(10)))
        10
    """

    source: Samples
    chosen: Indices

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the source."""
        return self.source.shape

    @property
    def num_classes(self) -> int:
        """Classes of the source."""
        return self.source.num_classes

    def __len__(self) -> int:
        """Number of samples chosen."""
        return len(self.chosen)

    def batch(self, indices: Indices, epoch: int) -> Batch:
        """The samples at some positions, as they look in one epoch.

        Args:
            indices: positions in 0..n - 1, shape [B].
            epoch: seeds the augmentation.

        Returns:
            The source's batch.
        """
        return self.source.batch(np.take(self.chosen, indices), epoch)


def hold_out(samples: Samples, count: int, seed: int) -> tuple[Subset, Subset]:
    """Split off a random part.

    Args:
        samples: the whole.
        count: samples to hold out.
        seed: of the choice.

    Returns:
        What is left, and what is held out; the latter is never augmented, so that it measures the same each time.
    """
    order = np.random.default_rng((seed, 0x5E1F)).permutation(len(samples))
    return Subset(samples, order[count:]), Subset(_still(samples), order[:count])


def _still(samples: Samples) -> Samples:
    """The same images as they are, centre-cropped; the user's own data sets are taken as they come."""
    if isinstance(samples, ImageSet):
        return replace(samples, transform=replace(samples.transform, training=False))
    return samples
