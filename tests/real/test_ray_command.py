"""``bptcnn train`` as a user runs it: what is printed, how it stops, what stays behind, how it goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from real.processes import Command, actors, alive, bptcnn, closed, descendants, events_of, summary_of, until

from bptcnn.api import train
from bptcnn.errors import CheckpointError

pytestmark = pytest.mark.real

EPOCHS = 5
EVERY_S = 0.5
START = (
    f"train --out run --epochs {EPOCHS} --speeds 2400,1200 --set exchange.every=4 --set checkpoint.every_s={EVERY_S}"
)
RESUME = "train --resume run"


def committed(folder: Path) -> int:
    """Samples committed in the last session, as far as the journal shows."""
    samples = 0
    for entry in events_of(folder):
        samples = 0 if entry["event"] == "session_started" else samples + entry.get("samples", 0)
    return samples


def trains_on(running: Command, folder: Path, *, session: int, samples: int = 1000) -> None:
    """Wait until a session has trained for a while."""

    def far() -> bool:
        assert running.process.poll() is None, running.complained
        sessions = [entry["session"] for entry in events_of(folder) if entry["event"] == "session_started"]
        return sessions[-1:] == [session] and committed(folder) >= samples

    until(far, f"session {session}")


def ours_only(running: Command) -> bool:
    """Whether stderr is empty and nothing of Ray or PyTorch is among the printed lines."""
    printed = running.printed.lower()
    return running.complained == "" and not any(word in printed for word in ("ray", "torch", "warning", "traceback"))


def test_a_run_is_stopped_then_killed_and_ends_with_every_sample_counted(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with bptcnn(*START.split(), cwd=tmp_path) as first:
        trains_on(first, out, session=0)
        first.to_group(signal.SIGINT)
        assert first.wait() == 130
    assert ours_only(first)
    assert "continue it with: bptcnn train --resume run" in first.printed
    stopped = summary_of(out)
    assert stopped["outcome"] == "interrupted"

    with bptcnn(*RESUME.split(), cwd=tmp_path) as second:
        trains_on(second, out, session=1)
        everything = descendants(second.pid)
        os.kill(actors("Worker", second.pid)[0], signal.SIGSTOP)
        second.process.kill()
        second.wait()
        until(lambda: not alive(everything), "the end of all processes, the stopped one too", patience_s=15)

    with damaged(max((out / "checkpoints").iterdir())), pytest.raises(CheckpointError, match="is damaged: delete"):
        train(resume=out)

    with bptcnn(*RESUME.split(), cwd=tmp_path) as third:
        assert third.wait() == 0, third.complained
    assert ours_only(third)
    summary = summary_of(out)
    assert closed(summary, epochs=EPOCHS)
    times = [at_s for at_s, _, _ in summary["time_to_accuracy"]]
    assert times == sorted(times)
    assert summary["time_to_accuracy"][: len(stopped["time_to_accuracy"])] == stopped["time_to_accuracy"]
    entries = events_of(out)
    [*_, restart] = [n for n, entry in enumerate(entries) if entry["event"] == "session_started"]
    [*_, saved] = [entry for entry in entries[:restart] if entry["event"] == "save_checkpoint"]
    assert entries[restart - 1]["t"] - saved["t"] < 2 * EVERY_S


def test_an_impatient_user_leaves_nothing_behind(tmp_path: Path) -> None:
    with bptcnn(*START.replace(f"--epochs {EPOCHS}", "--epochs 200").split(), cwd=tmp_path) as running:
        trains_on(running, tmp_path / "run", session=0)
        everything = descendants(running.pid)
        running.to_group(signal.SIGINT)
        until(lambda: "stopping: the last checkpoint is being written" in running.printed, "the notice")
        running.to_group(signal.SIGINT)
        assert running.wait() == 130
        until(lambda: not alive(everything), "the end of all processes", patience_s=3)
    assert ours_only(running)


@contextmanager
def damaged(checkpoint: Path) -> Iterator[None]:
    """One bit of a checkpoint is wrong for a while."""
    state = checkpoint / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    yield
    state.write_bytes(whole)
