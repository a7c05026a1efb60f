"""Packed weights between worker and server: nothing learned is lost, both ends agree, and runs learn as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jobs import PAPER_SPEEDS, Blank, Clouds, a_config, contents, linear
from torch import nn

from bptcnn.api import Run, simulate
from bptcnn.config import RunConfig
from bptcnn.engine import packing
from bptcnn.engine.packing import Letter, ServerEnd, WorkerEnd
from bptcnn.errors import ConfigError, WorkersLostError
from bptcnn.inner import Exchange
from bptcnn.models import FlatModel
from bptcnn.outer.messages import Pushed, Send, Vector
from bptcnn.outer.rules import Easgd, Gosgd, LocalSgd, Strategy
from bptcnn.wire import BLOCK, Dtype, Packed, num_bytes

PACKED: tuple[Dtype, ...] = ("bf16", "int8", "int4", "2bit")
ERROR = {"bf16": 2.0**-8, "int8": (0.5 + 1e-4) / 127, "int4": (0.5 + 1e-4) / 7}
"""The most that rounding changes, as a part of the largest value of a block."""

CONTROL_BYTES = 256


def a_push(delta: Vector | None, incarnation: int = 1, worker: int = 0) -> Pushed:
    return Pushed(worker, incarnation, 1, 0, 0, 1, 1, 0.1, 1.0, 0.5, delta)


def an_answer(weights: Vector | None, incarnation: int = 1, worker: int = 0) -> Send:
    return Send(worker, incarnation, 0, weights, ())


def ends(rule: Strategy, dtype: Dtype, first: Vector | None = None) -> tuple[WorkerEnd, ServerEnd]:
    """Both ends of a connection, after the first answer if there is one."""
    worker, server = WorkerEnd(rule, dtype), ServerEnd(rule, dtype)
    if first is not None:
        answered(server, worker, first)
    return worker, server


def answered(server: ServerEnd, worker: WorkerEnd, weights: Vector) -> Vector:
    """What the worker gets for these weights."""
    got = worker.open(server.pack(an_answer(weights))).weights
    assert got is not None
    return got


def pushed(worker: WorkerEnd, server: ServerEnd, delta: Vector) -> Vector:
    """What the server gets for this push."""
    got = server.open(worker.pack(a_push(delta))).delta
    assert got is not None
    return got


def some(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ------------------------------------------------------------------------------------------------ the two ends

learning = arrays(np.float32, st.tuples(st.integers(1, 30), st.just(5)), elements=st.floats(-1e3, 1e3, width=32))


@pytest.mark.parametrize("dtype", ERROR)
@given(learned=learning)
def test_all_pushes_together_are_what_was_learned_within_one_rounding(dtype: Dtype, learned: np.ndarray) -> None:
    worker, server = ends(LocalSgd(), dtype)
    received = [pushed(worker, server, step).astype(float) for step in learned]
    missing = np.abs(learned.astype(float).sum(0) - np.sum(received, 0))
    last = np.abs(received[-1]).max() * (1 + 2.0**-7)  # what was due with the last push, before it was rounded
    assert missing.max() <= ERROR[dtype] * last + 1e-6 * np.abs(learned).max() * len(learned) + 1e-37


def test_what_pushes_of_two_bits_leave_out_does_not_grow() -> None:
    """A thousand times what a push leaves would be 340: it is added to the next, so it stays below 1."""
    worker, server = ends(LocalSgd(), "2bit")
    learned = some(1000, 500)
    learned /= np.linalg.norm(learned, axis=1, keepdims=True)
    received = sum(pushed(worker, server, step).astype(float) for step in learned)
    left = np.linalg.norm(learned.astype(float).sum(0) - received)
    assert 0.1 < left < 1


def test_what_is_too_small_for_one_push_arrives_with_others() -> None:
    """A weight that moves by 0.1 beside one that moves by 127: 0 in each push alone, 10 in a hundred."""
    worker, server = ends(LocalSgd(), "int8")
    received = [pushed(worker, server, np.array([127.0, 0.1], np.float32)) for _ in range(100)]
    assert [float(step[1]) for step in received[:6]] == [0, 0, 0, 0, 0, 1]
    assert sum(float(step[1]) for step in received) == pytest.approx(10, abs=0.5)


@pytest.mark.parametrize("dtype", PACKED)
def test_answers_lose_nothing_in_the_long_run_and_both_ends_agree_to_the_bit(dtype: Dtype) -> None:
    weights = some(1000)
    worker, server = ends(LocalSgd(), dtype, weights)
    for step in some(20, 1000, seed=1) / 100:
        before, weights = weights, weights + step
        got = answered(server, worker, weights)
        [copy] = server._copies.values()
        assert np.array_equal(got, copy)
        error = ERROR.get(dtype, 3)
        assert np.abs(got - weights).max() <= error * 1.1 * np.abs(weights - before).max()
    for _ in range({"int4": 4, "2bit": 300}.get(dtype, 1)):  # it comes closer without any news
        got = answered(server, worker, weights)
    assert np.abs(got - weights).max() < 1e-5


@pytest.mark.parametrize("dtype", PACKED)
def test_the_first_answer_of_a_life_is_complete(dtype: Dtype) -> None:
    weights = some(10)
    server = ServerEnd(LocalSgd(), dtype)
    for incarnation in (1, 2):
        first, second = an_answer(weights, incarnation), an_answer(weights + 1, incarnation)
        assert not server.changes(first)
        assert np.array_equal(WorkerEnd(LocalSgd(), dtype).open(server.pack(first)).weights, weights)
        assert server.changes(second)
        assert isinstance(server.pack(second).vector, Packed)
    assert np.array_equal(weights, some(10))


@pytest.mark.parametrize("dtype", PACKED)
def test_an_answer_to_an_earlier_life_that_is_packed_late_changes_nothing_for_the_next(dtype: Dtype) -> None:
    server = ServerEnd(LocalSgd(), dtype)
    server.pack(an_answer(some(10), incarnation=2))
    server.pack(an_answer(some(10, seed=1), incarnation=1))
    assert server.changes(an_answer(some(10), incarnation=2))
    assert np.array_equal(server._copies[0, 2], some(10))
    server.pack(an_answer(some(10), incarnation=3))
    assert list(server._copies) == [(0, 3)], "of lives that are over nothing is kept"


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_weights_pushed_as_such_are_rounded_only_where_they_differ(dtype: Dtype) -> None:
    centre = 1000 * some(1000)
    worker, server = ends(Easgd(), dtype, centre)
    for seed in range(1, 5):
        local = centre + some(1000, seed=seed) / 10
        assert np.abs(pushed(worker, server, local) - local).max() < ERROR[dtype] + 1e-3
        centre = answered(server, worker, centre + some(1000, seed=seed) / 100)


def test_a_push_of_an_earlier_life_can_be_read_by_a_server_that_has_forgotten_it() -> None:
    worker, server = ends(Easgd(), "int8", some(10))
    late = worker.pack(a_push(some(10)))
    assert ServerEnd(Easgd(), "int8").open(late).delta is not None
    server.pack(an_answer(some(10), incarnation=2))
    assert server.open(late).incarnation == 1


@pytest.mark.parametrize(("rule", "dtype"), [(LocalSgd(), "fp32"), (Easgd(), "fp32"), (Gosgd(), "int8")], ids=str)
def test_without_packing_the_vectors_themselves_travel(rule: Strategy, dtype: Dtype) -> None:
    worker, server = ends(rule, dtype)
    weights, delta = some(10), some(10, seed=1)
    for _ in range(2):
        letter = server.pack(an_answer(weights))
        assert letter.vector is weights is worker.open(letter).weights
        sent = worker.pack(a_push(delta))
        assert sent.vector is delta is server.open(sent).delta


def test_messages_without_vectors_pass_through() -> None:
    worker, server = ends(LocalSgd(), "int8")
    for _ in range(2):
        assert worker.open(server.pack(an_answer(None))) == an_answer(None)
        assert server.open(worker.pack(a_push(None))) == a_push(None)
    assert server.changes(an_answer(None))


def test_the_workers_own_weights_stay_exactly_what_it_learned() -> None:
    flat = FlatModel(nn.Linear(20, 20))
    exchange, (worker, server) = Exchange(flat, LocalSgd()), ends(LocalSgd(), "int8")
    weights = some(flat.num_weights)
    exchange.fold(answered(server, worker, weights), ahead=False)
    for seed in range(1, 4):
        flat.vector.add_(flat.vector.new_tensor(some(flat.num_weights, seed=seed)))
        weights = weights + pushed(worker, server, exchange.push()) / 2
        since = some(flat.num_weights, seed=seed + 10)
        flat.vector.add_(flat.vector.new_tensor(since))
        got = answered(server, worker, weights)
        exchange.fold(got, ahead=True)
        np.testing.assert_allclose(flat.snapshot(), got + since, atol=2e-6)


# -------------------------------------------------------------------------------------------------- whole runs


def with_dtype(dtype: str, **exchange: Any) -> dict[str, Any]:
    return {"every": 2, **exchange, "dtype": dtype}


def learned(folder: Path, rule: str, dtype: str, **options: Any) -> Run:
    config = a_config(rule, "dynamic", exchange=with_dtype(dtype), epochs=4, optimizer={"lr": 0.05})
    return simulate(config, model=linear, data=(Clouds.draw(600), Clouds.draw(200, seed=1)), out=folder, **options)


@pytest.fixture
def travelled(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes that went through the two ends."""
    total = {"WorkerEnd": 0, "ServerEnd": 0}
    for end in (WorkerEnd, ServerEnd):

        def pack(self: Any, message: Any, plain: Any = end.pack) -> Letter[Any]:
            letter: Letter[Any] = plain(self, message)
            vector = letter.vector
            total[type(self).__name__] += vector.num_bytes if isinstance(vector, Packed) else vector.nbytes
            return letter

        monkeypatch.setattr(end, "pack", pack)
    return total


@pytest.mark.parametrize("dtype", ["fp32", *PACKED])
@pytest.mark.parametrize("rule", ["agwu", "local-sgd", "easgd"])
def test_bytes_in_the_summary_are_those_that_travelled(
    tmp_path: Path, travelled: dict[str, int], rule: str, dtype: str
) -> None:
    run = learned(tmp_path / "run", rule, dtype, link="1Mbit")
    assert run.summary["bytes_pushed"] == travelled["WorkerEnd"]
    assert run.summary["bytes_pulled"] == travelled["ServerEnd"]
    assert run.summary["test_accuracy"] > 0.85


def timing(folder: Path, dtype: str, rule: str = "agwu", link: str = "free", **exchange: Any) -> dict[str, Any]:
    """One worker at 1,000 samples/s, 1,000 samples in ten leases, a network of 8,194 weights."""
    data = (Blank(1000, (16, 16, 16)), Blank(2, (16, 16, 16)))
    exchange = with_dtype(dtype, every=10, **exchange)
    config = a_config(rule, "uniform", (1000.0,), epochs=1, batch_size=10, exchange=exchange)
    return dict(simulate(config, model=linear, data=data, out=folder, link=link, timing_only=True).summary)


@pytest.mark.parametrize(("dtype", "factor"), [("bf16", 2.0), ("int8", 3.93)])
def test_fewer_bytes_take_less_time_on_a_slow_link(tmp_path: Path, dtype: Dtype, factor: float) -> None:
    plain = timing(tmp_path / "plain", "fp32", link="1Mbit", overlap=False)
    found = timing(tmp_path / "run", dtype, link="1Mbit", overlap=False)
    full, packed = 4 * 8194, num_bytes(8194, dtype)
    assert full / packed == pytest.approx(factor, abs=0.01)
    assert (plain["bytes_pushed"], plain["bytes_pulled"]) == (10 * full, 10 * full)
    assert (found["bytes_pushed"], found["bytes_pulled"]) == (10 * packed, full + 9 * packed)
    for summary in (plain, found):
        total = summary["bytes_pushed"] + summary["bytes_pulled"] + 20 * CONTROL_BYTES
        assert summary["train_seconds"] == pytest.approx(1.0 + total / 125_000, abs=3e-6)


def test_messages_between_workers_are_bf16_at_best(tmp_path: Path) -> None:
    def traffic(dtype: str) -> tuple[int, int]:
        """Bytes of messages, without those of reports, and of answers, to four workers that get the first weights."""
        config = a_config("gosgd", "dynamic", exchange=with_dtype(dtype), epochs=1)
        data = (Blank(600, (16, 16, 16)), Blank(2, (16, 16, 16)))
        run = simulate(config, model=linear, data=data, out=tmp_path / dtype, timing_only=True)
        events = (run.path / "events.jsonl").read_text()
        full = 4 * 8194
        return run.summary["bytes_pushed"] - full * events.count('"reported"'), run.summary["bytes_pulled"]

    (plain, first), small = traffic("fp32"), traffic("bf16")
    assert first == 4 * 4 * 8194
    assert small == traffic("int8") == (plain / 2, first)
    assert plain > 0


@pytest.mark.parametrize("dtype", PACKED)
def test_gossip_learns_from_rounded_weights(tmp_path: Path, dtype: str) -> None:
    run, plain = (learned(tmp_path / name, "gosgd", name) for name in (dtype, "fp32"))
    assert run.summary["test_accuracy"] > 0.85
    found, exact = ((r.path / "model.safetensors").read_bytes() for r in (run, plain))
    assert found != exact


@pytest.mark.parametrize("rule", ["agwu", "local-sgd", "easgd"])
def test_digits_are_learned_as_well_in_a_quarter_of_the_bytes(tmp_path: Path, rule: str) -> None:
    usual = {"strategy": rule, "allocation": "dynamic", "model": "case1", "epochs": 4}
    found = {}
    for dtype in ("fp32", "int8"):
        config = RunConfig(**usual, workers={"count": 4, "speeds": PAPER_SPEEDS}, exchange=with_dtype(dtype, every=4))
        found[dtype] = simulate(config, out=tmp_path / dtype).summary
    plain, small = found["fp32"], found["int8"]
    assert plain["bytes_pushed"] / small["bytes_pushed"] == pytest.approx(3.93, abs=0.03)
    assert small["test_accuracy"] > max(0.9, plain["test_accuracy"] - 0.015)


@pytest.mark.parametrize("rule", ["agwu", "local-sgd", "easgd", "gosgd"])
def test_nothing_is_lost_where_everything_breaks_and_runs_are_equal_to_the_bit(tmp_path: Path, rule: str) -> None:
    faults = "kill:1@0.1,freeze:2@0.12+0.1,duplicate:0@0.13,delay:3@0.13+0.5,join:700@0.15,crash@0.3"
    runs = [learned(tmp_path / name, rule, "int8", link="1Mbit,1ms", faults=faults) for name in ("one", "two")]
    samples = runs[0].summary["samples"]
    assert (samples["lost"], samples["duplicated"], samples["committed"]) == (0, 0, 2400)
    assert runs[0].summary["test_accuracy"] > 0.85
    one, two = (contents(run.path) for run in runs)
    assert one == two


def test_random_faults_leave_the_ends_in_step(tmp_path: Path) -> None:
    for seed in range(6):
        rule = ("agwu", "easgd", "local-sgd")[seed % 3]
        try:
            run = learned(tmp_path / str(seed), rule, "int8", link="1Mbit,1ms", faults=f"random:{seed}")
        except WorkersLostError:
            continue
        assert run.summary["samples"]["lost"] == run.summary["samples"]["duplicated"] == 0
        assert run.summary["test_accuracy"] > 0.85, (seed, rule)


def test_another_word_is_answered_in_one_sentence() -> None:
    known = "'fp32', 'bf16', 'int8', 'int4' or '2bit'"
    with pytest.raises(ConfigError, match=rf"^exchange\.dtype = 'fp16' is not valid: input should be {known}$"):
        RunConfig(exchange={"dtype": "fp16"})


def test_sizes_by_hand() -> None:
    weights = 3 * BLOCK + 1
    assert packing.sizes(LocalSgd(), "int8", weights) == (4 * weights, weights + 16, weights + 16)
    assert packing.sizes(Gosgd(), "int8", weights) == (4 * weights, 2 * weights, 4 * weights)
    assert packing.sizes(LocalSgd(), "2bit", weights) == (4 * weights, 4 * 72, 4 * 72)
    assert packing.sizes(Easgd(), "2bit", weights) == packing.sizes(Easgd(), "int8", weights)
    assert packing.sizes(Easgd(), "fp32", weights) == (4 * weights,) * 3
