"""Compiled kernels between processes: found again by what they depend on, trusted only if nobody else wrote them."""

from __future__ import annotations

import os
import platform
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import llvmlite
import pytest
import torch
from blocks import Bench, number

from bptcnn.errors import UnsupportedError
from bptcnn.inner import kept
from bptcnn.inner.kernels import conv, jit, library, loss, store
from bptcnn.inner.kernels.image import Image, place
from bptcnn.inner.kernels.jit import compiled, compiled_here
from bptcnn.inner.kernels.library import Library
from bptcnn.inner.kernels.link import _relocate, link
from bptcnn.inner.kernels.shape import Plane, Vectors, Window
from bptcnn.inner.machine import processor

VECTORS = Vectors(4, 16)
SHAPE = Window(3, 3), Plane(3, 6, 6), Plane(4, 4, 4)


class Compiler:
    """Compiles in this process, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, texts: list[str]) -> list[bytes]:
        self.calls += 1
        return compiled_here(texts)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kernels, not made yet."""
    monkeypatch.setenv("BPTCNN_CACHE", str(tmp_path / "home"))
    return tmp_path / "home" / "kernels"


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    compiler = Compiler()
    monkeypatch.setattr(jit, "compiled", compiler)
    yield compiler
    store._here.cache_clear()


def a_kernel(monkeypatch: pytest.MonkeyPatch) -> tuple[int, bytes]:
    """What a process that has made none yet gets: what the emitter said, and the code."""
    placed: list[Image] = []
    monkeypatch.setattr(library, "_placed", {})
    monkeypatch.setattr(library, "place", lambda images: placed.extend(images) or place(images))
    store._here.cache_clear()
    kernels = Library(VECTORS)
    _, said = kernels.use(conv.forward, *SHAPE, bias=True, then=conv.Epilogue())
    kernels.compile()
    return said, placed[0].code


def only_file(home: Path) -> Path:
    (path,) = home.iterdir()
    return path


# ------------------------------------------------------------------------------------------------ found again

STEP = """
import sys
import torch
from torch.nn import functional
from bptcnn.inner.compiled import Compiled
from bptcnn.inner.kernels import jit, library
from bptcnn.inner.lanes import Lanes
from bptcnn.models import ModelConfig, build

def step():
    network = build(ModelConfig(name="lenet5"), (1, 8, 8), 4, 0)
    compiled = Compiled(network, (1, 8, 8), 16, Lanes(2))
    images = torch.linspace(-1, 1, 16 * 64).reshape(16, 1, 8, 8)
    compiled(images, torch.arange(16) % 4, functional.cross_entropy)
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])

cold = step()
jit.compiled = None
library._placed.clear()
library.function.cache_clear()
assert torch.equal(step(), cold) and cold.norm() > 0
assert "llvmlite.binding" not in sys.modules
print("llvm" in open("/proc/self/maps").read())
"""


@pytest.mark.usefixtures("home")
def test_steps_are_the_same_to_the_bit_and_no_process_that_trains_loads_a_compiler() -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("the kernel does not say what is loaded")
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_what_an_earlier_process_made_is_not_made_again(
    home: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = a_kernel(monkeypatch)
    assert made[0] > 0
    assert a_kernel(monkeypatch) == made
    assert compiler.calls == 1
    assert home.stat().st_mode & 0o777 == 0o700
    assert only_file(home).stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("home")
def test_calls_of_the_c_library_lead_there_in_every_process(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        monkeypatch.setattr(library, "_placed", {})
        kernels, bench = Library(VECTORS), Bench(VECTORS)
        name, _ = kernels.use(loss.cross_entropy, 2)
        bench._addresses = kernels.compile()
        scores, gradient, result = bench.copied(torch.zeros(2, 4)), bench.memory(2, 4), bench.memory(1)
        labels, ones, part = (
            bench.copied(torch.zeros(8)),
            bench.copied(torch.zeros(4) + 1),
            bench.copied(torch.zeros(1) + 0.25),
        )
        bench.call(name, scores, number(labels.ctypes.data), 0, ones, part, gradient, result)
        assert result[0] == pytest.approx(4 * 0.693147, rel=1e-6)  # log 2 each
    assert compiler.calls == 1


@pytest.mark.parametrize("what", ["name", "features", "llvmlite", "sources"])
def test_another_machine_or_version_has_kernels_of_its_own(
    home: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    a_kernel(monkeypatch)
    with monkeypatch.context() as patch:
        if what == "name":
            patch.setattr(processor, "name", lambda: "another")
        elif what == "features":
            patch.setattr(processor, "features", lambda: frozenset({"none"}))
        elif what == "llvmlite":
            patch.setattr(llvmlite, "__version__", "0")
        else:
            patch.setattr(store, "__file__", str(tmp_path / "store.py"))
        a_kernel(monkeypatch)
    assert compiler.calls == 2
    assert len(list(home.iterdir())) == 2


# ------------------------------------------------------------------------------------------------ not trusted


@pytest.mark.parametrize("damage", ["empty", "cut short", "a bit", "longer", "of another kernel"])
def test_a_damaged_file_counts_as_absent_and_is_replaced(
    home: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    made = a_kernel(monkeypatch)
    file = only_file(home)
    whole = file.read_bytes()
    if damage == "of another kernel":
        store.save("another", 7, Image(b"code"))
        (other,) = set(home.iterdir()) - {file}
        other.replace(file)
    else:
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        file.write_bytes({"empty": b"", "cut short": whole[:-1], "a bit": flipped, "longer": whole + b"\0"}[damage])
    assert a_kernel(monkeypatch) == made
    assert compiler.calls == 2
    assert only_file(home).read_bytes() == whole


@pytest.mark.parametrize("who", ["group", "others", "owner"])
def test_what_somebody_else_could_have_written_is_not_run(
    home: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    a_kernel(monkeypatch)
    if who == "owner":
        someone = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: someone)
    else:
        only_file(home).chmod(0o620 if who == "group" else 0o602)
    a_kernel(monkeypatch)
    assert compiler.calls == 2


def test_where_nothing_can_be_kept_kernels_are_compiled_all_the_same(
    home: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.parent.touch()
    assert a_kernel(monkeypatch) == a_kernel(monkeypatch)
    assert compiler.calls == 2


@pytest.mark.usefixtures("home")
def test_what_was_of_use_longest_ago_goes_first() -> None:
    for age, name in enumerate(("new", "older", "oldest")):
        kept.write("songs", name, b"12345")
        os.utime(kept.folder("songs") / name, (1000 - age, 1000 - age))
    kept.read("songs", "oldest")
    kept.limit("songs", 10)
    assert {path.name for path in kept.folder("songs").iterdir()} == {"oldest", "new"}


# ------------------------------------------------------------------------------------------------ made

FOREIGN = "x86.sse2.pmadd.wd" if platform.machine() != "x86_64" else "aarch64.neon.saddlp.v4i32.v8i16"
FATAL = f"""
declare <4 x i32> @llvm.{FOREIGN}(<8 x i16>{", <8 x i16>" if "x86" in FOREIGN else ""})
define void @kernel(ptr %0) {{
  %2 = load <8 x i16>, ptr %0
  %3 = call <4 x i32> @llvm.{FOREIGN}(<8 x i16> %2{", <8 x i16> %2" if "x86" in FOREIGN else ""})
  store <4 x i32> %3, ptr %0
  ret void
}}"""


@pytest.mark.parametrize("text", ["no language", FATAL], ids=["wrong", "of other cores"])
def test_a_compiler_that_ends_ends_nobody_else(text: str) -> None:
    with pytest.raises(UnsupportedError, match=r"compiler of its kernels failed .*(expected|select)"):
        compiled([text])


def test_who_may_start_no_process_compiles_in_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "define void @kernel(ptr %0) { ret void }"
    elsewhere = compiled([text])
    monkeypatch.setattr(sys, "executable", "/there/is/no/python")
    assert compiled([text]) == elsewhere


@pytest.mark.parametrize(
    "text",
    [
        "@number = global i32 0 define void @kernel(ptr %0) { store i32 1, ptr @number ret void }",
        "@number = external global i32 define void @kernel(ptr %0) { store i32 1, ptr @number ret void }",
    ],
)
def test_what_the_linker_does_not_know_it_refuses(text: str) -> None:
    with pytest.raises(UnsupportedError, match=r"a kernel (refers|holds)"):
        link(*compiled_here([text]))


def test_kernels_of_other_cores_are_refused() -> None:
    [program] = compiled_here(["define void @kernel(ptr %0) { ret void }"])
    ppc64 = 21
    with pytest.raises(UnsupportedError, match="not for machine 21"):
        link(program[:18] + struct.pack("<H", ppc64) + program[20:])


def test_a_function_that_the_c_library_lacks_is_named() -> None:
    text = "declare void @no_such_thing() define void @kernel(ptr %0) { call void @no_such_thing() ret void }"
    with pytest.raises(UnsupportedError, match="no_such_thing"):
        place([link(*compiled_here([text]))])


@pytest.mark.parametrize(
    ("kind", "word", "place", "target", "expected"),
    [
        (275, 0x90000000, 0x0FFC, 0x1000, 0xB0000000),  # adrp x0, one page on
        (275, 0x90000000, 0x1000, 0x0FFF, 0xF0FFFFE0),  # adrp x0, one page back
        (277, 0x91000000, 0, 0x1028, 0x9100A000),  # add x0, x0, 40
        (286, 0xFD400000, 0, 0x1028, 0xFD401400),  # ldr d0, [x0, 40]
        (299, 0x3DC00000, 0, 0x0020, 0x3DC00800),  # ldr q0, [x0, 32]
        (283, 0x94000000, 0, 0x0040, 0x94000010),  # bl, 64 on
        (283, 0x94000000, 8, 0x0004, 0x97FFFFFF),  # bl, 4 back
    ],
)
def test_instructions_of_arm64_are_as_its_manual_has_them(
    kind: int, word: int, place: int, target: int, expected: int
) -> None:
    code = bytearray(2 * 4096)
    struct.pack_into("<I", code, place, word)
    _relocate(code, 183, kind, place, target)
    assert struct.unpack_from("<I", code, place) == (expected,)
