"""What blocks of samples look like on this machine, for a batch and a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""Time of a sample when so many channels or columns share a register, about, where samples fill the rest."""

COSTS_OF_MATRICES = {1: 1.0, 2: 1.2, 4: 1.3, 8: 1.45}
"""The same where cores multiply matrices, in which columns of a map lie side by side in place of channels."""


def host_vectors(precision: Precision, batch: int = MANY) -> Vectors:
    """What blocks look like in this machine's registers.

    Args:
        precision: of the numbers between the layers.
        batch: usual samples of a step.

    Returns:
        Several channels or columns share a register where samples would fill it badly.

    Raises:
        UnsupportedError: its cores can't multiply such numbers.
    """
    simd, bf16 = host_simd(), precision == "bf16"
    if bf16 and not simd.bf16:
        raise UnsupportedError("the cores of this machine have no products of bfloat16 (AVX512-BF16)")
    kinds = [Vectors(simd.width, simd.registers, bf16, count) for count in COSTS if count <= simd.width]
    return _best(kinds, COSTS, batch)


def vectors_for(layers: Sequence[Layer], precision: Precision, batch: int) -> Vectors:
    """What blocks look like for a network.

    Where bfloat16 is allowed and cores multiply matrices of it, they do if most of the network's channels fill them.
    Numbers are float32 all the same where that is faster: on cores that do not multiply bfloat16, and on those that
    multiply matrices of it, if these stay empty: by vectors they are faster with float32.

    Args:
        layers: the network.
        precision: that the numbers between the layers may have.
        batch: usual samples of a step.
    """
    simd = host_simd()
    if precision == "fp32" or not simd.bf16:
        return host_vectors("fp32", batch)
    if simd.tiles and granted():
        vectors = host_vectors("bf16", batch)
        kinds = [replace(vectors, channels=count, matrices=True) for count in COSTS_OF_MATRICES]
        if kinds := [kind for kind in kinds if by_matrices(layers, kind)]:
            return _best(kinds, COSTS_OF_MATRICES, batch)
    return host_vectors("fp32" if simd.tiles else "bf16", batch)


def _best(kinds: Sequence[Vectors], costs: Mapping[int, float], batch: int) -> Vectors:
    """The kind of blocks that takes least time for a batch, lanes without samples included."""
    return min(kinds, key=lambda kind: -(-batch // kind.width) * kind.width * costs[kind.channels])
