"""What the processor is: its name, its instructions, its vector registers.

What the kernel says is read below a root folder, so that a test can make a machine up. Whatever is missing or can't be
understood counts as not said: asking about the hardware never fails.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path("/")
"""The file system in which the kernel's files are."""

_NAMED_BY = ("model name", "cpu family", "model", "CPU implementer", "CPU variant", "CPU part")

_BF16, _TILES = {"avx512bf16", "avx512_bf16"}, {"amx-bf16", "amx_bf16"}


@dataclass(frozen=True, slots=True)
class Simd:
    """Vector registers of a core.

    Attributes:
        width: float32 values per register.
        registers: their number.
        bf16: whether the core multiplies bfloat16 pairs into float32 (AVX512-BF16).
        tiles: whether it multiplies whole matrices of bfloat16 (AMX).
    """

    width: int
    registers: int
    bf16: bool
    tiles: bool = False


def simd(flags: frozenset[str], machine: str) -> Simd:
    """Say what vectors a core has.

    Args:
        flags: features that it has, in LLVM's or the kernel's spelling.
        machine: its architecture, as ``platform.machine()`` says it.

    Returns:
        Its registers; those of SSE where nothing wider is known.

    Example:
        >>> simd(frozenset({"avx2", "fma"}), "x86_64")
        Simd(width=8, registers=16, bf16=False, tiles=False)
    """
    if machine.lower() in {"aarch64", "arm64"}:
        return Simd(width=4, registers=32, bf16=False)
    if "avx512f" in flags:
        bf16, tiles = (not flags.isdisjoint(names) for names in (_BF16, _TILES))
        return Simd(width=16, registers=32, bf16=bf16, tiles=tiles)
    return Simd(width=8 if flags >= {"avx2", "fma"} else 4, registers=16, bf16=False)


def host_simd(root: Path = ROOT) -> Simd:
    """Say what vectors this machine's cores have.

    Args:
        root: the file system in which the kernel's files are.

    Returns:
        The registers of this machine.
    """
    return simd(features(root), platform.machine())


def features(root: Path = ROOT) -> frozenset[str]:
    """Say what instructions this machine's cores have.

    Args:
        root: the file system in which the kernel's files are.

    Returns:
        Features in the kernel's spelling; in LLVM's where the kernel does not list them.
    """
    fields = _first_processor(root)
    if listed := fields.get("flags") or fields.get("Features"):
        return frozenset(listed.split())
    llvm = import_module("llvmlite.binding")  # lazily: it loads a compiler
    try:
        return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)
    except RuntimeError:  # LLVM does not know this platform
        return frozenset()


def name(root: Path = ROOT) -> str:
    """The first processor's name; its numbers too, as a virtual machine's name may stand for several generations.

    Args:
        root: the file system in which the kernel's files are.
    """
    fields = _first_processor(root)
    known = " ".join(fields[key] for key in _NAMED_BY if fields.get(key))
    return known or platform.processor() or platform.machine()


def _first_processor(root: Path) -> dict[str, str]:
    """What the kernel says of it, by the names of the fields."""
    fields: dict[str, str] = {}
    for line in text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def text(path: Path) -> str:
    """Content of a file of the kernel; empty where there is none.

    Args:
        path: of the file.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # a path made of garbage is a ValueError
        return ""
