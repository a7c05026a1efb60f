"""``simulate`` and ``Run``: what a caller gets back, what is refused before the start, how a run may end."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import Blank, Clouds, Watcher, a_config
from safetensors.numpy import load_file
from torch import nn
from torch.utils.data import TensorDataset

from bptcnn import RunConfig, checkpoint, simulate, train
from bptcnn.data import DataConfig, load
from bptcnn.engine.virtual import simulation
from bptcnn.errors import BptcnnError, ConfigError, DataError, DivergedError, ModelError, RunFolderError
from bptcnn.folder import RunFolder
from bptcnn.inner import accuracy_of

QUICK: dict[str, Any] = {"model": "case1", "epochs": 1, "workers": {"count": 2, "speeds": (300, 100)}}


@pytest.fixture
def every_step_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "REFRESH_S", -1.0)


# ------------------------------------------------------------------------------------------ what comes back


def test_the_trained_network_is_as_accurate_as_the_summary_says(tmp_path: Path) -> None:
    run = simulate(RunConfig(**QUICK), out=tmp_path / "run")
    network = run.model()
    assert not network.training
    assert accuracy_of(network, load(DataConfig(name="digits"), seed=0).test) == run.summary["test_accuracy"] > 0.1
    assert run.path == tmp_path / "run"
    assert RunFolder.peek(run.path).read_summary() == run.summary
    assert (run.notices, run.summary["engine"], run.summary["outcome"]) == ((), "virtual", "finished")


def test_a_network_and_a_data_set_of_ones_own(tmp_path: Path) -> None:
    clouds = Clouds.draw(300)
    data = (TensorDataset(clouds.images, clouds.labels), TensorDataset(clouds.images[:50], clouds.labels[:50]))

    def factory(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        assert (input_shape, num_classes) == ((4, 1, 1), 3)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, num_classes))

    run = simulate(a_config("sgwu", epochs=8), model=factory, data=data, out=tmp_path / "run")
    answers = run.model()(clouds.images[:50]).argmax(1)
    accuracy = float((answers == clouds.labels[:50]).float().mean())
    assert run.summary["test_accuracy"] == pytest.approx(accuracy)
    assert accuracy > 0.8


def test_timing_alone_leaves_no_network(tmp_path: Path) -> None:
    run = simulate(RunConfig(**QUICK), out=tmp_path / "run", timing_only=True)
    assert run.summary["test_accuracy"] is None
    assert run.summary["time_to_accuracy"] == []
    with pytest.raises(ModelError, match="cannot read model"):
        run.model()


def test_runs_without_a_name_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig(**QUICK)
    paths = [simulate(config, timing_only=True).path for _ in range(2)]
    assert paths == [Path("runs/digits-case1-local-sgd-1"), Path("runs/digits-case1-local-sgd-2")]


def test_without_speeds_all_workers_are_equal(tmp_path: Path) -> None:
    summary = simulate(RunConfig(model="case1", epochs=2), out=tmp_path / "run", timing_only=True).summary
    assert summary["samples_per_second"] == pytest.approx(4000, rel=0.05)


def test_the_observer_sees_the_run_from_its_start_to_its_end(tmp_path: Path) -> None:
    watcher = Watcher()
    run = simulate(RunConfig(**QUICK), out=tmp_path / "run", observer=watcher, faults="kill:0@0.5", timing_only=True)
    assert (watcher.statuses[0].committed, watcher.statuses[-1].committed) == (0, 1437)
    assert watcher.notices == list(run.notices) == ["worker 0 is replaced: its process died"]


# ----------------------------------------------------------------------------------- refused before the start


@pytest.mark.parametrize(
    ("config", "options", "kind", "sentence"),
    [
        ({"data": "digit"}, {}, DataError, "unknown data set 'digit': did you mean 'digits'?"),
        ({"model": "lenet"}, {}, ModelError, "unknown model 'lenet': did you mean 'lenet5'?"),
        ({"model": "easgd-cifar"}, {}, ModelError, "model 'easgd-cifar' cannot be built for images of 1x8x8"),
        ({}, {"model": lambda: nn.Linear(2, 2)}, ModelError, "cannot take images of 1x8x8"),
        ({}, {"data": (Blank(10), Blank(5, (3, 1, 1)))}, DataError, "the test images have shape"),
        ({}, {"faults": "kill:9@1"}, ConfigError, "fault 'kill:9@1' names worker 9: there are workers 0 to 1"),
        ({}, {"link": "slow"}, ConfigError, "link 'slow' is not understood"),
    ],
)
def test_what_cannot_start_leaves_nothing_behind(
    tmp_path: Path, config: dict[str, Any], options: dict[str, Any], kind: type[BptcnnError], sentence: str
) -> None:
    with pytest.raises(kind) as caught:
        simulate(RunConfig(**{**QUICK, **config}), out=tmp_path / "deep" / "run", **options)
    assert sentence in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_starting_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_journal(*arguments: Any, **options: Any) -> None:
        raise RunFolderError("cannot open the journal")

    monkeypatch.setattr(simulation, "Journal", no_journal)
    with pytest.raises(RunFolderError, match="cannot open the journal"):
        simulate(RunConfig(**QUICK), out=tmp_path / "deep" / "run", timing_only=True)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    simulate(RunConfig(**QUICK), out=out, timing_only=True)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "run.lock"}
    with pytest.raises(RunFolderError, match="holds a finished run: choose another --out or delete it"):
        simulate(RunConfig(**QUICK), out=out, timing_only=True)
    with pytest.raises(RunFolderError, match="belongs to another configuration: choose another --out or delete it"):
        simulate(RunConfig(**{**QUICK, "seed": 1}), out=out, timing_only=True)
    assert before == {path: path.read_bytes() for path in before}


def interrupted(out: Path) -> Path:
    """A run folder that looks as if training on Ray had been interrupted."""
    simulate(RunConfig(**QUICK), out=out, timing_only=True, observer=Watcher(stop_at(0)))
    events = out / "events.jsonl"
    events.write_text(events.read_text().replace('"engine": "virtual"', '"engine": "ray"'))
    return out


def test_a_simulation_does_not_go_on_as_training(tmp_path: Path) -> None:
    simulate(RunConfig(**QUICK), out=tmp_path / "run", timing_only=True, observer=Watcher(stop_at(0)))
    with pytest.raises(RunFolderError, match="holds a simulation, which cannot go on as training: simulate it again"):
        train(resume=tmp_path / "run")


def test_a_run_without_a_checkpoint_is_not_started_over_in_silence(tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    with pytest.raises(RunFolderError, match="holds no checkpoint to go on from: start anew"):
        train(resume=out)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"data": [1]}, r"^data of type list is not understood: give a pair, \(training set, test set\)"),
        ({"data": "digits"}, "^data of type str is not understood: give a pair"),
        ({"model": "lenet5"}, "^model = 'lenet5' is no factory: give a class or function"),
        ({"config": 3}, "^config = 3 is no recipe: give a RunConfig"),
    ],
)
def test_arguments_of_the_wrong_kind_are_explained(tmp_path: Path, wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        simulate(**{"config": RunConfig(**QUICK), "out": tmp_path / "run", **wrong})
    assert list(tmp_path.iterdir()) == []


def test_only_the_same_run_is_resumed(tmp_path: Path) -> None:
    out = interrupted(tmp_path / "run")
    with pytest.raises(
        RunFolderError, match=r"belongs to another configuration \(optimizer differs\): resume it without"
    ):
        train(resume=out, overrides={"optimizer.lr": 0.5})
    with pytest.raises(RunFolderError, match=r"\(seed differs\)"):
        train(RunConfig(**{**QUICK, "seed": 1}), resume=out)
    with pytest.raises(RunFolderError, match="is not a run"):
        train(resume=tmp_path)


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    simulate(RunConfig(**QUICK), out=tmp_path / "run", timing_only=True)
    with pytest.raises(RunFolderError, match=r"holds a finished run: nothing is left to do, choose another --out$"):
        train(resume=tmp_path / "run")


# ----------------------------------------------------------------------------------------------- other ends


@pytest.mark.parametrize("rule", ["agwu", "sgwu"])
def test_divergence_names_the_step_and_leaves_the_last_good_weights(tmp_path: Path, rule: str) -> None:
    out = tmp_path / "run"
    config = RunConfig(**QUICK, strategy=rule, optimizer={"lr": 1e6})
    with pytest.raises(DivergedError) as caught:
        simulate(config, out=out)
    place = re.escape(repr(str(out)))
    pattern = rf"local step \d+ of worker [01]: lower optimizer\.lr \(--lr\); the last good weights are in {place}$"
    assert re.search(pattern, str(caught.value))
    assert all(np.isfinite(tensor).all() for tensor in load_file(out / "model.safetensors").values())
    summary = RunFolder.peek(out).read_summary()
    assert summary is not None
    assert (summary["outcome"], summary["samples"]["lost"]) == ("diverged", 0)
    assert checkpoint.newest(out / "checkpoints") is not None
    RunFolder.open(out).close()  # no longer locked


def stop_at(committed: int, act: Callable[[], None] | None = None) -> Callable[[Any], None]:
    """Presses Ctrl-C when so much is done."""

    def press(status: Any) -> None:
        if status.committed >= committed:
            if act is None:
                raise KeyboardInterrupt
            act()

    return press


def assert_interrupted(summary: Any, path: Path, at_least: int) -> None:
    samples = summary["samples"]
    assert (summary["outcome"], summary["reason"]) == ("interrupted", "the user asked to stop")
    assert (samples["lost"], samples["duplicated"]) == (0, 0)
    assert at_least <= samples["committed"] < 1437
    tree = checkpoint.load(checkpoint.newest(path / "checkpoints") or path)
    issued, committed, returned = tree["supply"]["ledger"]["totals"]
    assert (issued, committed) == (samples["issued"], samples["committed"])
    assert issued == committed + returned


@pytest.mark.usefixtures("every_step_shows")
@pytest.mark.parametrize("committed", [0, 1, 700])
@pytest.mark.parametrize("rule", ["agwu", "sgwu"])
def test_ctrl_c_ends_the_run_with_a_checkpoint(tmp_path: Path, rule: str, committed: int) -> None:
    config = RunConfig(**QUICK, strategy=rule)
    run = simulate(config, out=tmp_path / "run", observer=Watcher(stop_at(committed)))
    assert_interrupted(run.summary, run.path, committed)
    assert all(torch.isfinite(parameter).all() for parameter in run.model().parameters())


@pytest.mark.usefixtures("every_step_shows")
def test_a_real_ctrl_c_waits_for_the_step_to_end(tmp_path: Path) -> None:
    pressed: list[int] = []

    def press_once() -> None:
        if not pressed:
            pressed.append(1)
            signal.raise_signal(signal.SIGINT)

    observer = Watcher(stop_at(500, press_once))
    run = simulate(RunConfig(**QUICK), out=tmp_path / "run", timing_only=True, observer=observer)
    assert_interrupted(run.summary, run.path, 500)


@pytest.mark.usefixtures("every_step_shows")
def test_ctrl_c_in_the_middle_of_an_evaluation_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted_accuracy(*arguments: Any) -> float:
        signal.raise_signal(signal.SIGINT)
        return 0.5

    monkeypatch.setattr(simulation, "accuracy_of", interrupted_accuracy)
    run = simulate(RunConfig(**QUICK), out=tmp_path / "run", observer=Watcher())
    assert_interrupted(run.summary, run.path, 1437 // 2)


@pytest.mark.usefixtures("every_step_shows")
def test_ctrl_c_while_the_server_is_down_waits_for_it(tmp_path: Path) -> None:
    presses: list[float] = []

    class Impatient(Watcher):
        def notice(self, text: str) -> None:
            presses.append(1)
            signal.raise_signal(signal.SIGINT)

    config = RunConfig(**QUICK, checkpoint={"every_s": 0.5})
    run = simulate(config, out=tmp_path / "run", faults="crash@2", observer=Impatient(), timing_only=True)
    assert presses == [1]
    assert_interrupted(run.summary, run.path, 0)
    assert run.summary["samples"]["committed"] > 0
