"""``bptcnn bench rules``: what is compared, when a target is reached, the search, and what is written."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from summaries import summary

from bptcnn.bench import contenders
from bptcnn.bench.contenders import CONTENDERS, choose, own_settings
from bptcnn.bench.crossing import crossing_s, in_order, median_s
from bptcnn.bench.figure import Curve, Panel, figure_svg
from bptcnn.bench.protocol import IDEAL, LEVELS, Protocol, speeds
from bptcnn.bench.runs import Case, Played, Player, Tell, play, players
from bptcnn.bench.study import Study, run_rows, table_rows
from bptcnn.bench.table import lines, markdown, printed
from bptcnn.cli import main
from bptcnn.config import RunConfig, compose
from bptcnn.errors import ConfigError
from bptcnn.outer.rules import RULES

histories = st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 1)), min_size=1, max_size=12).map(
    lambda steps: [(sum(span for span, _ in steps[: n + 1]), 0, steps[n][1]) for n in range(len(steps))]
)


# ---------------------------------------------------------------------------------------------- crossing


@pytest.mark.parametrize(
    ("target", "seconds"), [(0.5, 1.0), (0.6, 1.0), (0.7, 2.0), (0.8, 3.0), (0.81, None), (0.75, 2.5)]
)
def test_the_target_is_met_on_the_line_between_two_evaluations(target: float, seconds: float | None) -> None:
    history = [(1.0, 100, 0.6), (3.0, 300, 0.8), (5.0, 500, 0.2), (6.0, 600, 0.8)]
    assert crossing_s(history, target) == pytest.approx(seconds)


def test_nothing_is_reached_without_evaluations() -> None:
    assert crossing_s([], 0.1) is None


@given(history=histories, target=st.floats(0.01, 1))
def test_a_crossing_lies_between_the_evaluations_around_it(
    history: list[tuple[float, int, float]], target: float
) -> None:
    found = crossing_s(history, target)
    above = [index for index, point in enumerate(history) if point[2] >= target]
    if not above:
        assert found is None
        return
    assert found is not None
    earlier_s = history[above[0] - 1][0] if above[0] else history[0][0]
    assert earlier_s <= found <= history[above[0]][0] * (1 + 1e-12)


@given(history=histories, lower=st.floats(0.01, 1), more=st.floats(0, 1))
def test_a_higher_target_is_never_met_earlier(
    history: list[tuple[float, int, float]], lower: float, more: float
) -> None:
    one, two = (crossing_s(history, target) for target in (lower, lower + more))
    assert (inf if one is None else one) <= (inf if two is None else two) * (1 + 1e-9)


def test_never_is_later_than_any_time() -> None:
    assert median_s([5.0, None, 1.0]) == 5.0
    assert median_s([2.0, 1.0]) == 1.5
    assert median_s([None, 1.0]) is None
    assert in_order([None, 2.0, 1.0, None]) == [2, 1, 0, 3]


# --------------------------------------------------------------------------------- levels and contenders


def test_every_level_shares_the_same_speed() -> None:
    assert {sum(units) for units in LEVELS.values()} == {48}
    assert speeds("HL8") == (480, 480, 320, 2560)
    assert speeds("2/1") == (160, 80)


def test_a_unit_may_be_slower_for_networks_that_take_longer() -> None:
    protocol = Protocol(unit_per_s=20)
    assert protocol.settings("local-sgd", "HL8", {})["workers.speeds"] == (120, 120, 80, 640)
    assert protocol.settings(IDEAL, "HL8", {})["workers.speeds"] == (960,)
    with pytest.raises(ConfigError, match=r"^--unit 0 is no speed: give samples/s above 0, as in 80$"):
        Protocol(unit_per_s=0)


@pytest.mark.parametrize("level", ["HL9", "", "1/", "0/1", "1/2/x"])
def test_a_level_that_is_none_is_refused(level: str) -> None:
    with pytest.raises(ConfigError, match=r"^unknown level .*, or give units of 80 samples/s, as in 6/6/4/32$"):
        speeds(level)


def test_every_rule_is_a_contender_and_every_contender_a_recipe() -> None:
    assert set(RULES) <= set(CONTENDERS)
    for rule in (IDEAL, *CONTENDERS):
        settings = Protocol().settings(rule, "HL8", own_settings(rule, "HL8", "fashion-mnist", "lenet5"))
        assert compose(None, settings).workers.count == (1 if rule == IDEAL else 4)


def test_the_default_is_the_default() -> None:
    config = compose(None, Protocol().settings("default", "HL8", own_settings("default", "HL8", "digits", "lenet5")))
    usual = RunConfig()
    assert (config.strategy, config.allocation, config.exchange) == (usual.strategy, usual.allocation, usual.exchange)
    assert (config.batch_size, config.optimizer) == (usual.batch_size, usual.optimizer)


def test_contenders_are_chosen_by_name() -> None:
    assert choose(["agwu", "all"]) == ["agwu", *(name for name in CONTENDERS if name != "agwu")]
    with pytest.raises(ConfigError, match=r"^unknown contender 'agwo': did you mean 'agwu'\?"):
        choose(["agwo"])


def test_what_is_tuned_comes_on_top_and_the_level_last(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        "ideal": {"batch_size": 64},
        "others": {"batch_size": 8, "optimizer": {"lr": 0.1}},
        "agwu": {"optimizer": {"lr": 0.2}, "HL8": {"batch_size": 9}},
    }
    monkeypatch.setattr(contenders, "_tuned", lambda: {"d": {"m": entries}})
    assert own_settings(IDEAL, "HL8", "d", "m")["batch_size"] == 64
    assert own_settings("sgwu", "HL8", "d", "m") == {**CONTENDERS["sgwu"], "batch_size": 8, "optimizer.lr": 0.1}
    assert own_settings("agwu", "HL4", "d", "m") == {**CONTENDERS["agwu"], "batch_size": 8, "optimizer.lr": 0.2}
    assert own_settings("agwu", "HL8", "d", "m") == {**CONTENDERS["agwu"], "batch_size": 9, "optimizer.lr": 0.2}
    assert own_settings("agwu", "HL8", "d", "other") == CONTENDERS["agwu"]


def test_the_ideal_is_one_worker_with_all_the_speed_and_no_rule() -> None:
    extra = {"exchange.every": 9, "strategy.momentum": 0.1, "optimizer.momentum": 0.5}
    protocol = Protocol(extra=extra | {"workers.count": 9, "workers.threads": 1})
    ideal = protocol.settings(IDEAL, "HL8", own_settings(IDEAL, "HL8", "digits", "lenet5"))
    assert (ideal["workers.speeds"], ideal["workers.count"], ideal["workers.threads"]) == ((3840.0,), 1, 1)
    assert (ideal["exchange.every"], ideal["optimizer.momentum"]) == (4, 0.5)
    assert "strategy.momentum" not in ideal


# ---------------------------------------------------------------------------------------------- the study


def came_to(accuracy_at: dict[float, float], outcome: str = "finished") -> Played:
    history = [[at_s, 0, accuracy] for at_s, accuracy in accuracy_at.items()]
    return Played(outcome, history, history[-1][2] if history else None, 10, 20, 9.0, 0.1)


class Script(Player):
    """Stands in for the processes: a run takes what its rate says, the ideal half of it."""

    def __init__(self) -> None:
        self.asked: list[Case] = []

    def play(self, cases: list[Case], tell: Tell) -> list[Played]:  # type: ignore[override]
        self.asked += cases
        return [self._one(case) for case in cases]

    def _one(self, case: Case) -> Played:
        rate = case.settings.get("optimizer.lr", 1.0)
        assert isinstance(rate, float)
        if rate > 5:
            return came_to({1.0: 0.1}, "diverged")
        slow_s = (10 + case.seed) / rate * (1 if case.rule == IDEAL else 2)
        return came_to({0.0: 0.0, 2 * slow_s: 1.0})


def silent(case: Case, played: Played) -> None:
    """Tell nobody."""


def a_study(**more: Any) -> Study:
    usual: dict[str, Any] = {"rules": ["agwu", "sgwu"], "levels": ["HL8"], "seeds": [1, 2, 3]}
    return Study(Protocol(data="digits", target=0.5), **(usual | more))


def test_the_ratio_is_to_the_median_of_the_ideal() -> None:
    study = a_study(rules=["agwu"])
    runs = study.play(Script(), silent)
    rows = table_rows(runs, "free")
    assert [list(row) for row in rows] == [
        ["rule", "level", "link", "seed", "seconds_to_target", "ideal_seconds", "ratio", "final_accuracy"]
    ] * 3
    assert {row["ideal_seconds"] for row in rows} == {12.0}
    assert [row["ratio"] for row in rows] == pytest.approx([22 / 12, 24 / 12, 26 / 12])
    assert len(run_rows(runs)) == 6
    json.dumps(run_rows(runs), allow_nan=False)


def test_all_try_the_same_rates_and_keep_the_fastest() -> None:
    script, study = Script(), a_study(rates=[0.5, 2.0, 9.0], batches=[8, 16])
    trials = study.search(script, silent)
    assert study.num_trials == len(script.asked) == 3 * 3 * 2 * 3
    assert len(trials) == 3 * 3 * 2
    assert all(case.settings["evaluation.target"] == 0.5 for case in script.asked)
    assert trials[0]["seconds_by_seed"] == {1: 22.0, 2: 24.0, 3: 26.0}
    assert trials[0]["seconds_to_target"] == 24.0
    tried = {
        row["rule"]: sorted((r["optimizer.lr"], r["batch_size"]) for r in trials if r["rule"] == row["rule"])
        for row in trials
    }
    assert len({tuple(combinations) for combinations in tried.values()}) == 1
    assert [row["optimizer.lr"] for row in trials if row["kept"]] == [2.0] * 3
    runs = study.play(script, silent)
    assert {run.case.settings["optimizer.lr"] for run in runs} == {2.0}
    assert not any("evaluation.target" in run.case.settings for run in runs)


def test_a_rate_that_one_seed_likes_is_not_kept() -> None:
    class Moody(Script):
        def _one(self, case: Case) -> Played:
            lucky = case.settings["optimizer.lr"] == 2.0 and case.seed == 1
            return came_to({0.0: 0.0, 1.0: 1.0}) if lucky else super()._one(case)

    trials = a_study(rules=[], rates=[2.0, 3.0]).search(Moody(), silent)
    assert [row["kept"] for row in trials] == [False, True]


def test_without_a_search_nothing_is_tried() -> None:
    assert a_study().search(Script(), silent) == []


def test_one_ideal_serves_all_levels_unless_speeds_change() -> None:
    steady_keys = {case.key for case in asked_for(None) if case.rule == IDEAL}
    changing_keys = {case.key for case in asked_for(4) if case.rule == IDEAL}
    assert (len(steady_keys), len(changing_keys)) == (1, 2)


def test_a_slower_unit_holds_for_the_ideal_of_changing_speeds_too() -> None:
    assert {sum(case.together) for case in asked_for(4, unit_per_s=20) if case.rule == IDEAL} == {960}


def asked_for(trace: int | None, unit_per_s: float = 80) -> list[Case]:
    script = Script()
    protocol = Protocol(data="digits", target=0.5, trace=trace, unit_per_s=unit_per_s)
    study = Study(protocol, ["agwu"], ["HL1", "HL8"], [1])
    study.play(script, silent)
    return script.asked


def test_a_setting_that_does_not_exist_is_found_before_the_first_run() -> None:
    study = Study(Protocol(extra={"optimizer.rate": 1}), ["agwu"], ["HL8"], [1])
    with pytest.raises(ConfigError, match=r"^unknown key 'optimizer.rate'"):
        study.check()


# ------------------------------------------------------------------------------------- table and figure


def row(rule: str, seconds: float | None, level: str = "HL8", seed: int = 1) -> dict[str, Any]:
    ratio = None if seconds is None else seconds / 10
    return {
        "rule": rule,
        "level": level,
        "link": "free",
        "seed": seed,
        "seconds_to_target": seconds,
        "ideal_seconds": 10.0,
        "ratio": ratio,
        "final_accuracy": 0.5 + 0.1 * seed,
    }


def test_a_line_is_the_median_of_its_seeds_and_the_fastest_comes_first() -> None:
    rows = [row("a", 30.0), row("a", None, seed=2), row("a", 20.0, seed=3), row("b", 11.0), row("c", None)]
    found = lines(rows)
    assert [line.rule for line in found] == ["b", "a", "c"]
    assert found[1][2:] == (30.0, 3.0, (2.0, None), 2, 3, pytest.approx(0.7))
    assert found[2][2:] == (None, None, (None, None), 0, 1, 0.6)


def test_the_table_tells_how_far_seeds_are_apart() -> None:
    rows = [
        row("a", 30.0),
        row("a", None, seed=2),
        row("a", 20.0, seed=3),
        row("b", 11.0),
        row("b", 12.0),
        row("c", 9.0),
    ]
    heading, *cells = (column for column in printed(rows).columns if column.header == "by seed")
    assert not cells
    assert list(heading.cells) == ["", "", "1.10-1.20", "2.00-never"]
    narrow = [column.header for column in printed(rows, width=42).columns]
    assert narrow == ["level", "rule", "to target", "of ideal"]
    single = [column.header for column in printed([row("a", 9.0), row("b", 8.0)]).columns]
    assert "by seed" not in single


def test_the_table_of_the_documents_has_a_row_a_contender() -> None:
    rows = [row("a", 30.0), row("a", 25.0, level="HL1"), row("b", 11.0), row("b", None, level="HL1")]
    assert markdown(rows).splitlines() == [
        "| contender | HL1 | HL8 |",
        "|---|---|---|",
        "| `a` | 2.50 | 3.00 |",
        "| `b` | *60.0 %* | 1.10 |",
    ]


def test_the_figure_has_a_line_a_contender_and_marks_each_crossing() -> None:
    points = [(1.0, 0.5), (10.0, 0.91), (20.0, 0.93)]
    curves = [
        Curve("ideal", points, 9.0, 1.0, ideal=True),
        *(Curve(f"rule & {n}", points, 9.0 + n, 1.1) for n in range(12)),
        Curve("slow", [(1.0, 0.2), (100.0, 0.4)], None, None),
        Curve("dead", [], None, None),
    ]
    root = ElementTree.fromstring(figure_svg([Panel("HL1", curves[:2]), Panel("HL8", curves)], 0.9))
    svg = "{http://www.w3.org/2000/svg}"
    first, last = root.findall(f"{svg}g")
    assert (len(first.findall(f"{svg}polyline")), len(last.findall(f"{svg}polyline"))) == (2, 15)
    assert len(last.findall(f"{svg}circle")) == 13
    strokes = {(line.get("stroke"), line.get("stroke-dasharray")) for line in last.findall(f"{svg}polyline")}
    assert len(strokes) == 15
    labels = [text.text for text in last.findall(f"{svg}text")]
    percentages = [label for label in labels if label and label.endswith(" %")]
    assert percentages == [*(f"{number} %" for number in range(78, 95, 2)), "target 90.0 %"]


def test_a_crossing_is_marked_where_the_line_meets_the_target() -> None:
    curve = Curve("agwu", [(0.0, 0.0), (10.0, 1.0)], 9.0, 1.2)
    root = ElementTree.fromstring(figure_svg([Panel("HL8", [curve])], 0.9))
    [line], [mark] = (list(root.iter(f"{{http://www.w3.org/2000/svg}}{kind}")) for kind in ("polyline", "circle"))
    (x0, y0), (x1, y1) = (map(float, place.split(",")) for place in (line.get("points") or "").split())
    x, y = float(mark.get("cx") or 0), float(mark.get("cy") or 0)
    assert x == pytest.approx(x0 + 0.9 * (x1 - x0), abs=0.2)
    assert y == pytest.approx(y0 + 0.9 * (y1 - y0), abs=0.2)


def test_a_figure_of_nothing_is_still_one() -> None:
    assert figure_svg([Panel("HL8", [Curve("a", [], None, None)])], 0.9).endswith("</svg>\n")


# ------------------------------------------------------------------------------------------ the command


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[[str], str]:
    """Runs a benchmark that must fail, and returns its one line."""

    def run(flags: str) -> str:
        assert main(["bench", "rules", "--out", str(tmp_path / "out"), *flags.split()]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "out").exists()
        return line

    return run


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--level HL3", "unknown level 'HL3'"),
        ("--rules agwu,nobody", "unknown contender 'nobody'"),
        ("--seeds 1,x", "--seeds 1,x: 'x' is not understood: give whole numbers, as in 1,2"),
        ("--rates fast", "--rates fast: 'fast' is not understood: give numbers"),
        ("--target 1.5", "--target 1.5 is no accuracy: give a number above 0, 1 at most"),
        ("--engine paper", "--engine paper does not exist: give virtual or ray"),
        ("--engine ray --link 100Mbit", "--link 100Mbit is for --engine virtual: leave it out"),
        ("--engine ray --trace 3", "--trace 3 is for --engine virtual: leave it out"),
        ("--link fast", "link 'fast' is not understood"),
        ("--set optimizer.rate=1", "unknown key 'optimizer.rate'"),
        ("--seeds -1", "seed = -1 is not valid"),
        ("--rates 0", "optimizer.lr = 0.0 is not valid"),
        ("--epoch 3", "no such option: --epoch (Possible options: --epochs); see 'bptcnn bench rules --help'"),
    ],
)
def test_a_slip_is_answered_in_one_line(flags: str, words: str, complaint: Callable[[str], str]) -> None:
    assert words in complaint(flags)


def test_the_help_fits_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "rules", "--help"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) <= 35
    assert max(map(len, shown)) <= 80


def test_a_benchmark_on_digits_writes_table_figure_and_raw_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = (
        "--data digits --level 3/1,2/2 --rules local-sgd,agwu --epochs 1 --seeds 1,2 --target 0.4 --trace 5 --jobs 1"
    )
    assert main(["bench", "rules", *flags.split(), "--rates", "0.05,0.0001", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"table.json", "runs.json", "rates.json", "figure.svg"}
    rows = json.loads((out / "table.json").read_text())
    assert [(r["level"], r["rule"], r["seed"]) for r in rows] == [
        (level, rule, seed) for level in ("3/1", "2/2") for rule in ("local-sgd", "agwu") for seed in (1, 2)
    ]
    assert all(r["ratio"] == r["seconds_to_target"] / r["ideal_seconds"] for r in rows)
    raw = json.loads((out / "runs.json").read_text())
    assert len(raw["runs"]) == 12
    assert all(run["settings"]["optimizer.lr"] == 0.05 for run in raw["runs"])
    assert all(run["outcome"] == "finished" and run["bytes_pushed"] > 0 for run in raw["runs"])
    trials = json.loads((out / "rates.json").read_text())
    assert [t["kept"] for t in trials] == [True, False] * 6
    assert re.search(r"3/1 +local-sgd +[\d.]+ s +\d\.\d\d +\d\.\d\d-\d\.\d\d +2/2", shown)
    assert "run folder" not in shown


def test_runs_that_are_the_same_are_played_once_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    settings = {"data.name": "digits", "data.limit": 64, "epochs": 1, "workers.count": 2}
    cases = [Case(rule, "HL1", seed, settings) for rule in ("a", "b") for seed in (1, 2)]
    told: list[tuple[str, int]] = []
    with players(1) as player:
        first = player.play(cases, lambda case, played: told.append((case.rule, case.seed)))
        again = player.play(cases[:1], silent)
    assert sorted(told) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert first[0] is first[2]
    assert again[0] is first[0]
    assert list(tmp_path.iterdir()) == []


def test_real_processes_are_asked_for_the_same_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunConfig] = []

    def train(config: RunConfig, out: Path) -> types.SimpleNamespace:
        asked.append(config)
        return types.SimpleNamespace(summary=summary(outcome="finished"))

    monkeypatch.setattr("bptcnn.api.train", train)
    settings = Protocol(data="digits", engine="ray").settings("agwu", "3/1", own_settings("agwu", "3/1", "digits", "x"))
    played = play(Case("agwu", "3/1", 7, settings, engine="ray"), tmp_path)
    assert (asked[0].seed, asked[0].workers.speeds, asked[0].schedule.kind) == (7, (240.0, 80.0), "linear")
    assert played.time_to_accuracy == summary()["time_to_accuracy"]


def test_ctrl_c_in_a_run_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = types.SimpleNamespace(summary=summary(outcome="interrupted"))
    monkeypatch.setattr("bptcnn.api.simulate", lambda config, **options: stopped)
    with pytest.raises(KeyboardInterrupt):
        play(Case("agwu", "3/1", 7, {}), tmp_path)


def test_a_run_that_diverges_is_a_result(tmp_path: Path) -> None:
    settings = {"data.name": "digits", "epochs": 1, "optimizer.lr": 1e12, "workers.count": 1, "schedule.warmup": 0.0}
    played = play(Case("a", "HL1", 1, settings), tmp_path)
    assert played.outcome == "diverged"
    assert crossing_s(played.time_to_accuracy, 0.9) is None
    assert list(tmp_path.iterdir()) == []


def test_a_run_may_stop_at_the_target(tmp_path: Path) -> None:
    protocol = Protocol(data="digits", target=0.5, epochs=4, stop_at_target=True)
    settings = protocol.settings("local-sgd", "2/1", own_settings("local-sgd", "2/1", "digits", "lenet5"))
    played = play(Case("local-sgd", "2/1", 1, settings), tmp_path)
    assert played.outcome == "finished"
    assert [accuracy >= 0.5 for _, _, accuracy in played.time_to_accuracy[-2:]] == [False, True]
    assert played.final_accuracy == played.time_to_accuracy[-1][2]
    assert played.time_to_accuracy[-1][1] < 4 * 1437
