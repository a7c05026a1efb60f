"""What a process may use of a machine, on machines made up in a folder and on this one."""

from __future__ import annotations

import os
import platform
import threading
from importlib import import_module
from math import ceil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptcnn import __version__
from bptcnn.inner.machine import hardware, processor
from bptcnn.inner.machine.hardware import affinity, cache_bytes, fingerprint, num_cores, quota_cores
from bptcnn.inner.machine.processor import Simd, features, host_simd, simd

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
MEMORY_ONLY = "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
DISK = "23 1 254:1 / / rw,relatime - ext4 /dev/vda rw"

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no affinity")


class Machine:
    """A file system that holds what a test writes into it."""

    def __init__(self, root: Path, *, groups: str = "", mounts: str = "") -> None:
        self.root = root
        self.write("proc/self/cgroup", groups)
        self.write("proc/self/mountinfo", f"{DISK}\n{mounts}\n")

    def write(self, path: str, text: str) -> Machine:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return self

    def v2(self, group: str, content: str) -> Machine:
        return self.write(f"sys/fs/cgroup/{group}/cpu.max", content)

    def v1(self, group: str, quota_us: str, period_us: str = "100000\n") -> Machine:
        folder = f"sys/fs/cgroup/cpu,cpuacct/{group}"
        return self.write(f"{folder}/cpu.cfs_quota_us", quota_us).write(f"{folder}/cpu.cfs_period_us", period_us)


@pytest.fixture
def of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "affinity", lambda: tuple(range(64)))


# ------------------------------------------------------------------------------------------------ quotas


@pytest.mark.usefixtures("of_64")
@pytest.mark.parametrize(
    ("content", "quota", "cores"),
    [
        ("200000 100000\n", 2.0, 2),
        ("150000 100000\n", 1.5, 2),
        ("20000 100000\n", 0.2, 1),
        ("12800000 100000\n", 128.0, 64),
        ("max 100000\n", None, 64),
        ("", None, 64),
        ("200000\n", None, 64),
        ("200000 0\n", None, 64),
        ("0 100000\n", None, 64),
        ("-5 -5\n", None, 64),
        ("1 2 3\n", None, 64),
        ("nan inf\n", None, 64),
        ("two cores\n", None, 64),
        (f"{'9' * 400} 1\n", None, 64),
        (f"{'9' * 5000} 1\n", None, 64),
    ],
)
def test_a_group_of_version_2_says_its_quota_in_one_file(
    tmp_path: Path, content: str, quota: float | None, cores: int
) -> None:
    machine = Machine(tmp_path, groups="0::/job\n", mounts=V2).v2("job", content)
    assert (quota_cores(machine.root), num_cores(machine.root)) == (quota, cores)


@pytest.mark.usefixtures("of_64")
@pytest.mark.parametrize(
    ("quota_us", "period_us", "quota", "cores"),
    [
        ("200000\n", "100000\n", 2.0, 2),
        ("25000\n", "10000\n", 2.5, 3),
        ("-1\n", "100000\n", None, 64),
        ("200000\n", "", None, 64),
        ("", "100000\n", None, 64),
        ("200000\n", "0\n", None, 64),
        ("much\n", "100000\n", None, 64),
    ],
)
def test_a_group_of_version_1_says_it_in_two(
    tmp_path: Path, quota_us: str, period_us: str, quota: float | None, cores: int
) -> None:
    machine = Machine(tmp_path, groups="4:memory:/job\n3:cpu,cpuacct:/job\n", mounts=f"{MEMORY_ONLY}\n{V1}")
    machine.v1("job", quota_us, period_us)
    assert (quota_cores(machine.root), num_cores(machine.root)) == (quota, cores)


@pytest.mark.usefixtures("of_64")
@pytest.mark.parametrize("cores", [(8, 3, 5), (2, 8, 8), (8, 8, 2), (None, 4, None), (None, None, None)])
def test_the_tightest_quota_on_the_way_up_holds(tmp_path: Path, cores: tuple[int | None, ...]) -> None:
    machine = Machine(tmp_path, groups="0::/slice/pod/job\n", mounts=V2)
    for group, granted in zip(("slice", "slice/pod", "slice/pod/job"), cores, strict=True):
        machine.v2(group, "max 100000\n" if granted is None else f"{granted * 100000} 100000\n")
    machine.v2("slice/other", "100000 100000\n").v2("slice/pod/job/below", "100000 100000\n")
    assert num_cores(machine.root) == min([core for core in cores if core], default=64)


def test_the_mount_root_itself_counts_as_a_container_sees_its_own_group_there(tmp_path: Path) -> None:
    assert quota_cores(Machine(tmp_path / "2", groups="0::/\n", mounts=V2).v2("", "300000 100000\n").root) == 3
    assert quota_cores(Machine(tmp_path / "1", groups="1:cpu:/\n", mounts=V1).v1("", "300000\n").root) == 3


def test_groups_that_are_not_shown_are_passed_over_on_the_way_up(tmp_path: Path) -> None:
    machine = Machine(tmp_path, groups="0::/gone/and/hidden\n", mounts=V2).v2("", "300000 100000\n")
    assert quota_cores(machine.root) == 3


def test_a_machine_of_both_versions_heeds_both(tmp_path: Path) -> None:
    unified = V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    machine = Machine(tmp_path, groups="5:cpu,cpuacct:/a\n0::/b\n", mounts=f"{V1}\n{unified}").v1("a", "400000\n")
    assert quota_cores(machine.root) == 4
    assert quota_cores(machine.write("sys/fs/cgroup/unified/b/cpu.max", "300000 100000\n").root) == 3


def test_only_the_controller_of_cpu_time_is_asked_in_version_1(tmp_path: Path) -> None:
    groups = "7:cpuset:/pinned\n6:cpuacct:/counted\n5:name=cpu:/named\n3:cpu,cpuacct:/job\n"
    machine = Machine(tmp_path, groups=groups, mounts=V1).v1("job", "400000\n")
    for other in ("pinned", "counted", "named"):
        machine.v1(other, "100000\n")
    assert quota_cores(machine.root) == 4


def test_a_mount_that_begins_at_a_group_holds_the_groups_below_it(tmp_path: Path) -> None:
    inside = V2.replace(" / /sys", " /docker/7f /sys")
    machine = Machine(tmp_path, groups="0::/docker/7f/job\n", mounts=inside).v2("", "500000 100000\n")
    assert quota_cores(machine.root) == 5
    assert quota_cores(machine.v2("job", "200000 100000\n").root) == 2
    machine.write("proc/self/cgroup", "0::/docker/7fff/job\n")  # another's group, though its name begins alike
    assert quota_cores(machine.root) == 5


def test_the_mount_that_holds_the_group_is_preferred_to_one_that_does_not(tmp_path: Path) -> None:
    foreign = "40 23 0:26 /docker/other /mnt/other rw - cgroup2 cgroup2 rw"
    machine = Machine(tmp_path, groups="0::/job\n", mounts=f"{foreign}\n{V2}").v2("job", "400000 100000\n")
    assert quota_cores(machine.write("mnt/other/cpu.max", "100000 100000\n").root) == 4


@pytest.mark.parametrize("group", ["/../job", "/.."])
def test_a_group_outside_of_the_namespace_leaves_what_is_mounted(tmp_path: Path, group: str) -> None:
    machine = Machine(tmp_path, groups=f"0::{group}\n", mounts=V2).v2("", "600000 100000\n")
    assert quota_cores(machine.write("sys/fs/cpu.max", "100000 100000\n").root) == 6


def test_names_of_mounts_are_unescaped(tmp_path: Path) -> None:
    mounts = r"30 23 0:26 /machine-a\134x2db /mnt/control\040groups rw - cgroup2 cgroup2 rw"
    machine = Machine(tmp_path, groups="0::/machine-a\\x2db/job:1\n", mounts=mounts)
    assert quota_cores(machine.write("mnt/control groups/job:1/cpu.max", "700000 100000\n").root) == 7


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert quota_cores(tmp_path) is None
    assert num_cores(tmp_path) == len(affinity())
    assert quota_cores(Machine(tmp_path, groups="0::/job\n").v2("job", "100000 100000\n").root) is None


@given(
    levels=st.lists(st.tuples(st.integers(1, 10**7), st.integers(1000, 10**6)), min_size=1, max_size=5),
    version=st.sampled_from(["v1", "v2"]),
)
def test_both_versions_say_the_same_of_nested_quotas(
    tmp_path_factory: pytest.TempPathFactory, levels: list[tuple[int, int]], version: str
) -> None:
    path = "/".join(f"level{depth}" for depth in range(len(levels)))
    membership = f"0::/{path}\n" if version == "v2" else f"1:cpuacct,cpu:/{path}\n"
    machine = Machine(tmp_path_factory.mktemp("machine"), groups=membership, mounts=f"{V1}\n{V2}")
    for depth, (quota_us, period_us) in enumerate(levels):
        group = "/".join(path.split("/")[: depth + 1])
        if version == "v2":
            machine.v2(group, f"{quota_us} {period_us}\n")
        else:
            machine.v1(group, f"{quota_us}\n", f"{period_us}\n")
    tightest = min(quota_us / period_us for quota_us, period_us in levels)
    assert quota_cores(machine.root) == tightest
    assert num_cores(machine.root) == min(len(affinity()), max(1, ceil(tightest)))


TEXT = st.text(
    st.sampled_from("0123456789:/-. \n\\\0äcpu,mxag") | st.characters(exclude_categories=["Cs"]), max_size=60
)
LINE = TEXT | TEXT.map(lambda text: f"0::/{text}") | TEXT.map(lambda text: f"30 23 0:26 {text} - cgroup2 cgroup2 rw")


@given(groups=LINE, mounts=LINE, content=TEXT)
def test_nonsense_from_the_kernel_never_stops_anyone(
    tmp_path_factory: pytest.TempPathFactory, groups: str, mounts: str, content: str
) -> None:
    machine = Machine(tmp_path_factory.mktemp("machine"), groups=groups, mounts=f"{V1}\n{V2}\n{mounts}")
    machine.v1("", content, content).v2("", content).write("proc/cpuinfo", content)
    cache = "sys/devices/system/cpu/cpu0/cache/index0"
    for name in ("level", "type", "size"):
        machine.write(f"{cache}/{name}", content)
    assert 1 <= num_cores(machine.root) <= len(affinity())
    assert cache_bytes(1, machine.root) > 0
    assert fingerprint(machine.root)


def test_a_path_that_cannot_be_one_never_stops_anyone(tmp_path: Path) -> None:
    machine = Machine(tmp_path, groups="0::/jo\0b\n", mounts=V2).v2("", "300000 100000\n")
    assert quota_cores(machine.root) == 3


def test_bytes_that_are_no_text_never_stop_anyone(tmp_path: Path) -> None:
    machine = Machine(tmp_path, groups="0::/job\n", mounts=V2).v2("job", "")
    (tmp_path / "sys/fs/cgroup/job/cpu.max").write_bytes(b"\xff\xfe\x00")
    assert quota_cores(machine.root) is None


# ------------------------------------------------------------------------------------------------ affinity


@needs_affinity
def test_a_bound_thread_sees_one_core() -> None:
    before, seen = affinity(), []
    core = before[-1]

    def lane() -> None:
        os.sched_setaffinity(0, {core})  # 0 is the calling thread
        seen.extend([affinity(), num_cores()])

    thread = threading.Thread(target=lane)
    thread.start()
    thread.join()
    assert seen == [(core,), 1]
    assert affinity() == before


def test_where_there_is_no_affinity_all_cores_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert affinity() == (0, 1, 2)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert affinity() == (0,)


# ------------------------------------------------------------------------------------------------ vectors, caches


@pytest.mark.parametrize(
    ("flags", "machine", "expected"),
    [
        ({"avx512f", "avx512bf16", "avx2", "fma"}, "x86_64", Simd(16, 32, True)),
        ({"avx512f", "avx512_bf16"}, "AMD64", Simd(16, 32, True)),
        ({"avx512f", "avx512_bf16", "amx_bf16"}, "x86_64", Simd(16, 32, True, tiles=True)),
        ({"avx512f", "avx512bf16", "amx-bf16"}, "x86_64", Simd(16, 32, True, tiles=True)),
        ({"avx512f", "avx2", "fma"}, "x86_64", Simd(16, 32, False)),
        ({"avx512bf16", "avx2", "fma"}, "x86_64", Simd(8, 16, False)),
        ({"avx2", "fma"}, "x86_64", Simd(8, 16, False)),
        ({"avx2"}, "x86_64", Simd(4, 16, False)),
        ({"avx", "fma"}, "x86_64", Simd(4, 16, False)),
        (set(), "x86_64", Simd(4, 16, False)),
        ({"neon", "bf16"}, "aarch64", Simd(4, 32, False)),
        ({"neon"}, "arm64", Simd(4, 32, False)),
        (set(), "", Simd(4, 16, False)),
    ],
)
def test_vectors_follow_from_the_flags(flags: set[str], machine: str, expected: Simd) -> None:
    assert simd(frozenset(flags), machine) == expected


@pytest.mark.parametrize("field", ["flags", "Features"])
def test_the_first_processor_says_what_it_has(tmp_path: Path, field: str) -> None:
    listed = f"processor\t: 0\n{field}\t\t: fma avx2\n\nprocessor\t: 1\n{field}\t\t: avx512f\n"
    assert features(Machine(tmp_path).write("proc/cpuinfo", listed).root) == {"fma", "avx2"}


def test_where_the_kernel_lists_nothing_the_compiler_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llvm = import_module("llvmlite.binding")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: {"avx512f": False, "avx2": True, "fma": True})
    assert host_simd(tmp_path) == Simd(8, 16, False)

    def unknown() -> None:
        raise RuntimeError("failed to get host cpu features")

    monkeypatch.setattr(llvm, "get_host_cpu_features", unknown)
    assert host_simd(tmp_path) == Simd(4, 16, False)


def test_kernel_and_compiler_agree_on_vectors() -> None:
    found = import_module("llvmlite.binding").get_host_cpu_features()
    assert host_simd() == simd(frozenset(name for name, there in found.items() if there), platform.machine())


def with_caches(root: Path, *caches: tuple[str, str, str]) -> Path:
    machine = Machine(root)
    for index, fields in enumerate(caches):
        for name, text in zip(("level", "type", "size"), fields, strict=True):
            machine.write(f"sys/devices/system/cpu/cpu0/cache/index{index}/{name}", f"{text}\n")
    return root


def test_caches_that_hold_data_are_found_by_level(tmp_path: Path) -> None:
    caches = ("1", "Instruction", "64K"), ("1", "Data", "48K"), ("2", "Unified", "1280K"), ("3", "Unified", "36M")
    assert [cache_bytes(level, with_caches(tmp_path, *caches)) for level in (1, 2, 3)] == [
        48 << 10,
        1280 << 10,
        36 << 20,
    ]


@pytest.mark.parametrize("size", ["", "0K", "big", "-32K", "32T", "3.5M", "K"])
def test_a_cache_of_unknown_size_has_a_common_one(tmp_path: Path, size: str) -> None:
    root = with_caches(tmp_path, ("1", "Data", size), ("2", "Instruction", "64K"))
    assert [cache_bytes(level, root) for level in (1, 2, 3)] == [32 << 10, 512 << 10, 8 << 20]


def test_a_size_without_a_unit_is_in_bytes(tmp_path: Path) -> None:
    assert cache_bytes(1, with_caches(tmp_path, ("1", "Data", "49152"))) == 48 << 10


# ------------------------------------------------------------------------------------------------ fingerprint

ZEN = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: Other\n"
ARM = "processor\t: 0\nBogoMIPS\t: 2100.00\nCPU implementer\t: 0x41\nCPU variant\t: 0x1\nCPU part\t: 0xd40\n"


@pytest.mark.usefixtures("of_64")
@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [(ZEN, "AMD EPYC 25 17"), (ARM, "0x41 0x1 0xd40"), ("", "some cpu"), ("model name\t:\n", "some cpu")],
)
def test_a_fingerprint_names_processor_cores_vectors_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, name: str
) -> None:
    monkeypatch.setattr(processor, "host_simd", lambda root: Simd(16, 32, True))
    monkeypatch.setattr(platform, "processor", lambda: "some cpu")
    monkeypatch.setitem(__import__("sys").modules, "torch", SimpleNamespace(__version__="2.9"))
    machine = Machine(tmp_path, groups="0::/\n", mounts=V2).v2("", "200000 100000\n").write("proc/cpuinfo", cpuinfo)
    assert fingerprint(machine.root) == f"{name}; 2 cores; simd 16x32 bf16; torch 2.9; bptcnn {__version__}"


def test_the_fingerprint_of_this_machine_is_one_stable_line() -> None:
    assert fingerprint() == fingerprint()
    assert len(fingerprint().splitlines()) == 1
    assert torch.__version__ in fingerprint()
