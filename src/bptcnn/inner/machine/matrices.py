"""Leave to use the registers that hold matrices: Linux gives it to a process that asks."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache

# From <asm/prctl.h> and the processor's list of states: the data of tiles.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@cache
def granted() -> bool:
    """Ask once; all threads of this process may use them from then on, if it is granted.

    Source: Linux, ``Documentation/arch/x86/xstate.rst``.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return not ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
