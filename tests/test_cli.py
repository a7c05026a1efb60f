"""The command line: flags to settings, one-line errors, exit codes. The engines are a stand-in that takes notes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from summaries import summary

import bptcnn
from bptcnn.cli import main
from bptcnn.cli.options import FLAGS, overrides, parse_assignment
from bptcnn.config import RunConfig, compose
from bptcnn.data import DataConfig, load
from bptcnn.errors import ConfigError, DataError
from bptcnn.models import MODELS
from bptcnn.outer.allocation import ALLOCATIONS
from bptcnn.outer.rules import STRATEGIES
from bptcnn.outer.status import Status

STATUS = Status(1.0, 500, 1000, 3, 500.0, 1.0, 0.5, ())


class Engines:
    """Stands in for `bptcnn.api`: notes how it was called, shows a status, hands back a run."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.outcome = "finished"
        self.error: BaseException | None = None

    def train(self, config: Any, **options: Any) -> Any:
        return self._run("train", config, options)

    def simulate(self, config: Any, **options: Any) -> Any:
        return self._run("simulate", config, options)

    def _run(self, name: str, config: Any, options: dict[str, Any]) -> Any:
        options.pop("observer").status(STATUS)
        self.calls.append((name, config, options))
        if self.error is not None:
            raise self.error
        engine = {"train": "ray", "simulate": "virtual"}[name]
        path = options.get("out") or options.get("resume") or Path("runs/next")
        return types.SimpleNamespace(path=path, summary=summary(outcome=self.outcome, engine=engine), notices=())


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engines:
    stand_in = Engines()
    monkeypatch.setitem(sys.modules, "bptcnn.api", stand_in)
    monkeypatch.setattr(bptcnn, "api", stand_in, raising=False)
    monkeypatch.chdir(tmp_path)
    return stand_in


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail, and returns its one line."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    return run


def test_plan_prints_every_way_and_writes_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "step.json"
    flags = ["--model", "lenet5", "--batch", "16", "--shape", "1x12x12", "--lanes", "2", "--trace", str(trace)]
    with patch("bptcnn.inner.plan.BUDGET_S", 0.2):
        assert main(["plan", *flags]) == 0
    printed = capsys.readouterr().out
    assert [line.split("  ")[0] for line in printed.splitlines()[1:4]] == [
        "compiled",
        "pytorch, channels last",
        "pytorch",
    ]
    assert " times as fast as " in printed
    assert trace.exists() == ("wrote" in printed)
    picture = tmp_path / "step.svg"
    with patch("bptcnn.inner.plan.BUDGET_S", 0.2):
        assert main(["plan", *flags[:-1], str(picture)]) == 0
    assert not picture.exists() or picture.read_text().startswith("<svg")


def test_plan_names_what_is_wrong(complaint: Callable[..., str]) -> None:
    assert complaint("plan", "--shape", "3x0x3") == (
        "bptcnn: --shape is '3x0x3': give three numbers above 0, such as 3x32x32"
    )
    assert complaint("plan", "--precision", "fp8") == "bptcnn: --precision is 'fp8': give fp32 or bf16"
    assert complaint("plan", "--device", "tpu") == "bptcnn: --device is 'tpu': give auto, cpu or cuda"
    with patch("torch.cuda.is_available", lambda: False):
        assert "--device = 'cuda' but PyTorch" in complaint("plan", "--device", "cuda")


def test_flags_become_settings(engines: Engines) -> None:
    flags = "--data digits --data-dir d --model case1 --strategy sgwu --allocation uniform --workers 2 --speeds 90,30"
    flags += " --init runs/a --freeze 0.*,2.bias"
    numbers = "--epochs 3 --batch-size 32 --lr 0.05 --precision bf16 --seed 7"
    assert main(["train", *flags.split(), *numbers.split()]) == 0
    [(name, config, options)] = engines.calls
    assert name == "train"
    assert options == {"out": None, "address": None}
    assert (config.data.name, config.data.dir, config.model.name) == ("digits", "d", "case1")
    assert (config.model.init, config.model.freeze) == ("runs/a", ("0.*", "2.bias"))
    assert (config.strategy.name, config.allocation.name) == ("sgwu", "uniform")
    assert (config.workers.count, config.workers.speeds) == (2, (90.0, 30.0))
    assert (config.epochs, config.batch_size, config.optimizer.lr) == (3, 32, 0.05)
    assert (config.precision, config.seed) == ("bf16", 7)


def test_without_flags_the_recipe_is_taken_as_it_is(engines: Engines, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("epochs = 9\n[optimizer]\nlr = 0.2\n")
    assert main(["train", "r.toml"]) == 0
    assert main(["train", "r.toml", "--lr", "0.1"]) == 0
    configs = [config for _, config, _ in engines.calls]
    assert [(config.epochs, config.optimizer.lr) for config in configs] == [(9, 0.2), (9, 0.1)]


def test_the_demo_is_a_recipe() -> None:
    config = compose(Path(__file__).parents[1] / "recipes" / "demo.toml", {})
    assert config.workers.count == len(config.workers.speeds) == 4


def test_every_flag_sets_a_setting_that_exists() -> None:
    for flag in FLAGS.values():
        settings = RunConfig().model_dump()
        for part in flag.key.split("."):
            settings = settings[part]


def test_speeds_alone_say_how_many_workers() -> None:
    assert overrides({"speeds": "2000,1000,500"}) == {"workers.speeds": (2000.0, 1000.0, 500.0), "workers.count": 3}


def test_a_count_beside_speeds_is_left_to_the_configuration_to_judge() -> None:
    assert overrides({"speeds": "2000,1000", "workers": "4"})["workers.count"] == 4


def test_set_reaches_every_key_and_comes_last() -> None:
    given = overrides({"lr": "0.1", "set": ["optimizer.lr=0.2", "data.flip=true", "strategy.name=easgd"]})
    assert given == {"optimizer.lr": 0.2, "data.flip": True, "strategy.name": "easgd"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b = [1, 2]", [1, 2]),
        ('a.b="3"', "3"),
        ("a.b=x=y", "x=y"),
        ("a.b=", ""),
        ("a.b=1e-3", 0.001),
        ("a.b=a:b", "a:b"),
    ],
)
def test_set_reads_toml_or_else_takes_the_word_as_it_is(text: str, value: object) -> None:
    assert parse_assignment(text) == ("a.b", value)


def test_set_may_be_repeated(engines: Engines) -> None:
    assert main(["train", "--set", "exchange.every=8", "--set", "data.flip=true"]) == 0
    config = engines.calls[0][1]
    assert (config.exchange.every, config.data.flip) == (8, True)


def test_resume_takes_the_folders_recipe_and_checks_flags_against_it(engines: Engines) -> None:
    assert main(["train", "--resume", "runs/a", "--epochs", "9", "--address", "ray://head:10001"]) == 0
    expected = {"resume": Path("runs/a"), "address": "ray://head:10001", "overrides": {"epochs": 9}}
    assert engines.calls == [("train", None, expected)]


def test_resume_goes_with_neither_recipe_nor_out(engines: Engines, complaint: Callable[..., str]) -> None:
    assert "r.toml and --resume exclude each other" in complaint("train", "r.toml", "--resume", "a")
    assert "--out b and --resume exclude each other" in complaint("train", "--out", "b", "--resume", "a")
    assert not engines.calls


def test_simulate_adds_link_and_faults(engines: Engines) -> None:
    assert (
        main(["simulate", "--link", "100Mbit", "--faults", "kill:1@5", "--trace", "7", "--timing-only", "--out", "x"])
        == 0
    )
    [(name, _, options)] = engines.calls
    assert name == "simulate"
    assert options == {"out": Path("x"), "link": "100Mbit", "faults": "kill:1@5", "trace": 7, "timing_only": True}


def test_a_run_ends_with_its_result(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", "runs/a"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        " 50 %  500/1,000 samples  500/s  test accuracy 50.0 %  1.0 s left",
        "test accuracy 97.3 %   1,205 samples/s   1 min 23 s of training, after 7.2 s of setup",
        "samples: issued 100,000 = committed 100,000 + returned 0; lost 0, duplicated 0",
        "no worker waited more than 4.0 % of the time.",
        "run folder: runs/a",
    ]


def test_a_simulation_shows_virtual_time(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("1.0 s of virtual time left")


def test_an_interrupted_run_says_how_to_go_on(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    engines.outcome = "interrupted"
    assert main(["train", "--out", "runs/a"]) == 130
    assert capsys.readouterr().out.endswith("continue it with: bptcnn train --resume runs/a\n")


def test_our_errors_are_one_line(engines: Engines, complaint: Callable[..., str]) -> None:
    engines.error = ConfigError("epochs = 0 is not valid:\n  give at least 1")
    assert complaint("train") == "bptcnn: epochs = 0 is not valid: give at least 1"


def test_control_c_has_its_own_exit_code(engines: Engines, capsys: pytest.CaptureFixture[str]) -> None:
    engines.error = KeyboardInterrupt()
    assert main(["train"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_our_own_bugs_keep_their_traceback(engines: Engines) -> None:
    engines.error = AssertionError("an invariant")
    with pytest.raises(AssertionError, match="an invariant"):
        main(["train"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--speeds", "10,x"], "--speeds 10,x: 'x' is not a number"),
        (["train", "--speeds", ""], "--speeds is empty: write samples per second for each worker, as in 2000,500"),
        (["train", "--speeds", "10,,5"], "--speeds 10,,5: '' is not a number"),
        (["train", "--epochs", "2.5"], "--epochs 2.5: '2.5' is not a whole number"),
        (["simulate", "--batch-size", "big"], "--batch-size big: 'big' is not a whole number"),
        (["train", "--set", "epochs"], "--set epochs: write KEY=VALUE"),
        (["train", "--epoch", "3"], "no such option: --epoch (Possible options: --epochs); see"),
        (["train", "--bogus"], "no such option: --bogus; see 'bptcnn train --help'"),
        (["simulate", "--resume", "a"], "--resume"),
        (["train", "--seed"], "--seed"),
        (["inspect"], "missing argument 'RUN_DIR'; see 'bptcnn inspect --help'"),
        (["trian"], "no such command 'trian'"),
    ],
)
def test_a_slip_is_answered_in_one_line(
    arguments: list[str], words: str, engines: Engines, complaint: Callable[..., str]
) -> None:
    answer = complaint(*arguments)
    assert answer.startswith("bptcnn: ")
    assert words in answer


@pytest.mark.parametrize("command", ["train", "simulate"])
def test_the_help_of_a_command_fits_one_screen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 33
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("  --") for line in lines) >= len(FLAGS) + 3, "every flag begins a line"


def test_the_help_names_what_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    words = set(re.split(r"[\s,.:]+", capsys.readouterr().out))
    networks = {name for name in MODELS if not name.startswith("case")} | {"case1", "case7"}
    assert networks | set(STRATEGIES) | set(ALLOCATIONS) <= words
    with pytest.raises(DataError) as caught:
        load(DataConfig(name=""), seed=0)
    data_sets = str(caught.value).split("use one of ")[1].replace(":PATH", "").split(", ")
    assert set(data_sets) <= words
    assert len(data_sets) == 6


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "inspect" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bptcnn {bptcnn.__version__}\n"


def test_help_does_not_wait_for_pytorch_or_ray() -> None:
    program = "import sys, bptcnn.cli; print(sorted({'torch', 'ray', 'numpy', 'tensorboard'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def run_folder(path: Path, **files: str) -> Path:
    path.mkdir()
    (path / "config.toml").write_text("epochs = 3\n")
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return path


def test_inspect_shows_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = summary(waiting_fraction=[0.5, 0.0, 0.0, 0.0])
    assert main(["inspect", str(run_folder(tmp_path / "a", summary_json=json.dumps(slow)))]) == 0
    shown = capsys.readouterr().out
    assert "lenet5 on digits, 10 epochs" in shown
    assert "worker 0 waited 50 % of the time" in shown
    assert "--resume" not in shown


def test_inspect_shows_how_far_a_run_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pushed = {"t": 4.0, "event": "pushed", "worker": 0, "samples": 64}
    path = run_folder(tmp_path / "a", events_jsonl=json.dumps(pushed) + '\n{"t": 5.0, "ev')
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "last event: pushed, 4.0 s after the start." in shown
    assert f"bptcnn train --resume {path}" in shown


def test_inspect_of_a_run_that_has_only_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run_folder(tmp_path / "a"))]) == 0
    assert "has no summary" in capsys.readouterr().out


def test_inspect_of_something_else_is_refused(tmp_path: Path, complaint: Callable[..., str]) -> None:
    assert "is not a run" in complaint("inspect", str(tmp_path))
    (tmp_path / "file").touch()
    assert "is not a run (it is a file)" in complaint("inspect", str(tmp_path / "file"))
