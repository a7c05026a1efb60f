"""The kernels of this process: each made once, however many layers, networks and workers use it.

What an earlier process made is found on disk. Where all of a network's kernels are, nothing is emitted and no compiler
is started.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

from llvmlite import ir

from bptcnn.inner.kernels import jit, store
from bptcnn.inner.kernels.image import Image, place
from bptcnn.inner.kernels.link import link
from bptcnn.inner.kernels.shape import Vectors

Arguments: TypeAlias = ctypes.Array[ctypes.c_int64]

_placed: dict[str, tuple[int | None, int]] = {}
"""Of each kernel, what its emitter said of it and where its code begins."""


class Library:
    """Collects the kernels of a network, then makes those that are new.

    Args:
        vectors: the registers and what they hold.

    Example:
        >>> from bptcnn.inner.kernels import pointwise
        >>> library = Library(Vectors(4, 16))
        >>> name, _ = library.use(pointwise.rectify, 64)
        >>> library.use(pointwise.rectify, 64)[0] == name
        True
        >>> library.compile()[name] != 0
        True
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self._used: dict[str, int | None] = {}
        self._found: dict[str, Image] = {}
        self._emitted: dict[str, str] = {}

    def use(self, emit: Callable[..., Any], *shape: object, **options: object) -> tuple[str, Any]:
        """Ask for a kernel.

        Args:
            emit: a function of this package: ``emit(module, name, vectors, *shape, **options)``.
            shape: of numbers, words and frozen dataclasses of them, which say in full what they are.
            options: likewise.

        Returns:
            The kernel's name, and what ``emit`` said of it.
        """
        name = described(emit, self.vectors, *shape, **options)
        if name not in self._used:
            if name in _placed:
                self._used[name], _ = _placed[name]
            elif found := store.load(name):
                self._used[name], self._found[name] = found
            else:
                module = ir.Module()
                self._used[name] = emit(module, "kernel", self.vectors, *shape, **options)
                self._emitted[name] = str(module)
        return name, self._used[name]

    def compile(self) -> dict[str, int]:
        """Make what is new.

        Returns:
            Where the code of each kernel begins, by its name.

        Raises:
            UnsupportedError: a kernel can't be compiled for this machine.
        """
        if self._emitted:
            for name, program in zip(self._emitted, jit.compiled(list(self._emitted.values())), strict=True):
                self._found[name] = link(program)
                store.save(name, self._used[name], self._found[name])
            self._emitted.clear()
            store.tidy()
        if self._found:
            addresses = place(list(self._found.values()))
            _placed.update(
                {name: (self._used[name], address) for name, address in zip(self._found, addresses, strict=True)}
            )
            self._found.clear()
        return {name: _placed[name][1] for name in self._used}


@cache
def function(emit: Callable[..., None]) -> Callable[[Arguments], None]:
    """A function in machine code that no vectors matter to; the interpreter is free while it runs.

    Args:
        emit: ``emit(module, name, vectors)``.

    Example:
        >>> from bptcnn.inner.kernels import loss
        >>> labels, answer = (ctypes.c_int64 * 2)(3, 10), ctypes.c_int64()
        >>> function(loss.are_classes)(arguments([ctypes.addressof(labels), 2, 10, ctypes.addressof(answer)]))
        >>> answer.value
        0
    """
    library = Library(Vectors(4, 16))
    name, _ = library.use(emit)
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.compile()[name])


def arguments(numbers: Sequence[int]) -> Arguments:
    """What such a function, or a kernel, is called with.

    Args:
        numbers: and addresses.
    """
    return (ctypes.c_int64 * len(numbers))(*numbers)


def described(emit: Callable[..., Any], *shape: object, **options: object) -> str:
    """Say what a kernel is, in words that are the same in every process.

    Args:
        emit: its emitter.
        shape: given to it.
        options: given to it.

    Example:
        >>> from bptcnn.inner.kernels import pointwise
        >>> described(pointwise.rectify, Vectors(4, 16), 64)
        'pointwise.rectify(Vectors(lanes=4, registers=16, bf16=False, channels=1, matrices=False), 64)'
    """
    given = [repr(each) for each in shape] + [f"{name}={value!r}" for name, value in sorted(options.items())]
    assert " at 0x" not in "".join(given), f"an address means nothing in another process: {given}"
    return f"{emit.__module__.rsplit('.', 1)[-1]}.{emit.__qualname__}({', '.join(given)})"
