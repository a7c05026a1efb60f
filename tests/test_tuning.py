"""Fine-tuning: a run begins with the weights of another, a part of it is frozen, and nothing else is needed later."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import Clouds, Watcher, a_config, contents
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

from bptcnn import RunConfig, simulate, train
from bptcnn.cli import main
from bptcnn.data import DataConfig, load, wrap
from bptcnn.engine.job import Job, prepare
from bptcnn.errors import BptcnnError, ConfigError, ModelError, RunFolderError
from bptcnn.models import FlatModel, adopt, freeze, save_model
from bptcnn.models.files import tensors


class Net(nn.Module):
    """A body and a head, as they are usually named."""

    def __init__(self, input_shape: tuple[int, int, int] = (4, 1, 1), num_classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape[0], 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.fc2 = nn.Linear(6, 5)
        self.fc3 = nn.Linear(5, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        body = self.norm(self.conv1(images)).relu().flatten(1)
        return self.fc3(self.fc2(body).relu())


def a_net(seed: int = 0, **sizes: Any) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(**sizes)


# -------------------------------------------------------------------------------- what a network takes over


def test_all_that_fits_is_taken() -> None:
    network, other = a_net(1), a_net(2)
    other.norm.running_mean.fill_(3.0)
    assert adopt(network, tensors(other), 3, "other") is None
    assert all(map(torch.equal, tensors(network).values(), tensors(other).values()))


def test_a_head_of_other_classes_starts_anew_and_all_else_is_taken() -> None:
    network, other = a_net(1, num_classes=10), a_net(2, num_classes=26)
    own = network.fc3.weight.clone()
    head = adopt(network, tensors(other), 10, "other")
    assert str(head) == "the head fc3 starts anew: 10 classes instead of 26"
    assert torch.equal(network.fc3.weight, own)
    assert torch.equal(network.fc2.weight, other.fc2.weight)
    assert torch.equal(network.norm.running_var, other.norm.running_var)


def test_a_network_that_is_its_own_head() -> None:
    head = adopt(nn.Linear(3, 2), tensors(nn.Linear(3, 5)), 2, "other")
    assert str(head) == "the head starts anew: 2 classes instead of 5"


def changed(**tensors_: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The state of a network of 26 classes, but for some tensors."""
    state: dict[str, torch.Tensor | None] = {**tensors(a_net(2, num_classes=26))}
    state.update({name.replace("__", "."): tensor for name, tensor in tensors_.items()})
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        (
            changed(conv1__weight=torch.zeros(6, 3, 1, 1)),
            r"'conv1.weight' is float32 \[6, 3, 1, 1\] there and float32 \[",
        ),
        (
            changed(fc2__weight=torch.zeros(5, 54)),
            r"'fc2.weight' is float32 \[5, 54\] there .* images of that size \(data",
        ),
        (changed(fc2__weight=torch.zeros(7, 6)), r"'fc2.weight' is float32 \[7, 6\] there"),
        (changed(fc3__bias=torch.zeros(25)), r"'fc3.bias' is float32 \[25\] there"),
        (changed(fc3__weight=torch.zeros(26, 4)), r"'fc3.weight' is float32 \[26, 4\] there"),
        (changed(conv1__bias=None), "'conv1.bias' is absent there and float32"),
        (changed(fc4__bias=torch.zeros(2)), r"'fc4.bias' is float32 \[2\] there and absent in the network"),
        (changed(fc2__bias=torch.zeros(5).half()), r"'fc2.bias' is float16 \[5\] there"),
        (changed(fc2__bias=torch.full((5,), torch.nan)), "holds nan or inf in 'fc2.bias': name a model that did not"),
    ],
    ids=["channels", "image size", "width", "torn head", "inputs of the head", "missing", "too many", "type", "nan"],
)
def test_what_does_not_fit_is_named_and_nothing_is_taken(stored: dict[str, torch.Tensor], sentence: str) -> None:
    network = a_net(1, num_classes=10)
    before = FlatModel(network).state_dict()
    with pytest.raises(ModelError, match=f"^model.init = 'old' (does not fit: )?{sentence}"):
        adopt(network, stored, 10, "old")
    assert all(map(torch.equal, tensors(network).values(), before.values()))


def test_a_head_that_starts_anew_must_train() -> None:
    network = a_net(num_classes=10)
    freeze(network, ["*.bias"])
    sentence = r"^the head fc3 starts anew: 10 classes instead of 26, but it is frozen: take it out of model\.freeze$"
    with pytest.raises(ModelError, match=sentence):
        adopt(network, changed(), 10, "old")
    adopt(network, tensors(a_net(2, num_classes=10)), 10, "old")  # a head that is taken may be frozen


# ------------------------------------------------------------------------------------------ what is frozen


def trained(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def test_patterns_meet_names_of_parameters() -> None:
    network = a_net()
    freeze(network, ["conv*", "norm.weight", "fc[2].w*"])
    assert trained(network) == ["norm.bias", "fc2.bias", "fc3.weight", "fc3.bias"]


def test_a_tied_parameter_is_met_under_each_name() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    freeze(network, ["1.*"])
    assert trained(network) == ["0.bias"]


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        (["Conv*"], r"^model.freeze: 'Conv\*' matches no parameter: write a pattern over their names \(conv1.weight, "),
        (["conv*", "fc3"], r"^model.freeze: 'fc3' matches no parameter: did you mean 'fc3\.\*'\?$"),
        (["*"], r"^model.freeze = \* leaves nothing to train: leave out a pattern$"),
        (["conv*", "fc*", "norm*"], r"^model.freeze = conv\*,fc\*,norm\* leaves nothing to train"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(patterns: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        freeze(a_net(), patterns)


# ---------------------------------------------------------------------------------------------- jobs


POINTS = wrap(Clouds.draw(300), Clouds.draw(60, seed=1))


def a_job(**model: Any) -> Job:
    return prepare(a_config(model=model), Net, POINTS)


def test_a_job_carries_the_weights_so_that_no_worker_reads_the_file(tmp_path: Path) -> None:
    path, other = tmp_path / "model.safetensors", a_net(2, num_classes=3)
    save_model(path, other)
    job = a_job(init=str(path), freeze=["conv1.*", "norm.*"])
    path.unlink()
    network = pickle.loads(pickle.dumps(job)).network()
    assert all(map(torch.equal, tensors(network).values(), tensors(other).values()))
    assert trained(network) == ["fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"]
    flat = FlatModel(network)
    assert flat.num_weights == 5 * 6 + 5 + 3 * 5 + 3
    assert job.setup(num_weights=flat.num_weights, session=0).sizes.push == 4 * 53


def test_weights_that_a_factory_froze_are_the_same_everywhere() -> None:
    def factory(num_classes: int) -> nn.Module:
        network = Net(num_classes=num_classes)
        network.conv1.weight.data += float(np.random.default_rng().standard_normal())  # of no seed
        network.conv1.requires_grad_(False)
        return network

    job = prepare(a_config(), factory, POINTS)
    assert torch.equal(job.network().conv1.weight, job.network().conv1.weight)
    assert a_job().initial is None  # where nothing is frozen, the weights come with the first answer


def run_of(path: Path, classes: int, **options: Any) -> Any:
    """A run on points around so many centres."""
    train_, test = (Clouds.draw(count, num_classes=classes, seed=seed) for count, seed in ((240, 0), (60, 1)))
    data = tuple(TensorDataset(each.images, each.labels) for each in (train_, test))
    model = options.pop("model", {})
    return simulate(a_config("agwu", epochs=2, model=model), model=Net, data=data, out=path, **options)


FROZEN = ("conv1.weight", "conv1.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")


def test_a_run_begins_with_what_another_run_left(tmp_path: Path) -> None:
    first = run_of(tmp_path / "first", 3)
    watcher = Watcher()
    settings = {"init": str(first.path), "freeze": ["conv1.*", "norm.*"]}
    second = run_of(tmp_path / "second", 4, model=settings, observer=watcher)
    old, new = (load_file(run.path / "model.safetensors") for run in (first, second))
    same = {name for name in old if torch.equal(old[name], new[name])}
    assert same == {*FROZEN, "norm.num_batches_tracked"}  # a run does not count batches
    assert watcher.notices == list(second.notices) == ["the head fc3 starts anew: 4 classes instead of 3"]
    assert watcher.noticed_after == [0]
    pushes = [sum(worker["pushes"] for worker in run.summary["workers"]) for run in (first, second)]
    per_push = [run.summary["bytes_pushed"] / count for run, count in zip((first, second), pushes, strict=True)]
    assert per_push == [4 * (24 + 6 + 2 * 6 + 2 * 6 + 35 + 18), 4 * (35 + 24)]
    assert f'init = "{first.path}"' in (second.path / "config.toml").read_text()
    network = second.model()
    assert trained(network) == ["fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"]
    assert all(torch.equal(value, new[name]) for name, value in tensors(network).items())


@pytest.mark.parametrize(
    ("settings", "kind", "sentence"),
    [
        ({"init": "absent.safetensors"}, ModelError, "cannot read model '.*absent.safetensors' .No such file"),
        ({"init": "damaged"}, ModelError, "damaged' is damaged or no .safetensors file"),
        ({"init": "."}, RunFolderError, "is not a run .it has no config.toml."),
        ({"init": "unfinished"}, ModelError, "unfinished' is a run that has left no network yet: let it end, or"),
        ({"freeze": ["fc4*"]}, ConfigError, "'fc4.' matches no parameter"),
    ],
)
def test_what_cannot_begin_leaves_nothing_behind(
    tmp_path: Path, settings: dict[str, Any], kind: type[BptcnnError], sentence: str
) -> None:
    (tmp_path / "damaged").write_bytes(b"torn")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.toml").write_text("epochs = 3\n")
    before = contents(tmp_path)
    if "init" in settings:
        settings = {"init": str(tmp_path / settings["init"])}
    with pytest.raises(kind, match=sentence):
        run_of(tmp_path / "deep" / "run", 3, model=settings)
    assert contents(tmp_path) == before
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("where", ["bptcnn.launch.save_model", "bptcnn.engine.virtual.simulation.Journal"])
def test_a_failure_before_or_after_the_weights_are_kept_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise ModelError("the disk is full")

    monkeypatch.setattr(where, full)
    with pytest.raises(ModelError, match="the disk is full"):
        run_of(tmp_path / "run", 3, model={"freeze": ["conv1.*"]})
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------- resuming


class Engine:
    """In the place of Ray: takes the job that it is given, and runs nothing."""

    def __init__(self, job: Job, *rest: Any) -> None:
        raise CaughtError(job)


class CaughtError(Exception):
    """Brings the job to the test."""

    def __init__(self, job: Job) -> None:
        self.job = job


def test_a_run_that_is_resumed_needs_the_file_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "old.safetensors", simulate_digits(tmp_path / "first").model())
    settings = {"init": str(tmp_path / "old.safetensors"), "freeze": ["0.*"]}
    out = simulate_digits(tmp_path / "run", **settings).path
    (tmp_path / "old.safetensors").unlink()
    (out / "summary.json").unlink()
    events = out / "events.jsonl"
    events.write_text(events.read_text().replace('"engine": "virtual"', '"engine": "ray"'))
    monkeypatch.setattr("bptcnn.engine.ray.RayEngine", Engine)
    with pytest.raises(CaughtError) as caught:
        train(resume=out)
    network, first = caught.value.job.network(), load_file(tmp_path / "first" / "model.safetensors")
    assert all(torch.equal(value, first[name]) for name, value in tensors(network).items())
    assert trained(network)[0] == "1.weight"
    assert caught.value.job.notices == ()
    (out / "initial.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot read model '.*initial.safetensors' \(No such file"):
        train(resume=out)


def simulate_digits(out: Path, **model: Any) -> Any:
    workers = {"count": 2, "speeds": (300, 100)}
    return simulate(RunConfig(model={"name": "case1", **model}, epochs=1, workers=workers), out=out)


# ---------------------------------------------------------------------------------------- command line


def test_fine_tuning_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = {}
    for part, images in zip(("train", "test"), load(DataConfig(name="digits"), seed=0), strict=True):
        batch = images.batch(np.arange(len(images)), 0)
        chosen = (batch.labels < 4).numpy()
        few |= {f"x_{part}": (batch.images[chosen] * 40 + 40).clamp(0, 255).byte().numpy()}
        few |= {f"y_{part}": batch.labels[chosen].numpy()}
    np.savez(tmp_path / "few.npz", **few)
    usual = ["--model", "case1", "--epochs", "1", "--speeds", "300,100"]
    assert main(["simulate", *usual, "--out", "first"]) == 0
    capsys.readouterr()
    tuned = [*usual, "--data", "npz:few.npz", "--init", "first", "--freeze", "0.*, 1.bias", "--out", "second"]
    assert main(["simulate", *tuned]) == 0
    assert capsys.readouterr().out.startswith("the head 3 starts anew: 4 classes instead of 10\n")
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    same = [name for name in old if torch.equal(old[name], new[name])]
    assert same == ["0.0.bias", "0.0.weight", "0.2.bias", "0.2.weight", "1.bias"]
    shutil.rmtree(tmp_path / "first")
    assert main(["simulate", *usual, "--init", "first", "--out", "third"]) == 2
    assert main(["simulate", *usual, "--freeze", "0.*,,1", "--out", "third"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "bptcnn: cannot read model 'first' (No such file or directory): name a model that was saved",
        "bptcnn: --freeze 0.*,,1: a pattern is empty: write names of parameters, as in 0.*,1.0.weight",
    ]
    assert not (tmp_path / "third").exists()
