"""``auto``: the decision against formulas, its promise on any facts, and runs that go on with what was chosen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs import Blank, Watcher, contents, linear

from bptcnn import RunConfig, simulate
from bptcnn.api import Run
from bptcnn.cli import main
from bptcnn.config import compose
from bptcnn.engine import auto
from bptcnn.engine.auto import DTYPES, Candidate, Choice, Predict, Rule, choose, sentence, settle
from bptcnn.engine.facts import Facts, spread_of
from bptcnn.engine.forecast import throughput
from bptcnn.engine.virtual import Link
from bptcnn.errors import ConfigError
from bptcnn.outer.rules import Anytime, AsyncLocalSgd, LocalSgd
from bptcnn.outer.rules.auto import LAG_PRICE
from bptcnn.wire import num_bytes

HL8 = (480.0, 480.0, 320.0, 2560.0)
ALL = ("fp32", "bf16", "int8")
ASKED = RunConfig(strategy="auto")


def some_facts(link: str = "free", num_weights: int = 351_946, num_samples: int = 50_000, spread: float = 0.0) -> Facts:
    return Facts(HL8, (Link.parse(link),) * 4, num_weights, 32, num_samples, spread)


def formula(facts: Facts) -> Predict:
    """With overlap, the exchange of one round hides behind the steps of the next, as far as it is no longer."""

    def kept(candidate: Candidate) -> float:
        exchange_s = 2 * facts.slowest.transfer_s(num_bytes(facts.num_weights, candidate.dtype))
        steps_s = candidate.every * facts.batch_size / max(facts.speeds)
        return steps_s / (max(steps_s, exchange_s) if candidate.overlap else steps_s + exchange_s)

    return kept


def simulated(facts: Facts, candidate: Candidate) -> float:
    config = auto._with(RunConfig(workers={"count": len(facts.speeds), "speeds": facts.speeds}), candidate)
    return throughput(config, facts.num_weights, facts.slowest, candidate.span(facts)) / facts.total


def every(facts: Facts, dtypes: tuple[str, ...], *, overlap: bool = True) -> list[Candidate]:
    return [
        kind._replace(every=cadence, dtype=dtype)
        for kind in auto._kinds(facts, overlap=overlap)
        for cadence in auto._cadences(facts)
        for dtype in dtypes
    ]


def worth(facts: Facts, candidate: Candidate, kept: float, price: float = LAG_PRICE) -> float:
    return float(kept * auto.LEARNED[candidate.dtype] * (1 + candidate.lag(facts)) ** -price)


# ------------------------------------------------------------------------------------------ the forecast


@pytest.mark.parametrize("steps", [1, 4, 100])
def test_without_overlap_a_forecast_is_steps_plus_the_way_there_and_back(steps: int) -> None:
    exchange = {"every": steps, "overlap": False}
    workers = {"count": 3, "speeds": (400.0, 400.0, 400.0)}
    config = RunConfig(strategy="local-sgd", allocation="dynamic", exchange=exchange, workers=workers)
    lease = 32 * steps
    link = Link(1e6, 0.01)
    expected = 3 * lease / (lease / 400 + 2 * link.transfer_s(4 * 100_000))
    assert throughput(config, 100_000, link, span=3 * lease) == pytest.approx(expected, rel=1e-3)


def test_a_server_takes_one_push_after_the_other() -> None:
    workers = {"count": 3, "speeds": (400.0, 400.0, 400.0)}
    config = RunConfig(
        strategy="local-sgd", allocation="dynamic", exchange={"every": 1, "overlap": False}, workers=workers
    )
    expected = 3 * 32 / (32 / 400 + 3 * 0.02)
    assert throughput(config, 1000, Link(), span=3 * 32, handling_s=0.02) == pytest.approx(expected, rel=1e-3)


def test_a_busy_server_is_asked_less_often() -> None:
    """Four pushes of 5 ms each take 20 ms, and a step 12.5 ms: two steps hide them."""
    busy = Facts(HL8, (Link(),) * 4, 1000, 32, 50_000, handling_s=dict.fromkeys(DTYPES, 5e-3))
    config, _ = settle(ASKED, busy)
    assert (config.strategy, config.exchange.every) == (LocalSgd(), 2)


def test_a_server_that_packs_slowly_is_not_asked_to() -> None:
    slow = Facts(HL8, (Link(),) * 4, 352_000, 32, 50_000, handling_s=dict.fromkeys(DTYPES, 6e-3) | {"fp32": 1e-3})
    config, _ = settle(ASKED, slow)
    assert (config.exchange.every, config.exchange.dtype, config.exchange.overlap) == (1, "fp32", True)


@pytest.mark.parametrize(("spread", "waits"), [(0.0, True), (0.03, True), (0.04, False), (0.5, False)])
def test_nobody_waits_for_all_where_speeds_change(spread: float, waits: bool) -> None:
    config, _ = settle(ASKED, some_facts(num_weights=1000, spread=spread))
    assert (config.strategy, config.exchange.every, config.exchange.overlap) == (LocalSgd(), 1, not waits)


@pytest.mark.parametrize("link", ["free", "100Mbit", "100Mbit,5ms", "2Mbit"])
def test_the_choice_by_simulation_is_the_choice_by_formula(link: str) -> None:
    facts = some_facts(link)
    expected = choose(facts, formula(facts), dtypes=DTYPES).candidate
    config, _ = settle(ASKED, facts)
    assert (config.strategy, config.exchange.every, config.allocation.name) == (LocalSgd(), expected.every, "dynamic")
    assert getattr(config.exchange, "dtype", "fp32") == expected.dtype


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_what_is_chosen_is_worth_nearly_as_much_as_any_candidate_and_few_are_played(spread: float) -> None:
    facts = some_facts("20Mbit,3ms", num_weights=40_000, num_samples=500, spread=spread)
    kept = {candidate: simulated(facts, candidate) for candidate in every(facts, DTYPES)}
    asked = []

    def predict(candidate: Candidate) -> float:
        asked.append(candidate)
        return kept[candidate]

    found, _ = choose(facts, predict)
    assert worth(facts, found, kept[found]) >= max(worth(facts, *one) for one in kept.items()) / auto.CLEARLY
    assert len(asked) == len(set(asked)) < len(kept) / 2


# ------------------------------------------------------------------------------------------ the decision


def chosen(facts: Facts, predict: Predict | None = None) -> Candidate:
    return choose(facts, predict or formula(facts), dtypes=ALL).candidate


def test_on_free_links_workers_exchange_after_each_step_uncompressed_and_wait_for_it() -> None:
    assert chosen(some_facts()) == Candidate(LocalSgd(), 1, "fp32", overlap=False)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [  # 2 x 112.6 ms of way against 12.5 ms a step: they take 18 steps, halved with half of the bytes
        (("fp32",), (24, "fp32")),
        (("fp32", "bf16"), (12, "bf16")),
        (ALL, (6, "int8")),
        (DTYPES, (2, "2bit")),  # which take 16 ms
    ],
)
def test_on_a_slow_link_rounds_are_as_long_as_the_weights_are_under_way(
    dtypes: tuple[str, ...], expected: tuple[int, str]
) -> None:
    facts = some_facts("100Mbit")
    assert choose(facts, formula(facts), dtypes=dtypes).candidate[1:] == (*expected, True)


@pytest.mark.parametrize(
    ("num_weights", "dtype"),
    [(18_000, "fp32"), (37_000, "bf16"), (75_000, "int8"), (150_000, "int4"), (270_000, "2bit")],
)
def test_no_more_is_compressed_than_the_cadence_needs(num_weights: int, dtype: str) -> None:
    """78 kB take as long there and back as one step of the fastest worker; no rounds wait where speeds change."""
    facts = some_facts("100Mbit", num_weights, spread=0.1)
    assert choose(facts, formula(facts)).candidate == Candidate(LocalSgd(), 1, dtype)


def test_a_link_that_is_too_slow_for_anything_gets_the_longest_rounds_it_can_use() -> None:
    facts = some_facts("50kbit")
    _, cadence, dtype, _ = chosen(facts)
    assert (cadence, dtype) == (auto._cadences(facts)[-1], "int8")
    assert cadence * 32 * facts.total / max(HL8) <= facts.num_samples
    assert chosen(some_facts("50kbit", num_samples=10))[1] == 1


def test_the_slowest_link_counts() -> None:
    fast, slow = Link(), Link.parse("100Mbit")
    mixed = Facts(HL8, (fast, fast, slow, fast), 351_946, 32, 50_000)
    assert mixed.slowest == slow
    assert chosen(mixed) == chosen(some_facts("100Mbit"))


@pytest.mark.parametrize(
    ("spread", "overlap", "rounds_keep", "rule"),
    [
        (0.2, False, 1.0, LocalSgd()),
        (0.21, False, 1.0, Anytime()),
        (0.21, True, 1.0, LocalSgd()),
        (0.0, True, 0.98, LocalSgd()),
        (0.0, True, 0.82, AsyncLocalSgd(momentum=0.0)),
        (0.5, False, 0.5, AsyncLocalSgd(momentum=0.0)),
    ],
)
def test_rounds_come_first_and_end_by_the_clock_where_speeds_change_and_nothing_makes_up_for_it(
    spread: float, overlap: bool, rounds_keep: float, rule: object
) -> None:
    predict: Predict = lambda candidate: rounds_keep if candidate.rule.synchronous else 1.0  # noqa: E731
    assert choose(some_facts(spread=spread), predict, overlap=overlap).candidate.rule == rule


@given(
    steps=st.floats(0.01, 1000),
    worse=st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)),
    price=st.floats(0, 0.5),
    num_samples=st.integers(1, 100_000),
    spread=st.sampled_from([0.0, 1.0]),
    overlap=st.booleans(),
    link=st.sampled_from(["free", "30ms"]),
)
def test_nothing_would_be_clearly_better(
    steps: float, worse: tuple[float, float], price: float, num_samples: int, spread: float, overlap: bool, link: str
) -> None:
    facts = some_facts(link, num_samples=num_samples, spread=spread)

    def predict(candidate: Candidate) -> float:
        limit = worse[0] if candidate.rule.synchronous else worse[1]
        return limit * min(1.0, 1000 * candidate.every / steps / num_bytes(1000, candidate.dtype))

    found, kept = choose(facts, predict, price, ALL, overlap=overlap)
    assert kept == predict(found)
    best = max(worth(facts, one, predict(one), price) for one in every(facts, ALL, overlap=overlap))
    assert worth(facts, found, kept, price) >= best / auto.CLEARLY * (1 - 1e-8)
    shorter = (found._replace(every=cadence) for cadence in auto._cadences(facts) if cadence < found.every)
    assert all(worth(facts, one, predict(one), price) < worth(facts, found, kept, price) for one in shorter)


@pytest.mark.parametrize(
    ("kept", "price", "waits"),
    [(0.91, 0.15, True), (0.88, 0.15, False), (0.98, 0.0, False), (0.995, 0.0, True), (0.8, 0.5, True)],
)
def test_a_round_waits_while_that_costs_less_than_a_step_of_lag(kept: float, price: float, waits: bool) -> None:
    """Rounds of one step; to overlap makes the weights of others a step older: 2^-0.15 is 0.90."""

    def predict(candidate: Candidate) -> float:
        return 1.0 if candidate.overlap else kept

    found, _ = choose(some_facts(num_samples=64), predict, price)
    assert found == Candidate(LocalSgd(), 1, "fp32", overlap=not waits)


@pytest.mark.parametrize(
    ("rule", "steps", "waits", "overlaps"),
    [(LocalSgd(), 1, 0.0, 1.0), (Anytime(), 4, 1.5, 2.5), (AsyncLocalSgd(), 1, 1.0, 2.0), (AsyncLocalSgd(), 3, 3, 4)],
)
def test_weights_of_others_are_older_the_longer_a_lease_and_by_a_step_where_none_waits(
    rule: Rule, steps: int, waits: float, overlaps: float
) -> None:
    candidate, facts = Candidate(rule, steps, "fp32"), some_facts()
    assert (candidate._replace(overlap=False).lag(facts), candidate.lag(facts)) == (waits, overlaps)


@pytest.mark.parametrize(
    ("rule", "steps", "latency_ms", "handling_s", "ahead"),
    [  # a step takes 12.5 ms
        (LocalSgd(), 8, 6.25, 0.0, 1),
        (LocalSgd(), 8, 6.3, 0.0, 2),
        (LocalSgd(), 8, 30.0, 0.0, 5),
        (LocalSgd(), 4, 30.0, 0.0, 4),  # then it waits
        (LocalSgd(), 8, 6.0, 1e-3, 2),  # four at once at the server
        (AsyncLocalSgd(), 8, 6.0, 0.5e-3, 1),
    ],
)
def test_answers_are_late_by_the_steps_that_fit_into_their_way(
    rule: Rule, steps: int, latency_ms: float, handling_s: float, ahead: int
) -> None:
    handling = dict.fromkeys(DTYPES, handling_s)
    facts = Facts(HL8, (Link(latency_s=latency_ms / 1e3),) * 4, 1000, 32, 50_000, handling_s=handling)
    candidate = Candidate(rule, steps, "fp32")
    assert candidate.lag(facts) - candidate._replace(overlap=False).lag(facts) == ahead


def test_short_leases_without_rounds_come_before_long_rounds() -> None:
    def predict(candidate: Candidate) -> float:
        return min(1.0, candidate.every / (4 if candidate.rule.synchronous else 1))

    found, _ = choose(some_facts(), predict)
    assert (found.rule.synchronous, found.every) == (False, 1)


def test_rounds_by_the_clock_may_be_short_though_longer_ones_keep_less() -> None:
    kept = {1: 0.98, 2: 1.0, 3: 0.97, 4: 1.0, 6: 0.9, 8: 0.9, 12: 1.0}

    def predict(candidate: Candidate) -> float:
        return kept.get(candidate.every, 0.9 if candidate.every < 1000 else 1.0)

    found, _ = choose(some_facts(spread=1.0), predict, overlap=False)
    assert (found.rule.name, found.every) == ("anytime", 1)


def test_the_spread_is_that_of_the_worst_worker_and_heeds_no_single_slip() -> None:
    assert spread_of([[5.0] * 7, [100.0, 100.0, 100.0, 100.0, 20.0]]) == 0
    assert spread_of([[5.0] * 7, [50.0, 100.0, 150.0]]) == pytest.approx(0.5)
    assert spread_of([[5.0], []]) == 0


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("free", "free links"),
        ("100Mbit", "links of 12.5 MB/s"),
        ("5ms", "links of 5 ms"),
        ("1Gbit,0.5ms", "links of 125 MB/s and 0.5 ms"),
    ],
)
def test_the_reason_is_one_sentence(link: str, words: str) -> None:
    text = sentence(Choice(Candidate(LocalSgd(), 4, "bf16"), 0.9812), some_facts(link))
    choice, reason = text.split(" steps in bf16, overlapped: ")
    assert choice == "auto: local-sgd, an exchange every 4"
    assert reason == f"should learn most a second, at 98 % of 3,840 samples/s, on {words}"


def test_the_reason_names_what_is_unusual() -> None:
    facts = some_facts(spread=0.35)
    assert sentence(Choice(Candidate(Anytime(), 1, "fp32", overlap=False), 1.0), facts).startswith(
        "auto: anytime, as speeds vary by 35 %, an exchange every step: should learn"
    )
    assert "auto: async-local-sgd, as rounds keep less, an exchange" in sentence(
        Choice(Candidate(AsyncLocalSgd(), 2, "fp32"), 1.0), some_facts()
    )


# -------------------------------------------------------------------------------------------------- runs


def a_run(
    path: Path, link: str = "10Mbit,2ms", trace: int | None = None, watcher: Watcher | None = None, **more: Any
) -> Run:
    usual = {"strategy": "auto", "epochs": 3, "workers": {"count": 4, "speeds": HL8}}
    config = RunConfig(**{**usual, **more})
    data = (Blank(4000, (1, 8, 8)), Blank(2, (1, 8, 8)))
    return simulate(
        config, model=linear, data=data, out=path, link=link, trace=trace, timing_only=True, observer=watcher
    )


def test_a_simulation_says_what_it_chose_and_is_the_run_with_these_settings(tmp_path: Path) -> None:
    watcher = Watcher()
    run = a_run(tmp_path / "auto", watcher=watcher)
    [notice] = run.notices
    assert watcher.notices == [notice]
    assert watcher.noticed_after == [0]
    stored = compose(run.path / "config.toml", {})
    assert notice.startswith(f"auto: {stored.strategy.name}, an exchange every ")
    assert stored.strategy == LocalSgd()
    assert (run.summary["strategy"], run.summary["allocation"]) == ("local-sgd", "dynamic")
    settings = stored.model_dump(include={"strategy", "allocation", "exchange"})
    again = a_run(tmp_path / "again", **settings)
    assert again.notices == ()
    assert contents(run.path) == contents(again.path)


def test_speeds_that_change_are_foreseen(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", trace=3, epochs=30, exchange={"overlap": False})
    assert re.match(r"auto: anytime, as speeds vary by \d\d %, an exchange every", run.notices[0])
    assert run.summary["strategy"] == "anytime"


def test_what_is_left_alone_stays_as_it_was_set(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", exchange={"every": 99, "overlap": False}, allocation="uniform", seed=7)
    stored = compose(run.path / "config.toml", {})
    assert (stored.exchange.overlap, stored.seed, stored.allocation.name) == (False, 7, "dynamic")
    assert stored.exchange.every != 99


def test_a_folder_without_a_name_is_named_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig(strategy="auto", model="case1", epochs=1, workers={"count": 2, "speeds": (300, 100)})
    assert simulate(config, timing_only=True).path == Path("runs/digits-case1-auto-1")


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"simulate --strategy auto --model case1 --epochs 1 --speeds 300,100 --timing-only --out {tmp_path / 'run'}"
    assert main(words.split()) == 0
    output = capsys.readouterr()
    said = "auto: local-sgd, an exchange every step: should learn most a second, at 98 % of 400 samples/s, on free"
    assert said in output.out + output.err
    assert main([*words.split(), "--set", "strategy.lag_price=-1"]) == 2
    assert capsys.readouterr().err == "bptcnn: strategy.lag_price = -1 is not valid: give 0 or more\n"


def test_an_option_of_a_rule_is_none_of_auto() -> None:
    with pytest.raises(ConfigError, match=r"^unknown key 'strategy.staleness': use one of lag_price, name$"):
        RunConfig(strategy={"name": "auto", "staleness": "none"})
