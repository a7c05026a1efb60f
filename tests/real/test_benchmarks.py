"""The benchmarks still run and write records; how fast anything is, is not asked here."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from summaries import summary

import bptcnn

ROOT = Path(__file__).parents[2]


def run(name: str, folder: Path, *options: str) -> dict[str, Any]:
    """Run a benchmark and read the record that its last line names."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--out", str(folder), *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    assert record["benchmark"] == name
    assert {"date", "settings", "versions", "machine", "series"} <= set(record)
    return record


def test_merge_against_copy(tmp_path: Path) -> None:
    record = run("merge", tmp_path, "--samples", "4", "--weights", "20000")
    assert [one["n"] for one in record["series"].values()] == [4, 4, 4]


def test_wire_packs_and_learns_in_every_dtype(tmp_path: Path) -> None:
    options = "--samples 3 --weights 5000 --data digits --model case1 --epochs 1 --rules agwu --seeds 1"
    series = run("wire", tmp_path, *options.split())["series"]
    [small], [large] = (series[f"agwu, {dtype}: bytes_pushed"]["samples"] for dtype in ("int8", "fp32"))
    assert large / small == pytest.approx(3.93, abs=0.03)
    assert [series[name]["n"] for name in ("copy", "pack int8", "unpack bf16")] == [3, 3, 3]


def test_lag_compares_every_cadence_with_rounds_of_one_step_that_wait(tmp_path: Path) -> None:
    options = "--data digits --model case1 --levels HL8 --targets 0.2 0.3 --epochs 1 --seeds 1 --jobs 2"
    series = run("lag", tmp_path, *options.split())["series"]
    base = "HL8, 48 at 0.03, every 1 waiting"
    assert (series[f"{base}: lag"]["samples"], series[f"{base}: slowdown"]["samples"]) == ([0.0], [1.0, 1.0])
    assert series["HL8, 96 at 0.05, every 4 overlapped: lag"]["samples"] == [2.5]
    assert series["HL8, 96 at 0.05, every 2 asynchronous waiting: lag"]["samples"] == [2]
    assert len(series["exponent"]["samples"]) == 26


def test_rules_gathers_folders_of_one_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    early: dict[str, float] = {}  # folders did not name the unit at first
    for name, level, unit in (("one", "HL1", early), ("two", "HL8", {"unit_per_s": 80.0})):
        (tmp_path / name).mkdir()
        protocol = {"data": "digits", "data_dir": name, "target": 0.9} | unit
        run_row = {"rule": "agwu", "level": level, "settings": {"batch_size": 8, "epochs": 3}}
        (tmp_path / name / "runs.json").write_text(
            json.dumps({"protocol": protocol, "versions": {}, "runs": [run_row]})
        )
        (tmp_path / name / "table.json").write_text(json.dumps([{"rule": "agwu", "level": level, "ratio": 1.5}]))
    (tmp_path / "one" / "rates.json").write_text(json.dumps([{"rule": "agwu", "optimizer.lr": 0.1, "kept": True}]))
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    folders = [str(tmp_path / name) for name in ("one", "two", "one")]
    monkeypatch.setattr(sys, "argv", ["rules.py", "--out", str(tmp_path), *folders[:2], "--search", folders[2]])
    runpy.run_path(str(ROOT / "benchmarks" / "rules.py"), run_name="__main__")
    [record] = [json.loads(path.read_text()) for path in tmp_path.glob("rules-*.json")]
    assert record["benchmark"] == "rules"
    assert record["settings"] == {"data": "digits", "target": 0.9, "unit_per_s": 80.0}
    assert [row["level"] for row in record["table"]] == ["HL1", "HL8"]
    assert record["rates"] == [{"rule": "agwu", "optimizer.lr": 0.1, "kept": True}]
    assert record["contenders"] == {"HL1: agwu": {"batch_size": 8}, "HL8: agwu": {"batch_size": 8}}


@pytest.mark.real
def test_exchange_takes_every_part_of_every_exchange(tmp_path: Path) -> None:
    series = run("exchange", tmp_path, "--samples", "5", "--weights", "25000")["series"]
    assert all(len(one["samples"]) == 5 and min(one["samples"]) > 0 for one in series.values())
    parts = [series[name]["samples"] for name in ("difference", "push + merge + pull", "fold")]
    assert series["exchange"]["samples"] == pytest.approx(
        [sum(sample) for sample in zip(*parts, strict=True)], rel=1e-3
    )


def test_throughput_runs_every_combination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def train(config: bptcnn.RunConfig, out: Path) -> types.SimpleNamespace:
        tried.append((config.strategy.name, config.allocation.name, config.seed, config.workers.speeds))
        return types.SimpleNamespace(summary=summary())

    monkeypatch.setattr(bptcnn, "train", train)
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    options = "--data digits --speeds 30 15 --rules agwu sgwu --allocations idpa --samples 2"
    monkeypatch.setattr(sys, "argv", ["throughput.py", "--out", str(tmp_path), *options.split()])
    runpy.run_path(str(ROOT / "benchmarks" / "throughput.py"), run_name="__main__")
    assert tried == [(rule, "idpa", seed, (30.0, 15.0)) for rule in ("agwu", "sgwu") for seed in (0, 1)]
    [record] = [json.loads(path.read_text()) for path in tmp_path.glob("throughput-*.json")]
    measures = ("test_accuracy", "samples_per_second", "waiting", "balance")
    assert set(record["series"]) == {f"{rule}, idpa: {measure}" for rule in ("agwu", "sgwu") for measure in measures}
