"""Calls of a server that dies, stands still or takes long to start; no Ray, no waiting."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from bptcnn.engine.ray import reach
from bptcnn.engine.ray.reach import FROZEN_S, PATIENCE_S, Reach
from bptcnn.errors import CheckpointError, ClusterError

SILENCE = ray.exceptions.GetTimeoutError
DEATH = ray.exceptions.ActorDiedError


class Script:
    """What becomes of each call, in order; time passes only while one waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *outcomes: Any) -> None:
        self.now, self.killed, self.outcomes = 0.0, 0, list(outcomes)
        handle = SimpleNamespace(poll=SimpleNamespace(remote=lambda *arguments: arguments))
        self.server = Reach(handle, Path("runs/a"))
        monkeypatch.setattr(reach.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(reach.time, "sleep", self._pass)
        monkeypatch.setattr(reach.ray, "get", self._get)
        monkeypatch.setattr(reach.ray, "kill", self._kill)

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def _get(self, call: Any, timeout: float) -> Any:
        outcome = self.outcomes.pop(0)
        if outcome is SILENCE:
            self.now += timeout
        if isinstance(outcome, type):
            raise outcome()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome, *call

    def _kill(self, handle: Any, no_restart: bool = True) -> None:
        assert not no_restart
        self.killed += 1


def test_who_has_answered_and_stands_still_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, "one", SILENCE, DEATH, "two")
    assert script.server.ask("poll", 7) == ("one", 7)
    assert script.server.ask("poll", 8) == ("two", 8)
    assert script.killed == 1


@pytest.mark.parametrize("before", [(), ("one", DEATH), ("one", SILENCE)])
def test_who_is_still_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch, before: tuple[Any, ...]) -> None:
    script = Script(monkeypatch, *before, SILENCE, "two")
    if before:
        assert script.server.ask("poll") == ("one",)
    killed = sum(outcome is SILENCE for outcome in before)
    assert script.server.ask("poll") == ("two",)
    assert script.killed == killed


def test_who_does_not_come_back_ends_the_run_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, *[SILENCE] * 9)
    with pytest.raises(ClusterError, match="did not come back within 150 s: go on with --resume runs/a"):
        script.server.ask("poll")
    assert PATIENCE_S < script.now < PATIENCE_S + 2 * FROZEN_S
    assert script.killed == 0


def test_what_the_server_met_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = CheckpointError("damaged")
    script = Script(monkeypatch, ray.exceptions.RayTaskError("poll", "", damaged))
    with pytest.raises(CheckpointError) as caught:
        script.server.ask("poll")
    assert caught.value is damaged
