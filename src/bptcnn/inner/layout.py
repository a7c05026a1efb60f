"""What blocks of samples look like on this machine, for a batch and a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bptcnn.errors import UnsupportedError
from bptcnn.inner.eager import Precision
from bptcnn.inner.graph.layers import Layer
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.lowering.filters import by_matrices
from bptcnn.inner.machine.matrices import granted
from bptcnn.inner.machine.processor import host_simd

MANY = 1 << 10
"""Samples of a batch that fills any register."""

COSTS = {1: 1.0, 2: 1.15, 4: 1.4, 8: 2.2}
"""Time of a sample when so many channels share a register, about, where samples fill the rest."""

FEWEST = 8
"""Samples of a batch from which on products of matrices pay, which take as long as those of a full block."""


def host_vectors(precision: Precision, batch: int = MANY) -> Vectors:
    """What blocks look like in this machine's registers.

    Args:
        precision: of the numbers between the layers.
        batch: usual samples of a step.

    Returns:
        Several channels share a register where samples would fill it badly.

    Raises:
        UnsupportedError: its cores can't multiply such numbers.
    """
    simd, bf16 = host_simd(), precision == "bf16"
    if bf16 and not simd.bf16:
        raise UnsupportedError("the cores of this machine have no products of bfloat16 (AVX512-BF16)")
    kinds = [Vectors(simd.width, simd.registers, bf16, count) for count in COSTS if count <= simd.width]
    best = min(kinds, key=lambda kind: -(-batch // kind.width) * kind.width * COSTS[kind.channels])
    return replace(best, matrices=bf16 and best.channels == 1 and simd.tiles and granted())


def vectors_for(layers: Sequence[Layer], precision: Precision, batch: int) -> Vectors:
    """What blocks look like for a network: full ones, where cores multiply matrices and most of its channels fill them.

    Args:
        layers: the network.
        precision: of the numbers between the layers.
        batch: usual samples of a step.

    Raises:
        UnsupportedError: as for :func:`host_vectors`.
    """
    full = host_vectors(precision)
    if full.matrices and batch >= FEWEST and by_matrices(layers, full):
        return full
    return host_vectors(precision, batch)
