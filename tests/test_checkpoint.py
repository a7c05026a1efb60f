"""Checkpoints: what goes in comes out, bit for bit, or an error says which file is damaged."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bptcnn import checkpoint
from bptcnn.errors import CheckpointError, RunFolderError

DTYPES = ["bool", "uint8", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64"]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.text(max_size=5) | st.sampled_from(["$array", "$float", "$$array", "a/b", "~1", "", "0"])
trees = st.recursive(
    scalars | arrays, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


def same(left: Any, right: Any) -> bool:
    """Equal in type, dtype, shape and every bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return repr(left) == repr(right)
    return bool(left == right)


def listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def state() -> dict[str, Any]:
    return {
        "version": 42,
        "rule": {"name": "easgd", "center": np.linspace(0, 1, 5, dtype=np.float32)},
        "due": np.array([1, 1, 2], np.uint16),
        "speeds": [0.1, None, math.inf],
    }


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "checkpoints", "0042", state())
    assert path == tmp_path / "checkpoints" / "0042"
    assert same(checkpoint.load(path), state())


def test_numbers_survive_exactly(tmp_path: Path) -> None:
    floats = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, math.nan, math.inf, -math.inf]
    tree = {"floats": floats, "array": np.array(floats), "ints": [2**63, -(10**30)], "flags": [True, 1, False, 0]}
    assert same(checkpoint.load(checkpoint.save(tmp_path, "1", tree)), tree)


def test_arrays_whose_paths_look_alike_are_kept_apart(tmp_path: Path) -> None:
    tree = {"a/b": np.zeros(1), "a": {"b": np.ones(1), "0": [np.ones(2)]}, "~1": np.zeros(2), "/": np.ones(3)}
    assert same(checkpoint.load(checkpoint.save(tmp_path, "1", tree)), tree)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3), np.int64),
        np.array(2.5),
        np.arange(12, dtype=np.uint16).reshape(3, 4).T,
        np.arange(12, dtype=np.float32)[::-3],
        np.broadcast_to(np.float32(7), (2, 3)),
        np.array([True, False]),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ],
    ids=["empty", "0-d", "transposed", "strided", "broadcast", "bool", "fortran"],
)
def test_any_layout_of_an_array_is_kept_in_value(tmp_path: Path, array: np.ndarray) -> None:
    array.setflags(write=False)
    restored = checkpoint.load(checkpoint.save(tmp_path, "1", [array]))[0]
    assert restored.dtype == array.dtype
    assert restored.shape == array.shape
    assert np.array_equal(restored, array)
    assert restored.flags.writeable


@settings(max_examples=40, deadline=None)
@given(tree=trees)
def test_every_tree_makes_the_round_trip(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert same(checkpoint.load(checkpoint.save(Path(folder), "1", tree)), tree)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), file=st.sampled_from([checkpoint.ARRAYS, checkpoint.CONTENT]), flip=st.integers(1, 255))
def test_any_flipped_byte_is_noticed(data: st.DataObject, file: str, flip: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.save(Path(folder), "7", state())
        content = bytearray((path / file).read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= flip
        (path / file).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{file}' is damaged: delete the folder '.*7' to continue"):
            checkpoint.load(path)


@pytest.mark.parametrize("file", [checkpoint.ARRAYS, checkpoint.CONTENT])
def test_a_file_cut_short_or_grown_is_noticed(tmp_path: Path, file: str) -> None:
    path = checkpoint.save(tmp_path, "7", state())
    whole = (path / file).read_bytes()
    for content in (b"", whole[:50], whole[:-1], whole + b" "):
        (path / file).write_bytes(content)
        with pytest.raises(CheckpointError, match=file):
            checkpoint.load(path)


@pytest.mark.parametrize("file", [checkpoint.ARRAYS, checkpoint.CONTENT])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    path = checkpoint.save(tmp_path, "7", state())
    (path / file).unlink()
    with pytest.raises(RunFolderError, match=f"{file}' is missing: delete the folder"):
        checkpoint.load(path)


def test_a_checkpoint_of_a_later_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    path = checkpoint.save(tmp_path, "7", state())
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has format 3, this bptcnn reads format 2"):
        checkpoint.load(path)


def test_equal_trees_make_equal_files_that_any_json_reader_reads(tmp_path: Path) -> None:
    first, second = (checkpoint.save(tmp_path / folder, "1", state()) for folder in "ab")
    for file in (checkpoint.ARRAYS, checkpoint.CONTENT):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    content = json.loads((first / checkpoint.CONTENT).read_text())["body"]["content"]
    assert content["due"] == {"$array": "/due"}
    assert content["rule"]["center"] == {"$array": "/rule/center"}


def test_the_newest_counts_and_only_numbers_count(tmp_path: Path) -> None:
    assert checkpoint.names(tmp_path / "absent") == []
    assert checkpoint.newest(tmp_path) is None
    for name in ("0010", "0002", "9999", "10000"):
        checkpoint.save(tmp_path, name, {"at": name})
    (tmp_path / ".saving").mkdir()
    (tmp_path / "0099").touch()
    assert checkpoint.names(tmp_path) == ["0002", "0010", "9999", "10000"]
    assert checkpoint.newest(tmp_path) == tmp_path / "10000"


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        checkpoint.save(tmp_path, name, None)
    checkpoint.prune(tmp_path, keep=5)
    assert checkpoint.names(tmp_path) == ["1", "2", "3"]
    checkpoint.prune(tmp_path, keep=2)
    assert listing(tmp_path) == ["2", "3"]


def test_a_checkpoint_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "1", "old")
    assert checkpoint.load(checkpoint.save(tmp_path, "1", "new")) == "new"
    assert listing(tmp_path) == ["1"]


def test_a_crash_while_writing_leaves_the_earlier_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, "1", "first")

    def power_cut(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, "2", "second")
    monkeypatch.undo()
    assert checkpoint.names(tmp_path) == ["1"]
    assert checkpoint.load(checkpoint.save(tmp_path, "2", "again")) == "again"
    assert listing(tmp_path) == ["1", "2"]


def test_a_folder_that_cannot_be_written_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*: make room"):
        checkpoint.save(tmp_path / "file", "1", None)


@pytest.mark.parametrize("tree", [{1: "key"}, {"a": [object()]}, (1, 2), {"x": np.float32(1)}])
def test_what_is_no_tree_is_our_own_mistake(tmp_path: Path, tree: Any) -> None:
    with pytest.raises(AssertionError):
        checkpoint.save(tmp_path, "1", tree)
