"""From an object file to bytes that run wherever they lie.

A kernel is one function, its constants, and perhaps calls to functions of the C library. So a linker has little to do:
lay out code and constants, write the distances between them into the code, and lead calls to the outside over stubs.

Source: System V Application Binary Interface, "Object Files", and its supplements for AMD64 (4.4, relocation) and for
the Arm 64-bit architecture (ELF for AArch64, 5.7).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from bptcnn.errors import UnsupportedError
from bptcnn.inner.kernels.image import PAGE, Image

_X86_64, _AARCH64 = 62, 183
_RELOCATIONS = 4

_JUMP = {_X86_64: bytes.fromhex("ff2502000000 9090"), _AARCH64: bytes.fromhex("50000058 00021fd6")}
"""Jump to the address that stands 8 bytes behind the beginning of this."""

_ADDRESS_BYTES = 8

_SCALES = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}
"""ADD_ABS_LO12_NC, LDSTn_ABS_LO12_NC: the last 12 bits of an address, in units of 2^scale bytes."""


def link(program: bytes) -> Image:
    """Link one kernel.

    Args:
        program: an object file of 64 bits (ELF), position-independent, with one function.

    Returns:
        The kernel; it begins where its code begins.

    Raises:
        UnsupportedError: it is for another kind of cores, or holds what no kernel has needed so far.
    """
    machine, sections = _sections(program)
    if machine not in _JUMP:
        raise UnsupportedError(f"kernels are linked for x86-64 and ARM64 only, not for machine {machine} of ELF")
    code, places = bytearray(), dict[int, int]()
    for number, section in sorted(enumerate(sections), key=lambda each: each[1].name != ".text"):
        if section.name == ".text" or section.name.startswith(".rodata"):
            code += bytes(-len(code) % max(section.alignment, 1))
            places[number] = len(code)
            code += section.content
    stubs: dict[str, int] = {}
    for section in sections:
        if section.kind != _RELOCATIONS or section.info not in places:
            continue
        symbols = list(_symbols(sections, section.link))
        for offset, info, addend in struct.iter_unpack("<QQq", section.content):
            symbol = symbols[info >> 32]
            if symbol.section == 0:  # defined elsewhere
                if symbol.name not in stubs:
                    code += bytes(-len(code) % 16)
                    stubs[symbol.name] = len(code)
                    code += _JUMP[machine] + bytes(_ADDRESS_BYTES)
                target = stubs[symbol.name]
            elif symbol.section in places:
                target = places[symbol.section] + symbol.value
            else:
                raise UnsupportedError(f"a kernel refers to section {symbol.section}, neither code nor constants")
            _relocate(code, machine, info & 0xFFFFFFFF, places[section.info] + offset, target + addend)
    return Image(bytes(code), tuple((place + len(_JUMP[machine]), name) for name, place in stubs.items()))


class _Section(NamedTuple):
    name: str
    kind: int
    content: bytes
    link: int
    info: int
    alignment: int


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int


def _sections(program: bytes) -> tuple[int, list[_Section]]:
    """The cores that it is for, and its parts."""
    machine, start, size, count, names = struct.unpack_from("<18xH20xQ10xHHH", program)
    headers = [struct.unpack_from("<IIQQQQIIQQ", program, start + number * size) for number in range(count)]
    contents = [program[header[4] : header[4] + header[5]] for header in headers]
    return machine, [
        _Section(_name(contents[names], header[0]), header[1], content, header[6], header[7], header[8])
        for header, content in zip(headers, contents, strict=True)
    ]


def _symbols(sections: list[_Section], table: int) -> Iterator[_Symbol]:
    for name, section, value in struct.iter_unpack("<I2xHQ8x", sections[table].content):
        yield _Symbol(_name(sections[sections[table].link].content, name), section, value)


def _name(names: bytes, start: int) -> str:
    return names[start : names.index(0, start)].decode()


def _relocate(code: bytearray, machine: int, kind: int, place: int, target: int) -> None:
    """Write into the code how to get from a place to a target; pages are right as the whole begins with one."""
    (word,) = struct.unpack_from("<I", code, place)
    if (machine, kind) in {(_X86_64, 2), (_X86_64, 4), (_AARCH64, 261)}:  # PC32, PLT32, PREL32
        word = (target - place) & 0xFFFFFFFF
    elif (machine, kind) in {(_AARCH64, 282), (_AARCH64, 283)}:  # JUMP26, CALL26
        word |= (target - place) >> 2 & 0x3FFFFFF
    elif (machine, kind) == (_AARCH64, 275):  # ADR_PREL_PG_HI21
        pages = target // PAGE - place // PAGE
        word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    elif machine == _AARCH64 and kind in _SCALES:
        word |= (target % PAGE >> _SCALES[kind]) << 10
    else:
        raise UnsupportedError(f"a kernel holds a relocation of unknown type {kind}")
    struct.pack_into("<I", code, place, word)
