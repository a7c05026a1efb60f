"""What tests of kernels share: compiled kernels, samples laid out in blocks, memory that shows what is overstepped."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from llvmlite import ir

from bptcnn.inner.kernels.jit import Code
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.lowering.buffers import Array, aligned

KINDS = tuple(Vectors(width, registers) for width, registers in ((16, 32), (8, 16), (4, 32), (4, 16)))
"""AVX-512, AVX, NEON, SSE: all are compiled on any machine, as more or fewer instructions."""

_GUARD = 64


class Bench:
    """Kernels for some vectors and the memory that they work on.

    Memory begins as NaN, so that what is read without being written shows; so does what lies around it, which no kernel
    may write.

    Args:
        vectors: the vectors.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.width, self._simd = vectors.width, vectors
        self._module = ir.Module()
        self._emitted: dict[object, tuple[str, Any]] = {}
        self._code: Code | None = None
        self._guards: list[Array] = []

    def emit(self, kernel: Any, *shape: Any, **options: Any) -> tuple[str, int]:
        """Add a kernel; its name and into how many tiles its work falls."""
        key = (kernel, shape, tuple(options.items()))
        if key not in self._emitted:
            # All are compiled together, at the first call; what is asked for later is compiled with them again.
            self._code = None
            name = f"kernel_{len(self._emitted)}"
            self._emitted[key] = name, kernel(self._module, name, self._simd, *shape, **options)
        return self._emitted[key]

    def memory(self, *shape: int) -> Array:
        """NaN, float32 and aligned."""
        size = prod(shape)
        whole = aligned(size + 2 * _GUARD)
        whole[:] = np.nan
        self._guards += [whole[:_GUARD], whole[_GUARD + size :]]
        return whole[_GUARD : _GUARD + size].reshape(shape)

    def copied(self, values: torch.Tensor) -> Array:
        """The same numbers where a kernel can read them."""
        result = self.memory(*values.shape)
        result[...] = values.detach().numpy()
        return result

    def blocked(self, samples: torch.Tensor) -> Array:
        """From [blocks width, channels, rows, columns] to [blocks, channels, rows, columns, width]."""
        return self.copied(samples.reshape(-1, self.width, *samples.shape[1:]).movedim(1, -1))

    def call(self, name: str, *arguments: Array | int) -> None:
        """Run a kernel."""
        if self._code is None:
            self._code = Code(self._module)
        self._code.call(name, *(each if isinstance(each, int) else each.ctypes.data for each in arguments))
        assert all(np.isnan(guard).all() for guard in self._guards)


def samples(array: Array) -> torch.Tensor:
    """From [blocks, channels, rows, columns, width] to float64 [blocks width, channels, rows, columns]."""
    return torch.from_numpy(array).double().movedim(-1, 1).flatten(0, 1)


def number(value: int) -> Array:
    """An int64 in memory, as kernels take the number of blocks, or an address that changes."""
    return np.array([value], np.int64).view(np.float32)


def error(result: Array | torch.Tensor, expected: torch.Tensor) -> float:
    """How far a whole tensor is off, by its norm."""
    found = torch.as_tensor(result).double()
    assert found.shape == expected.shape
    assert not expected.isnan().any()
    off, size = float((found - expected).norm()), float(expected.norm())
    return off / size if size else off


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers that float32 holds."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
