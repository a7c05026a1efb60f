"""Joining a Ray cluster, or starting one that nobody else can attach to by accident."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import ray

from bptcnn.engine.ray.fate import helpers_die_with_us
from bptcnn.errors import ClusterError

ENVIRONMENT: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_max_direct_call_object_size": "400000",
}
"""Set where the user has set nothing: joins need a token, nothing is sent home, workers see the GPUs there are, and
what has less than 400 kB travels with the call. (From 100 kB on Ray would use shared memory, which costs a small
network 2 ms an exchange; at 600 kB both take as long. In a cluster that was running before, its own environment
counts.)"""

SLOTS_PER_WORKER = 8
"""Logical CPUs of a local cluster for each worker: a replacement must not wait for the slot of a hung process."""

WORKERS_PER_CORE = 16
"""More processes than this on one core of this machine would take minutes to start, and its memory."""

PROBE_S = 5.0
"""How long a machine may take to answer at all."""

_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a gRPC client begins, followed by its empty SETTINGS frame (RFC 9113, section 3.4)."""

_SETTINGS = b"\x04"
"""The type of the frame that a gRPC server answers with."""


@contextmanager
def cluster(address: str | None, num_workers: int) -> Iterator[int]:
    """Be connected to a cluster.

    An existing connection of this process is used and kept; a cluster started here ends here.

    Args:
        address: of a running cluster; None to start one on this machine.
        num_workers: to make room for.

    Yields:
        The number of machines.

    Raises:
        ClusterError: the cluster cannot be reached, refuses us or lacks room.
    """
    if address is None and not ray.is_initialized():
        _check_room(num_workers, num_cores=len(os.sched_getaffinity(0)))
    if ray.is_initialized():
        yield _machines(num_workers)
        return
    with helpers_die_with_us() as guard, _own_connection():
        if address is None:
            try:
                _start(num_workers)
            finally:
                guard()
        else:
            _join(address)
        yield _machines(num_workers)


def this_node() -> str:
    """The id of the machine that the driver runs on."""
    return str(ray.get_runtime_context().get_node_id())


def encrypts() -> bool:
    """Whether Ray is told to encrypt what it sends."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def _check_room(num_workers: int, num_cores: int) -> None:
    most = WORKERS_PER_CORE * num_cores
    if num_workers > most:
        raise ClusterError(
            f"{num_workers} workers do not fit on this machine of {num_cores} {'core' if num_cores == 1 else 'cores'} "
            f"(at most {most}): lower --workers, or give --address of a cluster"
        )


def _start(num_workers: int) -> None:
    try:
        _connect("local", num_cpus=SLOTS_PER_WORKER * (num_workers + 1), include_dashboard=False)
    except Exception as error:  # Ray raises many kinds, none of them documented
        raise ClusterError(
            f"cannot start Ray on this machine ({_brief(error)}): look for free memory, disk space and process limits, "
            "or name a running cluster with --address"
        ) from error


def _join(address: str) -> None:
    _probe(address)
    with _core_messages() as messages:
        try:
            _connect(address)
        except Exception as error:  # as above
            messages.seek(0)
            raise ClusterError(_refusal(address, error, messages.read().decode(errors="replace"))) from error


def _connect(address: str, **settings: Any) -> None:
    ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **settings)


@contextmanager
def _own_connection() -> Iterator[None]:
    """Have Ray as we want it, silent above all, and leave no trace of that for whoever uses Ray next."""
    core: Any = ray._raylet
    worker: Any = ray._private.worker
    logger = logging.getLogger("ray")
    level = logger.level
    ours = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(ours)
    core.Config.initialize("")  # Ray read the environment when it was imported
    worker._worker_logs_enabled = False  # else it prints a paragraph for each process that dies
    try:
        yield
    finally:
        ray.shutdown()
        logger.setLevel(level)
        worker._worker_logs_enabled = True
        for name in ours:
            del os.environ[name]
        core.Config.initialize("")


def _probe(address: str) -> None:
    """Tell within seconds that no Ray head listens at an address: ``ray.init`` would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ClusterError(f"address {address!r} is not valid: write HOST:PORT of the Ray head, as in 10.0.0.1:6379")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S) as connection:
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nothing answers at {address!r} ({_brief(error)}): start a cluster there with 'ray start --head', "
            "or correct the address"
        ) from None
    if answer[3:4] != _SETTINGS and not encrypts():
        raise ClusterError(f"what answers at {address!r} is no Ray head: give the port that 'ray start --head' named")


def _refusal(address: str, error: Exception, messages: str) -> str:
    if "token" in str(error) or "AuthToken" in messages:
        return (
            f"the Ray cluster at {address!r} wants its own token: copy it from the head (~/.ray/auth_token) or put it "
            "into RAY_AUTH_TOKEN; for a cluster without tokens set RAY_AUTH_MODE=disabled"
        )
    return (
        f"cannot join the Ray cluster at {address!r} ({_brief(error)}): run bptcnn on a machine of that cluster, "
        "with the same versions of Python and Ray"
    )


@contextmanager
def _core_messages() -> Iterator[IO[bytes]]:
    """Keep what Ray's core writes to file descriptor 2, a line for each attempt: it holds the reason of a refusal."""
    with tempfile.TemporaryFile() as messages:
        terminal = os.dup(2)
        os.dup2(messages.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _machines(num_workers: int) -> int:
    """The number of machines that workers can be on."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    slots = int(resources.get("CPU", 0))
    if slots < num_workers:
        raise ClusterError(
            f"the Ray cluster has {slots} CPUs, too few for workers.count = {num_workers}: "
            "lower it, add machines, or give --num-cpus to 'ray start'"
        )
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(1 for node in nodes if node["Alive"] and node["Resources"].get("CPU"))


def _brief(error: Exception) -> str:
    """The beginning of an error's text, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.removeprefix("[Errno ").partition("] ")[2] if text.startswith("[Errno ") else text[:200].rstrip(".: ")
