"""The parts of the virtual engine: clock, link, fault plans, Ctrl-C; and what both engines share around the server."""

from __future__ import annotations

import signal
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs import Blank, a_config, linear

from bptcnn.data import wrap
from bptcnn.engine.job import prepare
from bptcnn.engine.journal import Journal
from bptcnn.engine.server import Server
from bptcnn.engine.summary import summarize
from bptcnn.engine.translate import pushed, work
from bptcnn.engine.virtual.clock import VirtualClock
from bptcnn.engine.virtual.faults import Fault, FaultPlan
from bptcnn.engine.virtual.interrupt import held_back
from bptcnn.engine.virtual.link import Link
from bptcnn.errors import ConfigError, ModelError
from bptcnn.inner.work import Finished
from bptcnn.outer.coordination import begin
from bptcnn.outer.messages import Lease, Pushed, Send, StopRequested, WorkerJoined

# --------------------------------------------------------------------------------------------------- clock


@given(times=st.lists(st.floats(0, 100), max_size=30))
def test_appointments_are_kept_in_order_and_ties_in_the_order_they_were_made(times: list[float]) -> None:
    clock, kept = VirtualClock(), []
    for number, when in enumerate(times):
        clock.at(when, lambda number=number, when=when: kept.append((clock.now, when, number)))
    while clock.step():
        pass
    assert all(now == when for now, when, _ in kept)
    assert [(when, number) for _, when, number in kept] == sorted((when, number) for number, when in enumerate(times))


def test_an_appointment_in_the_past_is_kept_now() -> None:
    clock = VirtualClock(5.0)
    clock.at(3.0, lambda: clock.after(1.0, lambda: None))
    assert clock.step()
    assert clock.now == 5.0
    assert clock.step()
    assert clock.now == 6.0
    assert not clock.step()


# ---------------------------------------------------------------------------------------------------- link


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("free", 0.0),
        ("5ms", 0.005),
        ("100Mbit", 0.08),
        ("100Mbit,5ms", 0.085),
        ("0.5Gbit", 0.016),
        ("8000kbit,0ms", 1.0),
    ],
)
def test_a_megabyte_takes_so_long(text: str, seconds: float) -> None:
    assert Link.parse(text).transfer_s(1_000_000) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "100", "100mbit", "5s", "-5ms", "100Mbit,5ms,2ms", "100Mbit 5ms"])
def test_a_link_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not understood: write free, 100Mbit or 100Mbit,5ms$"):
        Link.parse(text)


def test_a_link_without_bandwidth_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^link '0Mbit,5ms' has no bandwidth: give more than 0 bit/s$"):
        Link.parse("0Mbit,5ms")


# --------------------------------------------------------------------------------------------- fault plans


def parsed(text: str) -> tuple[Fault, ...]:
    return FaultPlan.parse(text, num_workers=4, horizon_s=10.0).faults


def test_a_plan_is_read_in_order_of_time() -> None:
    assert parsed("crash@7, kill:1@5,freeze:2@0.5+3,join:1500@6,duplicate:3@6,delay:0@8+0.25") == (
        Fault("freeze", 0.5, 2, 3.0),
        Fault("kill", 5.0, 1),
        Fault("join", 6.0, 1500.0),
        Fault("duplicate", 6.0, 3),
        Fault("crash", 7.0, 0),
        Fault("delay", 8.0, 0, 0.25),
    )
    assert parsed("") == ()


@pytest.mark.parametrize(
    "text",
    [
        *("kill@5", "kill:1", "crash:1@5", "explode:1@5", "freeze:1@5", "kill:1@5+2", "delay:1@5", "kill:-1@5"),
        *("random:x", "random:²", "random:1,kill:1@5", "kill:1@5s"),
    ],
)
def test_a_fault_of_another_form_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^fault '.*' is not understood: write kill:WORKER@S, .* or random:SEED$"):
        parsed(text)


@pytest.mark.parametrize("text", ["kill:4@5", "freeze:17@1+1", "kill:0.5@5"])
def test_a_worker_that_does_not_exist_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"names worker .*: there are workers 0 to 3$"):
        parsed(text)


def test_nobody_joins_at_no_speed() -> None:
    with pytest.raises(ConfigError, match=r"^fault 'join:0@5' has a speed of 0: give samples per second above 0$"):
        parsed("join:0@5")


@given(seed=st.integers(0, 2**32))
def test_a_random_plan_follows_its_seed_and_fits_the_run(seed: int) -> None:
    faults = parsed(f"random:{seed}")
    assert faults == parsed(f"random:{seed}")
    assert 3 <= len(faults) <= 9
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    for fault in faults:
        assert 0 <= fault.at_s <= 9.0
        assert 0 < fault.span_s <= 10.0
        assert fault.number >= 100 if fault.kind == "join" else fault.number in range(4)


def test_random_plans_hold_every_kind() -> None:
    kinds = {fault.kind for seed in range(40) for fault in parsed(f"random:{seed}")}
    assert kinds == {"kill", "freeze", "delay", "duplicate", "join", "crash"}


# -------------------------------------------------------------------------------------------------- Ctrl-C


def test_ctrl_c_waits_until_somebody_asks() -> None:
    with held_back() as pressed:
        assert not pressed()
        signal.raise_signal(signal.SIGINT)
        assert pressed()
        assert not pressed()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def press_twice() -> None:
    with held_back():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_a_second_ctrl_c_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_with_its_own_handling_of_ctrl_c_keeps_it() -> None:
    heard: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with held_back() as pressed:
            signal.raise_signal(signal.SIGINT)
            assert not pressed()
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, previous)


def test_other_threads_are_left_alone() -> None:
    answers: list[bool] = []

    def ask() -> None:
        with held_back() as pressed:
            answers.append(pressed())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [False]


# ----------------------------------------------------------------------------------- between the two layers


def test_every_field_finds_its_place_between_the_layers() -> None:
    lease = Lease(4, 1, 3, 2, -1, np.array([5, 3]), (0.25, 0.5))
    ours = work(lease)
    assert (ours.id, ours.epoch, ours.progress) == (4, 2, (0.25, 0.5))
    assert ours.indices is lease.indices
    finished = Finished(7, 4, 11, 2, 60, 0.5, 0.25, 0.75, np.ones(2, np.float32))
    message = pushed(1, 3, finished)
    assert (message.worker, message.incarnation) == (1, 3)
    for field in fields(Finished):  # what goes to other workers does not go to the server
        assert field.name in ("to", "parcel") or getattr(message, field.name) is getattr(finished, field.name)


# --------------------------------------------------------------------------------------- job and server


def test_more_than_half_of_the_data_is_not_held_out() -> None:
    config = a_config({"name": "sgwu", "accuracy_from": "validation"}, evaluation={"validation": 51})
    with pytest.raises(
        ConfigError, match=r"^evaluation\.validation = 51 is more than half of the 100 training samples: lower it$"
    ):
        prepare(config, linear, wrap(Blank(100), Blank(2)))
    assert len(prepare(config, linear, wrap(Blank(102), Blank(2))).train) == 51
    assert prepare(a_config(), linear, wrap(Blank(100), Blank(2))).validation is None


def test_a_network_that_does_not_fit_is_refused_before_the_start() -> None:
    with pytest.raises(ModelError, match="2 outputs but the data has 3 classes"):
        prepare(a_config(), lambda input_shape: linear(input_shape, 2), wrap(Blank(10, num_classes=3), Blank(2)))


def a_server(folder: Path, journal: Journal, **options: object) -> Server:
    config = a_config("agwu", "uniform", (100.0, 50.0), epochs=1, **options)
    setup = prepare(config, linear, wrap(Blank(100), Blank(2))).setup(num_weights=4, session=0)
    return Server(begin(setup, None), journal, lambda tree: None)


def test_balance_is_that_of_the_last_iteration_over_all_workers_that_take_part(tmp_path: Path) -> None:
    with Journal(tmp_path / "events.jsonl", tmp_path / "board", start_s=0.0) as journal:
        coordinator = a_server(tmp_path, journal).coordinator
        coordinator.tally.busy = {1: {0: 3.0, 1: 1.0}, 2: {0: 2.0, 1: 2.0}}
        assert summarize(a_config(), coordinator, 1.0, engine="virtual")["balance"] == 1.0
        coordinator.tally.busy[3] = {1: 1.0}
        assert summarize(a_config(), coordinator, 1.0, engine="virtual")["balance"] == 2.0


def test_status_and_summary_of_two_pushes_by_hand(tmp_path: Path) -> None:
    with Journal(tmp_path / "events.jsonl", tmp_path / "board", start_s=0.0) as journal:
        server = a_server(tmp_path, journal)
        before = server.status(0.0)
        assert (before.committed, before.total, before.eta_s, before.samples_per_s) == (0, 100, None, 0.0)
        assert [row.state for row in before.workers] == ["joining", "joining"]
        server.handle(WorkerJoined(0, 100.0), 1.0)
        sends = server.handle(WorkerJoined(1, 50.0), 2.0)
        for send in sends:
            assert isinstance(send, Send)
            lease = send.leases[0]
            assert lease.size == 17  # 50 samples in three leases
            speed = (100.0, 50.0)[send.worker]
            push = Pushed(send.worker, send.incarnation, 1, lease.id, 0, 2, lease.size, 17 / speed, 0.5, 0.25, None)
            server.handle(push, 3.0)
        status = server.status(4.0)
        assert (status.elapsed_s, status.committed, status.samples_per_s) == (2.0, 34, 17.0)
        assert status.eta_s == pytest.approx(66 / 17)
        first = status.workers[0]
        assert (first.state, first.share, first.steps, first.pushes) == ("training", 0.5, 2, 1)
        assert first.samples_per_s == pytest.approx(100)
        assert (first.loss, first.accuracy, first.waiting) == (0.5, 0.25, pytest.approx(1 - 0.17 / 2))
        assert [row.staleness for row in status.workers] == [0, 1]
        server.handle(StopRequested("interrupted", "the user asked to stop"), 4.0)
        summary = summarize(a_config(speeds=(100.0, 50.0)), server.coordinator, 9.0, engine="virtual")
    assert (summary["outcome"], summary["train_seconds"], summary["epochs"]) == ("interrupted", 2.0, 0.34)
    assert summary["samples_per_second"] == 17.0
    assert summary["balance"] == pytest.approx(0.34 / 0.255)
    assert summary["waiting_fraction"] == pytest.approx([1 - 0.17 / 2, 1 - 0.34 / 2])
    assert summary["bytes_pushed"] == 2 * 16
    assert [worker["asked_speed"] for worker in summary["workers"]] == [100.0, 50.0]
    assert summary["samples"]["lost"] == 0
