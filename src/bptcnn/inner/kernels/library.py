"""The kernels of this process: each emitted and compiled once, however many layers, networks and workers use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from bptcnn.inner.kernels.jit import Code
from bptcnn.inner.kernels.shape import Vectors

_compiled: dict[object, tuple[int, Any, Code]] = {}
"""Address of each kernel, what its emitter said of it, and what keeps it in memory."""


class Library:
    """Collects the kernels of a network, then compiles those that are new.

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
        self._module = ir.Module()
        self._used: dict[object, tuple[str, Any]] = {}

    def use(self, emit: Callable[..., Any], *shape: object, **options: object) -> tuple[str, Any]:
        """Ask for a kernel.

        Args:
            emit: a function of this package: ``emit(module, name, vectors, *shape, **options)``.
            shape: hashable.
            options: hashable.

        Returns:
            The kernel's name, and what ``emit`` said of it.
        """
        key = (emit, self.vectors, shape, tuple(sorted(options.items())))
        if key not in self._used:
            name = f"{emit.__name__}_{len(self._used)}"
            known = _compiled.get(key)
            said = known[1] if known else emit(self._module, name, self.vectors, *shape, **options)
            self._used[key] = name, said
        return self._used[key]

    def compile(self) -> dict[str, int]:
        """Compile what is new.

        Returns:
            Where the code of each kernel begins, by its name.
        """
        new = {key: name for key, (name, _) in self._used.items() if key not in _compiled}
        if new:
            code = Code(self._module)
            _compiled.update({key: (code.address(name), self._used[key][1], code) for key, name in new.items()})
        return {name: _compiled[key][0] for key, (name, _) in self._used.items()}
