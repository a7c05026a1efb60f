"""What tests of kernels share: compiled kernels, samples laid out in blocks, memory that shows what is overstepped."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from llvmlite import ir
from torch.nn import functional

from bptcnn.inner.kernels.image import place
from bptcnn.inner.kernels.jit import compiled_here
from bptcnn.inner.kernels.link import link
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.kernels.winograd.forms import form_of
from bptcnn.inner.kernels.winograd.tiling import Shape
from bptcnn.inner.lowering.buffers import Array, aligned
from bptcnn.inner.machine.matrices import granted
from bptcnn.inner.machine.processor import host_simd

Memory = npt.NDArray[Any]
"""float32, or the bits of bfloat16 as uint16."""

KINDS = tuple(Vectors(width, registers) for width, registers in ((16, 32), (8, 16), (4, 32), (4, 16)))
"""AVX-512, AVX, NEON, SSE: all are compiled on any machine, as more or fewer instructions."""

GROUPS = (Vectors(16, 32, channels=4), Vectors(16, 32, channels=2), Vectors(8, 16, channels=4))
"""Several channels in a register, each of few samples."""

BF16 = Vectors(16, 32, bf16=True)

BF16_GROUPS = tuple(Vectors(16, 32, bf16=True, channels=count) for count in (8, 4, 2))

MATRICES = Vectors(16, 32, bf16=True, matrices=True)

NARROW = tuple(Vectors(16, 32, bf16=True, channels=count, matrices=True) for count in (8, 4, 2))
"""Several columns in a matrix, each of few samples."""

HAS_MATRICES = host_simd().tiles and granted()

needs_matrices = pytest.mark.skipif(not HAS_MATRICES, reason="no products of matrices: LLVM would end the process")

needs_bf16 = pytest.mark.skipif(not host_simd().bf16, reason="no products of bfloat16: LLVM would end the process")

IF_BF16, IF_BF16_GROUPS = (pytest.param(kind, marks=needs_bf16) for kind in (BF16, BF16_GROUPS[0]))

IF_MATRICES, IF_NARROW = (pytest.param(kind, marks=needs_matrices) for kind in (MATRICES, NARROW[0]))

HERE = (
    *KINDS,
    GROUPS[0],
    *((BF16, BF16_GROUPS[0]) if host_simd().bf16 else ()),
    *((MATRICES, *NARROW) if HAS_MATRICES else ()),
)
"""All that this machine runs."""

_GUARD = 64
_NAN = 0xFF
"""A byte that makes float32 and bfloat16 numbers NaN."""


class Bench:
    """Kernels for some vectors and the memory that they work on.

    Memory begins as NaN, so that what is read without being written shows; so does what lies around it, which no kernel
    may write.

    Args:
        vectors: the vectors.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.width, self._simd = vectors.width, vectors
        self._emitted: dict[object, tuple[str, Any]] = {}
        self._texts: dict[str, str] = {}
        self._addresses: dict[str, int] = {}
        self._guards: list[npt.NDArray[np.uint8]] = []

    def emit(self, kernel: Any, *shape: Any, **options: Any) -> tuple[str, int]:
        """Add a kernel; its name and into how many tiles its work falls."""
        key = (kernel, shape, tuple(options.items()))
        if key not in self._emitted:
            name, module = f"kernel_{len(self._emitted)}", ir.Module()
            self._emitted[key] = name, kernel(module, name, self._simd, *shape, **options)
            self._texts[name] = str(module)
        return self._emitted[key]

    def memory(self, *shape: int) -> Array:
        """NaN, float32 and aligned."""
        return self._memory(shape, np.float32)

    def block(self, *shape: int) -> Memory:
        """NaN, aligned, as blocks hold their numbers."""
        return self._memory(shape, np.uint16 if self._simd.bf16 else np.float32)

    def _memory(self, shape: tuple[int, ...], kind: type[np.generic]) -> Memory:
        num_bytes = prod(shape) * np.dtype(kind).itemsize
        whole = aligned(-(-num_bytes // 4) + 2 * _GUARD).view(np.uint8)
        whole[:] = _NAN
        first, last = 4 * _GUARD, 4 * _GUARD + num_bytes
        self._guards += [whole[:first], whole[last:]]
        return whole[first:last].view(kind).reshape(shape)

    def copied(self, values: torch.Tensor) -> Array:
        """The same numbers where a kernel can read them."""
        result = self.memory(*values.shape)
        result[...] = values.detach().numpy()
        return result

    def packed(self, values: torch.Tensor) -> Memory:
        """The same numbers as blocks hold them."""
        result = self.block(*values.shape)
        result[...] = bits(values.detach()) if self._simd.bf16 else values.detach().numpy()
        return result

    def blocked(self, samples: torch.Tensor) -> Memory:
        """From [blocks width, channels, rows, columns] to [blocks, channels, rows, columns, width]."""
        return self.packed(samples.reshape(-1, self.width, *samples.shape[1:]).movedim(1, -1))

    def filters(self, weight: torch.Tensor, channels: int) -> Memory:
        """Weights as convolutions read them.

        Args:
            weight: [out, in, rows, columns].
            channels: over which dimension they sum up.
        """
        together = self._simd.channels
        if together == 1:
            return self.packed(paired(weight, channels)) if self._simd.bf16 else self.copied(weight)
        if weight.shape[1 - channels] < together:
            return self.copied(weight)
        one_or_two = paired(weight, channels) if self._simd.bf16 else weight
        count = weight.shape[1 - channels]
        side = together if count % together == 0 else count
        groups = one_or_two.movedim(1 - channels, 0).unflatten(0, (-1, side))
        return self.packed(groups.movedim(1, 4))

    def call(self, name: str, *arguments: Memory | int) -> None:
        """Run a kernel."""
        if self._texts:
            new = [link(program) for program in compiled_here(list(self._texts.values()))]
            self._addresses.update(zip(self._texts, place(new), strict=True))
            self._texts.clear()
        places = [each if isinstance(each, int) else each.ctypes.data for each in arguments]
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._addresses[name])((ctypes.c_int64 * len(places))(*places))
        assert all((guard == _NAN).all() for guard in self._guards)


def bits(values: torch.Tensor) -> npt.NDArray[np.uint16]:
    """The bits of numbers as PyTorch rounds them to bfloat16."""
    result: npt.NDArray[np.uint16] = values.bfloat16().view(torch.uint16).numpy()
    return result


def values(array: Memory) -> torch.Tensor:
    """The numbers that lie somewhere, float64."""
    tensor = torch.from_numpy(array)
    return (tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor).double()


def samples(array: Memory) -> torch.Tensor:
    """From [blocks, channels, rows, columns, width] to float64 [blocks width, channels, rows, columns]."""
    return values(array).movedim(-1, 1).flatten(0, 1)


def paired(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Two channels side by side in a new last dimension, zero beside one that has no neighbour.

    Args:
        weight: [out, in, ...].
        channels: which dimension they are.
    """
    missing = torch.zeros_like(weight.narrow(channels, 0, weight.shape[channels] % 2))
    each = torch.cat([weight, missing], channels).unbind(channels)
    return torch.stack([torch.stack(each[place::2], channels) for place in (0, 1)], -1)


def matrices(weight: torch.Tensor, channels: int, depth: int) -> torch.Tensor:
    """Weights as products of matrices take them: [rows / 16, taps, groups, 16, depth], zeros in the last group.

    Args:
        weight: [out, in, taps].
        channels: over which dimension they sum up.
        depth: channels of a group.
    """
    by_row = weight.transpose(channels, 1)
    rows, count, taps = by_row.shape
    groups = -(-count // depth)
    whole = functional.pad(by_row, (0, 0, 0, groups * depth - count))
    return whole.reshape(rows // 16, 16, groups, depth, taps).permute(0, 4, 2, 1, 3)


def held(vectors: Vectors, values: torch.Tensor) -> torch.Tensor:
    """Numbers as blocks hold them, float32."""
    return values.bfloat16().float() if vectors.bf16 else values


def tolerance(vectors: Vectors, sums: float = 1e-6) -> float:
    """How far a block may be off: its sums were float32, and are then rounded to what it holds."""
    return sums + 2**-8 if vectors.bf16 else sums


def number(value: int) -> Array:
    """An int64 in memory, as kernels take the number of blocks, or an address that changes."""
    return np.array([value], np.int64).view(np.float32)


def at_points(weight: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Filters [made, summed up, ...] as minimal filtering reads them: [groups, points, summed up, channels]."""
    matrix = torch.tensor(form_of(shape.size).filters, dtype=torch.float64)
    made = torch.einsum("ar,osrc,bc->abos", matrix, weight.double(), matrix).float()
    return made.reshape(shape.points, -1, shape.channels, weight.shape[1]).permute(1, 0, 3, 2).contiguous()


def error(result: Memory | torch.Tensor, expected: torch.Tensor, terms: torch.Tensor | None = None) -> float:
    """How far a whole tensor is off, by its norm; of sums, by that of their terms, which may cancel out."""
    found = result.double() if isinstance(result, torch.Tensor) else values(result)
    assert found.shape == expected.shape
    assert not expected.isnan().any()
    off, size = float((found - expected).norm()), float((expected if terms is None else terms).norm())
    return off / size if size else off


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers that float32 holds."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
