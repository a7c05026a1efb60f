"""``bptcnn train`` as a user runs it: what is printed, how it stops, what stays behind, how it goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from real.processes import alive, bptcnn, closed, descendants, events_of, pushes, summary_of, until

pytestmark = pytest.mark.real

EPOCHS = 12
RUN = f"--epochs {EPOCHS} --speeds 1500,500 --set exchange.every=4 --set checkpoint.every_s=0.5"


def train(*words: str) -> list[str]:
    return ["train", *RUN.split(), *words]


def test_a_killed_driver_leaves_nothing_running_and_its_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with bptcnn(*train("--out", "run"), cwd=tmp_path) as first:
        until(lambda: pushes(out) > 20, "some exchanges")
        below = descendants(first.pid)
        assert any(title.startswith("ray::ServerActor") for title in below.values())
        first.process.kill()
        first.wait()
        until(lambda: not alive(below), "the end of all processes", patience_s=10)
    saved = [event for event in events_of(out) if event["event"] == "save_checkpoint"]
    before = [event for event in events_of(out) if event["event"] == "evaluated"]

    with bptcnn("train", "--resume", "run", cwd=tmp_path) as second:
        assert second.wait() == 0, second.complained
    summary = summary_of(out)
    assert closed(summary, epochs=EPOCHS)
    resumed = events_of(out)
    history = summary["time_to_accuracy"]
    print(saved[-1], before[-1], history)

    with bptcnn("train", "--resume", "run", cwd=tmp_path) as third:
        assert third.wait() == 2
    assert third.complained == "bptcnn: the run in 'run' is finished, nothing is left to train: choose another --out\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_stops_with_a_final_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    with bptcnn(*train("--out", "run"), cwd=tmp_path) as running:
        until(lambda: pushes(out) > 20, "some exchanges")
        running.to_group(number)
        assert running.wait(20) == 130
    print(running.printed)
    assert running.complained == ""
    assert summary_of(out)["outcome"] == "interrupted"


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with bptcnn(*train("--out", "run"), cwd=tmp_path) as running:
        until(lambda: pushes(out) > 20, "some exchanges")
        below = descendants(running.pid)
        running.to_group(signal.SIGINT)
        running.to_group(signal.SIGINT)
        assert running.wait(10) == 130
        until(lambda: not alive(below), "the end of all processes", patience_s=10)
    assert running.complained == ""
