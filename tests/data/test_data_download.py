"""Downloads from a local server: whole, resumed, broken, wrong."""

from __future__ import annotations

import fcntl
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import pytest

from bptcnn.data import download
from bptcnn.data.download import RemoteFile, fetch
from bptcnn.data.idx import load_idx
from bptcnn.data.standard import SERVERS, Store, remote_files
from bptcnn.errors import DataError

CONTENT = bytes(range(256)) * 50


class Server(ThreadingHTTPServer):
    """Serves one file; counts the bytes that it sent and notes what was asked."""

    daemon_threads = True
    resumes = True
    breaks_after: int | None = None
    cut_off: threading.Event
    files: dict[str, bytes]
    asked: list[str | None]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))
        content = self.server.files.get(self.path.removeprefix("/"))
        if content is None:
            return self.send_error(404)
        start = 0
        if self.server.resumes and "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        try:
            self.wfile.write(content[start : self.server.breaks_after])
        except ConnectionError:
            self.server.cut_off.set()
        return None

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.files, running.asked, running.cut_off = {"x.bin": CONTENT}, [], threading.Event()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def remote(server: Server) -> RemoteFile:
    return RemoteFile(f"{server.address}/x.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once(server: Server, remote: RemoteFile, tmp_path: Path) -> None:
    for _ in range(2):
        assert fetch(remote, tmp_path / "new" / "folder").read_bytes() == CONTENT
    assert server.asked == [None]
    assert names(tmp_path / "new" / "folder") == ["x.bin"]


def test_a_broken_connection_is_resumed(server: Server, remote: RemoteFile, tmp_path: Path) -> None:
    server.breaks_after = 5000
    with pytest.raises(
        DataError, match=rf"broke after 5000 of 12800 bytes.*run again.*put the file at {tmp_path}/x.bin"
    ):
        fetch(remote, tmp_path)
    assert names(tmp_path) == ["x.bin.part"]
    server.breaks_after = None
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=5000-"]
    assert names(tmp_path) == ["x.bin"]


def test_a_server_that_cannot_resume_starts_again(server: Server, remote: RemoteFile, tmp_path: Path) -> None:
    server.resumes = False
    (tmp_path / "x.bin.part").write_bytes(CONTENT[:100])
    assert fetch(remote, tmp_path).read_bytes() == CONTENT


def test_a_complete_part_needs_no_server(server: Server, remote: RemoteFile, tmp_path: Path) -> None:
    (tmp_path / "x.bin.part").write_bytes(CONTENT)
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("part", [b"", b"\xff" * 100, b"\xff" * 20_000])
def test_a_wrong_checksum_leaves_nothing(server: Server, remote: RemoteFile, tmp_path: Path, part: bytes) -> None:
    server.files["x.bin"] = CONTENT[::-1]
    (tmp_path / "x.bin.part").write_bytes(part)
    with pytest.raises(DataError, match=r"x.bin has the checksum .* was removed: run again, or put the right file at"):
        fetch(remote, tmp_path)
    assert names(tmp_path) == []


def test_an_endless_answer_is_cut_off(server: Server, remote: RemoteFile, tmp_path: Path) -> None:
    server.files["x.bin"] = bytes(50 << 20)
    with pytest.raises(DataError, match="checksum"):
        fetch(remote, tmp_path)
    assert server.cut_off.wait(timeout=10)


def test_a_missing_file_on_the_server_says_where_to_put_it(server: Server, tmp_path: Path) -> None:
    absent = RemoteFile(f"{server.address}/absent.bin", "0" * 64, 10)
    with pytest.raises(DataError, match=rf"cannot download .*404.* put the file at {tmp_path}/absent.bin"):
        fetch(absent, tmp_path)
    assert names(tmp_path) == []


def test_no_server_says_where_to_put_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"cannot download http://127.0.0.1:9/x.bin \(.*refused.*{tmp_path}/x.bin"):
        fetch(RemoteFile("http://127.0.0.1:9/x.bin", "0" * 64, 10), tmp_path)


def test_a_failure_leaves_neither_an_empty_file_nor_the_folders_made_for_it(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    with pytest.raises(DataError, match="cannot download"):
        fetch(RemoteFile("http://127.0.0.1:9/x.bin", "0" * 64, 10), tmp_path / "cache" / "bptcnn" / "mnist")
    assert names(tmp_path) == ["cache"]
    assert names(tmp_path / "cache") == []
    (tmp_path / "cache" / "x.bin.part").write_bytes(b"begun")
    with pytest.raises(DataError, match="cannot download"):
        fetch(RemoteFile("http://127.0.0.1:9/x.bin", "0" * 64, 10), tmp_path / "cache")
    assert names(tmp_path / "cache") == ["x.bin.part"]


def test_a_folder_that_cannot_be_made_is_an_error_too(remote: RemoteFile, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot download"):
        fetch(remote, tmp_path / "file" / "folder")


def test_many_at_once_fetch_it_once(server: Server, remote: RemoteFile, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fetch(remote, tmp_path).read_bytes(), range(8)))
    assert found == [CONTENT] * 8
    assert server.asked == [None]
    assert names(tmp_path) == ["x.bin"]


def test_who_waited_for_a_file_that_was_replaced_gets_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.part"
    at_the_door = threading.Event()

    def flock(stream: BinaryIO, operation: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            at_the_door.set()
        fcntl.flock(stream, operation)

    monkeypatch.setattr(download, "fcntl", SimpleNamespace(flock=flock, LOCK_EX=fcntl.LOCK_EX))

    def write() -> None:
        with download._locked(path) as stream:
            stream.write(b"new")

    waiting = threading.Thread(target=write)
    with download._locked(path):
        waiting.start()
        assert at_the_door.wait(timeout=10)
        path.rename(tmp_path / "moved")
        path.touch()
    waiting.join()
    assert path.read_bytes() == b"new"
    assert (tmp_path / "moved").read_bytes() == b""


def test_a_standard_set_is_downloaded_to_the_cache(server: Server, tmp_path: Path, write_idx) -> None:
    write_idx(tmp_path / "server", np.zeros((3, 4, 4), dtype=np.uint8), np.arange(3))
    server.files = {path.name: path.read_bytes() for path in (tmp_path / "server").iterdir()}
    remote = {
        ("mnist", name): RemoteFile(f"{server.address}/{name}", hashlib.sha256(content).hexdigest(), len(content))
        for name, content in server.files.items()
    }
    arrays = load_idx(Store("mnist", cache=tmp_path / "cache", remote=remote))
    assert arrays.train.labels.tolist() == [0, 1, 2]
    assert names(tmp_path / "cache" / "mnist") == sorted(server.files)


def test_the_table_of_files_is_complete_and_its_servers_can_be_replaced() -> None:
    table = remote_files({name: f"http://here/{name}" for name in SERVERS})
    assert {name for name, _ in table} == set(SERVERS)
    assert len(table) == 9
    for (name, file), remote in table.items():
        assert remote.url == f"http://here/{name}/{file}"
        assert remote.name == file
        assert len(bytes.fromhex(remote.sha256)) == 32
