"""A cluster that was started by hand, and a user's script that trains on it, after a first try on its own machine."""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from real.processes import actors, alive, bptcnn, closed, command, descendants, summary_of, until

pytestmark = pytest.mark.real

TOKEN = "0123456789abcdef" * 4
SCRIPT = Path(__file__).with_name("own_code.py")


class Head(NamedTuple):
    """A running head."""

    pid: int
    address: str
    keys: dict[str, str]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """``ray start --head`` with a token of its own; it and what it started is ended by process number."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    keys = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    words = f"start --head --block --port {port} --num-cpus 4 --include-dashboard false --disable-usage-stats"
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # Ray's sockets allow no long path
        ray = ["-m", "ray.scripts.scripts", *words.split(), "--temp-dir", short]
        with command(*ray, cwd=tmp_path_factory.mktemp("head"), env=keys) as running:
            until(lambda: "Ray runtime started" in running.printed + running.complained, "the head")
            everything = descendants(running.pid)
            yield Head(running.pid, f"127.0.0.1:{port}", keys)
            everything |= descendants(running.pid)
            running.process.terminate()
            running.wait()
            until(lambda: not alive(everything), "the end of the head")


def test_a_script_with_its_own_network_and_data_trains_here_and_on_a_cluster(head: Head, tmp_path: Path) -> None:
    with command(str(SCRIPT), head.address, cwd=tmp_path, env=head.keys) as running:
        assert running.wait() == 0, running.complained
    assert running.complained == ""
    first, second = running.printed.splitlines()
    assert re.fullmatch(r"WorkerError worker \d failed: ValueError: image 77 is torn \(own_code.py, line \d+\)", first)
    assert second == "Net 1.0 1"
    assert closed(summary_of(tmp_path / "whole"), epochs=4, num_samples=400)
    until(lambda: not actors("", head.pid), "the end of the actors on the cluster")


def test_a_cluster_with_another_token_refuses_in_one_sentence(head: Head, tmp_path: Path) -> None:
    wrong = {**head.keys, "RAY_AUTH_TOKEN": TOKEN[::-1], "RAY_NUM_REDIS_GET_RETRIES": "1"}
    with bptcnn("train", "--address", head.address, "--out", "run", cwd=tmp_path, env=wrong) as running:
        assert running.wait() == 2
    assert running.complained.startswith(f"bptcnn: the Ray cluster at '{head.address}' wants its own token: copy it")
    assert len(running.complained.splitlines()) == 1
    assert not (tmp_path / "run").exists()
