"""Speeds that change over virtual time: times by hand, the integral they are defined by, and runs under them."""

from __future__ import annotations

from itertools import accumulate
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs import PAPER_SPEEDS, Blank, a_config, linear

from bptcnn.api import simulate
from bptcnn.engine.virtual import SpeedTrace, changing, steady
from bptcnn.engine.virtual.trace import HOLD_S, SWING

STEPS = SpeedTrace([(2.0, 100.0), (3.0, 50.0), (inf, 200.0)])

spans = st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(10.0, 1000.0)), min_size=1, max_size=8)


def trace_of(pieces: list[tuple[float, float]]) -> SpeedTrace:
    """A trace of (span, speed); the last speed stays."""
    ends = accumulate(span for span, _ in pieces[:-1])
    return SpeedTrace(zip([*ends, inf], (speed for _, speed in pieces), strict=True))


def trained(trace: SpeedTrace, start_s: float, stop_s: float) -> float:
    """Samples between two moments, added up piece by piece."""
    total = 0.0
    while start_s < stop_s:
        end_s = min(stop_s, trace.holds_until_s(start_s))
        total += trace.samples_per_s(start_s) * (end_s - start_s)
        start_s = end_s
    return total


# ------------------------------------------------------------------------------------------ time by hand


@pytest.mark.parametrize(
    ("start_s", "samples", "duration_s"),
    [
        (0.0, 100, 1.0),
        (0.0, 200, 2.0),
        (0.0, 225, 2.5),
        (0.0, 250, 3.0),
        (0.0, 450, 4.0),
        (1.0, 150, 2.0),
        (2.0, 25, 0.5),
        (2.5, 25, 0.5),
        (7.0, 100, 0.5),
    ],
)
def test_a_step_takes_so_long(start_s: float, samples: int, duration_s: float) -> None:
    assert STEPS.duration_s(start_s, samples) == pytest.approx(duration_s)


def test_at_the_moment_of_a_change_the_new_speed_holds() -> None:
    assert [STEPS.samples_per_s(at_s) for at_s in (0.0, 1.999, 2.0, 3.0, 1e9)] == [100, 100, 50, 200, 200]
    assert [STEPS.holds_until_s(at_s) for at_s in (0.0, 2.0, 3.0)] == [2.0, 3.0, inf]


def test_a_steady_speed_divides_to_the_last_bit() -> None:
    assert steady(0, 300.0).duration_s(7.1, 32) == 32 / 300.0


def test_the_sum_changes_whenever_a_part_does() -> None:
    total = SpeedTrace.total([STEPS, SpeedTrace([(2.5, 1.0), (inf, 2.0)]), SpeedTrace.steady(10.0)])
    assert [total.samples_per_s(at_s) for at_s in (0.0, 2.0, 2.5, 3.0)] == [111, 61, 62, 212]
    assert [total.holds_until_s(at_s) for at_s in (0.0, 2.0, 2.5, 3.0)] == [2.0, 2.5, 3.0, inf]


# -------------------------------------------------------------------------------------------- properties


@given(pieces=spans, start_s=st.floats(0, 30), samples=st.floats(0.5, 1e4))
def test_the_integral_of_the_speed_over_the_duration_is_the_samples(
    pieces: list[tuple[float, float]], start_s: float, samples: float
) -> None:
    trace = trace_of(pieces)
    stop_s = start_s + trace.duration_s(start_s, samples)
    assert trained(trace, start_s, stop_s) == pytest.approx(samples, rel=1e-6, abs=1e-6)


@given(pieces=spans, start_s=st.floats(0, 30), first=st.floats(0.5, 1e4), second=st.floats(0.5, 1e4))
def test_two_steps_in_a_row_take_as_long_as_one_of_both(
    pieces: list[tuple[float, float]], start_s: float, first: float, second: float
) -> None:
    trace = trace_of(pieces)
    one_s = trace.duration_s(start_s, first)
    both_s = one_s + trace.duration_s(start_s + one_s, second)
    assert both_s == pytest.approx(trace.duration_s(start_s, first + second))


@given(seed=st.integers(0, 2**32), worker=st.integers(0, 7))
def test_drawn_speeds_follow_their_seed_and_keep_their_bounds(seed: int, worker: int) -> None:
    one, two = (changing(seed)(worker, 100.0) for _ in range(2))
    at_s, speeds = 0.0, set()
    for _ in range(20):
        assert one.samples_per_s(at_s) == two.samples_per_s(at_s)
        assert 100 / SWING <= one.samples_per_s(at_s) <= 100 * SWING
        held_s = one.holds_until_s(at_s) - at_s
        assert HOLD_S[0] - 1e-6 <= held_s <= HOLD_S[1] + 1e-6
        speeds.add(one.samples_per_s(at_s))
        at_s = one.holds_until_s(at_s)
    assert len(speeds) == 20


def test_every_worker_has_a_trace_of_its_own() -> None:
    firsts = {changing(3)(worker, 100.0).samples_per_s(0.0) for worker in range(8)}
    assert len(firsts) == 8


# -------------------------------------------------------------------------------------------- whole runs


def test_a_run_on_changing_speeds_repeats_and_differs_from_a_steady_one(tmp_path: Path) -> None:
    config = a_config("agwu", "dynamic", batch_size=5, exchange={"every": 1})
    data = (Blank(4000), Blank(2))
    took = [
        simulate(config, model=linear, data=data, out=tmp_path / str(number), trace=trace, timing_only=True).summary[
            "train_seconds"
        ]
        for number, trace in enumerate((7, 7, 8, None))
    ]
    assert took[0] == took[1]
    assert len(set(took)) == 3
    assert took[3] == pytest.approx(8000 / sum(PAPER_SPEEDS), rel=0.02)


def test_one_worker_takes_the_integral_of_its_speed(tmp_path: Path) -> None:
    config = a_config("agwu", "uniform", (1000.0,), epochs=1)
    trace = SpeedTrace([(1.0, 1000.0), (3.0, 250.0), (inf, 500.0)])
    run = simulate(
        config,
        model=linear,
        data=(Blank(2000), Blank(2)),
        out=tmp_path / "run",
        trace=lambda worker, samples_per_s: trace,
        timing_only=True,
    )
    assert run.summary["train_seconds"] == pytest.approx(1 + 2 + 500 / 500, abs=1e-5)


def test_all_the_speed_is_used_however_it_changes(tmp_path: Path) -> None:
    """The ideal of a benchmark: small leases on changing speeds take hardly longer than one worker with their sum."""
    workers = list(enumerate(PAPER_SPEEDS))
    total = SpeedTrace.total([changing(5)(worker, speed) for worker, speed in workers])
    config = a_config("agwu", "dynamic", batch_size=5, exchange={"every": 1})
    run = simulate(config, model=linear, data=(Blank(8000), Blank(2)), out=tmp_path / "run", trace=5, timing_only=True)
    assert run.summary["train_seconds"] == pytest.approx(total.duration_s(0.0, 16_000), rel=0.02)
