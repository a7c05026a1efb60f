"""Training on a GPU: what is chosen where there is one, and, where there is, that it computes the same as PyTorch.

Without a GPU, a recording is played by hand: the step is done again on the memory that it was recorded on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import Clouds, a_config, linear, normed
from torch import nn
from torch.nn import functional

from bptcnn.data import DataPair
from bptcnn.engine.job import prepare
from bptcnn.errors import ConfigError, ModelError, UnsupportedError
from bptcnn.inner import Exchange, Learner, OptimizerConfig, TrainStep, accuracy_of, plan
from bptcnn.inner.cuda import Graphed, Outcome
from bptcnn.inner.eager import Eager, Loss
from bptcnn.inner.fused import fuse
from bptcnn.inner.lanes import Lanes
from bptcnn.inner.machine.devices import device_named
from bptcnn.inner.plan import candidates
from bptcnn.models import FlatModel, ModelConfig, build
from bptcnn.outer.rules import LocalSgd

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GPU = torch.device("cuda", 0)
IMAGES, LABELS = torch.randn(32, 1, 12, 12), torch.arange(32) % 4
TRAIN = Clouds.draw(120)
cross_entropy = functional.cross_entropy


def lenet() -> nn.Module:
    return build(ModelConfig(name="lenet5"), (1, 12, 12), 4, seed=1)


def with_statistics() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 4))
        return nn.Sequential(*layers)


class ByHand:
    """A recording that does the step again, on the same memory; it counts how often it was replayed."""

    def __init__(self, step: Callable[[], Outcome]) -> None:
        self.replays = 0
        self._step = step
        self.outcome = step()

    def replay(self) -> None:
        self.replays += 1
        for mine, new in zip(self.outcome, self._step(), strict=True):
            mine.copy_(new)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[ByHand]:
    """Recordings are played by hand; all that were made."""
    made: list[ByHand] = []

    def record(step: Callable[[], Outcome], device: torch.device) -> tuple[ByHand, Outcome]:
        made.append(ByHand(step))
        return made[-1], made[-1].outcome

    monkeypatch.setattr("bptcnn.inner.cuda.record", record)
    return made


@pytest.fixture
def a_gpu(recordings: list[ByHand], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ByHand]:
    """Networks seem to be on a GPU, as far as the choice of a way depends on it; all recordings that were made."""
    monkeypatch.setenv("BPTCNN_CACHE", str(tmp_path))
    monkeypatch.setattr("bptcnn.inner.plan.BUDGET_S", 0.05)
    for place in ("plan", "step"):
        monkeypatch.setattr(f"bptcnn.inner.{place}.device_of", lambda module: GPU)
    monkeypatch.setattr("bptcnn.inner.plan._forked", lambda device: torch.random.fork_rng(devices=[]))
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "H100")
    return recordings


# -------------------------------------------------------------------------------------- choosing a device


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_named("auto") == device_named("cpu") == torch.device("cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device_named("cpu", 1) == torch.device("cpu")
    assert [device_named("auto", worker).index for worker in range(4)] == [0, 1, 0, 1]
    assert device_named("cuda") == GPU


def test_a_gpu_that_is_not_there_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^workers\.device = 'cuda' but PyTorch \S+ sees no GPU .*: give 'cpu' or"):
        device_named("cuda")


def test_ways_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, lanes = (IMAGES, LABELS), Lanes(1)
    names = list(candidates(lenet(), batch, cross_entropy, "fp32", lanes))
    assert names == ["compiled", "pytorch, channels last", "pytorch"]
    monkeypatch.setattr("bptcnn.inner.plan.device_of", lambda module: GPU)
    ways = candidates(lenet(), batch, cross_entropy, "fp32", lanes)
    assert list(ways) == ["cuda graph", "pytorch, channels last", "pytorch"]
    with pytest.raises(UnsupportedError, match="its weights are on the cpu, not on a GPU"):
        ways["cuda graph"]()


def test_a_plan_belongs_to_one_kind_of_gpu(a_gpu: list[ByHand], monkeypatch: pytest.MonkeyPatch) -> None:
    network = lenet()
    asked: list[str] = []

    def a_plan(*_: Any) -> tuple[plan.Plan, Eager]:
        asked.append(torch.cuda.get_device_name(GPU))
        return plan.Plan("pytorch", (plan.Row("pytorch", 1.0),)), Eager(network)

    monkeypatch.setattr(plan, "plan", a_plan)
    for name in ("H100", "H100", "A100", "H100"):
        monkeypatch.setattr("torch.cuda.get_device_name", lambda device, name=name: name)
        plan.remembered(network, (IMAGES, LABELS), cross_entropy, "fp32", Lanes(1))
    assert asked == ["H100", "A100"]


def test_the_gpu_is_waited_for_before_the_clock_is_read(a_gpu: list[ByHand], monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: events.append("waited"))

    def clock() -> float:
        events.append("read")
        return float(len(events))

    def way(images: torch.Tensor, labels: torch.Tensor, loss: Loss) -> Outcome:
        events.append("step")
        return torch.zeros(()), torch.zeros(len(images), 4)

    plan.plan(lenet(), (IMAGES, LABELS), cross_entropy, {"way": lambda: way}, budget_s=30.0, clock=clock)
    assert events.count("step") > 1
    assert all(events[place + 1] == "waited" for place, event in enumerate(events) if event == "step")


def test_a_step_on_a_gpu_takes_no_lanes_and_is_the_same(a_gpu: list[ByHand], monkeypatch: pytest.MonkeyPatch) -> None:
    network, plain = lenet(), lenet()
    optimizer, usual = (torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9) for net in (network, plain))
    step = TrainStep(network, cross_entropy, optimizer, (IMAGES, LABELS), num_lanes=7)
    assert [row.name for row in step.plan.rows] == ["cuda graph", "pytorch, channels last", "pytorch"]
    step._gradients = Graphed(network, (IMAGES, LABELS), cross_entropy)
    for count in (32, 20, 32, 48):
        usual.zero_grad()
        expected = cross_entropy(plain(IMAGES.repeat(2, 1, 1, 1)[:count]), LABELS.repeat(2)[:count])
        expected.backward()
        usual.step()
        loss = step(IMAGES.repeat(2, 1, 1, 1)[:count], LABELS.repeat(2)[:count])
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        assert step.scores.shape == (count, 4)
    assert a_gpu[-1].replays == 2


# ---------------------------------------------------------------------------------------------- recordings


def test_what_a_replay_returned_outlives_the_next(recordings: list[ByHand]) -> None:
    network = lenet()
    graphed = Graphed(network, (IMAGES, LABELS), cross_entropy)
    first, scores = graphed(IMAGES, LABELS, cross_entropy)
    kept = first.item(), scores.clone()
    graphed(2 * IMAGES, LABELS, cross_entropy)
    assert first.item() == kept[0]
    assert torch.equal(scores, kept[1])
    assert recordings[0].replays == 2


def test_a_recording_leaves_statistics_and_chance_as_they_were(recordings: list[ByHand]) -> None:
    network = with_statistics()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    Graphed(network, (IMAGES, LABELS), cross_entropy)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_views_of_a_flat_model_stay_views(recordings: list[ByHand]) -> None:
    flat, other = FlatModel(lenet()), FlatModel(lenet())
    views = [parameter.grad.data_ptr() for parameter in flat.trained]
    graphed = Graphed(flat.module, (IMAGES, LABELS), cross_entropy)
    for _ in range(2):  # gradients are not summed over steps
        graphed(IMAGES, LABELS, cross_entropy)
        Eager(other.module)(IMAGES, LABELS, cross_entropy)
        torch.testing.assert_close(flat.gradient, other.gradient)
    assert [parameter.grad.data_ptr() for parameter in flat.trained] == views


def test_gradients_that_were_cleared_are_there_again(recordings: list[ByHand]) -> None:
    network = lenet()
    graphed = Graphed(network, (IMAGES, LABELS), cross_entropy)
    own = [parameter.grad for parameter in network.parameters()]
    network.zero_grad(set_to_none=True)
    graphed(IMAGES, LABELS, cross_entropy)
    assert all(parameter.grad is one for parameter, one in zip(network.parameters(), own, strict=True))


def test_only_what_was_recorded_is_replayed(recordings: list[ByHand]) -> None:
    network = lenet()
    graphed = Graphed(network, (IMAGES, LABELS), cross_entropy)

    def doubled(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 2 * cross_entropy(scores, labels)

    usual, _ = graphed(IMAGES, LABELS, cross_entropy)
    assert recordings[0].replays == 1
    assert graphed(IMAGES[:7], LABELS[:7], cross_entropy)[1].shape == (7, 4)
    assert graphed(IMAGES, LABELS, doubled)[0].item() == pytest.approx(2 * usual.item())
    next(network.parameters()).requires_grad_(False)
    graphed(IMAGES, LABELS, cross_entropy)
    next(network.parameters()).requires_grad_(True)
    network.eval()
    graphed(IMAGES, LABELS, cross_entropy)
    network.train()
    assert recordings[0].replays == 1
    graphed(IMAGES, LABELS, cross_entropy)
    assert recordings[0].replays == 2
    flat = FlatModel(network)  # puts the weights elsewhere
    graphed(IMAGES, LABELS, cross_entropy)
    assert recordings[0].replays == 2
    assert flat.gradient.any()


def test_what_a_recording_would_leave_out_is_refused(recordings: list[ByHand]) -> None:
    class Moody(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images * (random.random() < 0.5)

    with pytest.raises(UnsupportedError, match="draws random numbers that a recorded step would repeat"):
        Graphed(nn.Sequential(Moody(), lenet()), (IMAGES, LABELS), cross_entropy)
    hooked, watched = lenet(), lenet()
    next(hooked.children()).register_forward_hook(lambda *_: None)
    next(watched.parameters()).register_hook(lambda gradient: None)
    for network in (hooked, watched):
        with pytest.raises(UnsupportedError, match="has hooks"):
            Graphed(network, (IMAGES, LABELS), cross_entropy)


def test_a_recording_that_fails_is_a_reason_and_leaves_statistics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(step: Callable[[], Outcome], device: torch.device) -> tuple[ByHand, Outcome]:
        step()
        raise RuntimeError("called a synchronizing CUDA operation.\nand more")

    monkeypatch.setattr("bptcnn.inner.cuda.record", record)
    network = with_statistics()
    before = network[1].running_mean.clone()
    with pytest.raises(UnsupportedError, match=r"^its step can't .* GPU \(called a synchronizing CUDA operation\)$"):
        Graphed(network, (IMAGES, LABELS), cross_entropy)
    assert torch.equal(network[1].running_mean, before)


# --------------------------------------------------------------------------------------------- optimizers


def weights_of(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize(
    "make",
    [
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True),
        lambda weights: torch.optim.Adam(weights, lr=0.01, amsgrad=True),
        lambda weights: torch.optim.AdamW(weights, lr=0.01),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_a_fused_optimizer_goes_on_where_it_was(make: Any) -> None:
    networks = lenet(), lenet()
    optimizers = [make(network.parameters()) for network in networks]
    for step in range(6):
        for network, optimizer in zip(networks, optimizers, strict=True):
            Eager(network)(IMAGES, LABELS, cross_entropy)
            optimizer.step()
        if step == 2:
            assert fuse(optimizers[0])
            assert not fuse(optimizers[0])  # a second time
    assert all(group["fused"] for group in optimizers[0].param_groups)
    for mine, other in zip(*map(weights_of, networks), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


class OwnSGD(torch.optim.SGD):
    """Somebody's own."""


def test_other_optimizers_are_left_alone() -> None:
    weights = list(lenet().parameters())
    assert not fuse(torch.optim.SGD([torch.zeros(2, device="meta", requires_grad=True)], lr=0.1))
    hooked = torch.optim.SGD(weights, lr=0.1)
    hooked.register_step_post_hook(lambda *_: None)
    turned = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    turned.state[weights[0]]["momentum_buffer"] = torch.zeros_like(weights[0]).to(memory_format=torch.channels_last)
    turned.state[weights[2]]["momentum_buffer"] = torch.zeros(weights[2].shape[::-1]).permute(3, 2, 1, 0)
    for optimizer in (
        hooked,
        turned,
        OwnSGD(weights, lr=0.1),
        torch.optim.RMSprop(weights),
        torch.optim.SGD(weights, lr=0.1, foreach=False),
        torch.optim.SGD(weights, lr=0.1, fused=False),
        torch.optim.SGD(weights, lr=0.1, maximize=True),
        torch.optim.Adam(weights, lr=torch.tensor(0.1)),
    ):
        before = [group.get("fused") for group in optimizer.param_groups]
        assert not fuse(optimizer)
        assert [group.get("fused") for group in optimizer.param_groups] == before
    scheduled = torch.optim.SGD(weights, lr=0.1)
    torch.optim.lr_scheduler.ConstantLR(scheduled)
    assert fuse(scheduled)


# --------------------------------------------------------------------------------------- learners and runs


class Remote(torch.Tensor):
    """A tensor that behaves as if it were on a GPU: no view as an array, no arithmetic with what is on the CPU."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:
            return GPU
        if name == "numpy":
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name in ("cpu", "to"):
            with torch._C.DisableTorchFunctionSubclass():
                here = args[0].detach().clone().as_subclass(torch.Tensor)
                return here.as_subclass(Remote) if name == "to" else here
        if name in ("add_", "sub_", "add", "sub") and any(type(value) is torch.Tensor for value in args):
            raise RuntimeError("Expected all tensors to be on the same device")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_folds_and_pushes_of_weights_elsewhere() -> None:
    learners = [Learner(linear(TRAIN.shape, 3), TRAIN, OptimizerConfig()) for _ in range(2)]
    learners[1].flat.load(learners[0].flat.snapshot())
    remote = learners[1].flat
    remote.vector = remote.vector.as_subclass(Remote)
    assert remote.vector.device.type == "cuda"
    start, new = learners[0].flat.snapshot(), np.linspace(-1, 1, remote.num_weights, dtype=np.float32)
    new.flags.writeable = False
    pushed = []
    exchanges = [Exchange(learner.flat, LocalSgd()) for learner in learners]
    for learner, exchange in zip(learners, exchanges, strict=True):
        exchange.fold(start, ahead=False)
        learner.step(np.arange(20), epoch=1, lr=0.1)
        pushed.append(exchange.push())
        learner.step(np.arange(20, 40), epoch=1, lr=0.1)
        exchange.fold(new, ahead=True)
    assert np.array_equal(*pushed)
    assert pushed[0].any()
    assert np.array_equal(*(learner.flat.snapshot() for learner in learners))
    assert np.array_equal(*(exchange.push() for exchange in exchanges))


def test_a_learner_replays_batches_of_the_usual_size(recordings: list[ByHand], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bptcnn.inner.learner._num_outputs", lambda module, images, device: 3)
    usual = Learner(linear(TRAIN.shape, 3), TRAIN, OptimizerConfig(), batch_size=20)
    network = linear(TRAIN.shape, 3)
    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "to", lambda module, device: module)
        learner = Learner(network, TRAIN, OptimizerConfig(), batch_size=20, device=GPU)
    learner.flat.load(usual.flat.snapshot())
    for size in (20, 19, 20):
        results = [one.step(np.arange(size), epoch=1, lr=0.1) for one in (usual, learner)]
        assert results[1].loss == pytest.approx(results[0].loss, rel=1e-5)
        assert results[1].correct == results[0].correct
    np.testing.assert_allclose(learner.flat.snapshot(), usual.flat.snapshot(), rtol=1e-5, atol=1e-6)
    assert recordings[0].replays == 2
    learner._num_outputs = 2
    with pytest.raises(ModelError, match=r"^label 2 lies beyond the model's 2 outputs"):
        learner.step(np.arange(20), epoch=1, lr=0.1)
    assert recordings[0].replays == 2


def test_a_run_without_the_gpu_that_it_asks_for_ends_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import bptcnn

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = bptcnn.RunConfig(workers={"device": "cuda"})
    for run in (bptcnn.simulate, bptcnn.train):
        with pytest.raises(ConfigError, match=r"^workers\.device = 'cuda' but PyTorch \S+ sees no GPU"):
            run(config, out=tmp_path / run.__name__)
        assert not (tmp_path / run.__name__).exists()
    assert bptcnn.simulate(config, out=tmp_path / "timing", timing_only=True).summary["samples"]["lost"] == 0


def test_a_simulation_uses_a_gpu_only_if_told_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import bptcnn

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert bptcnn.simulate(bptcnn.RunConfig(epochs=3), out=tmp_path / "run").summary["samples"]["lost"] == 0


def test_a_device_that_does_not_exist_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"^workers\.device = 'tpu' is not valid: "):
        a_config(workers={"device": "tpu"})


# ---------------------------------------------------------------------------------------------- on a GPU


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of float32 are not rounded to 10 bits, which kernels do in different places."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def batches(count: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    sizes = [32] * (count - 1) + [20]
    return [(torch.randn(size, 1, 12, 12, generator=generator), torch.arange(size) % 4) for size in sizes]


def plain_losses(network: nn.Module, optimizer: torch.optim.Optimizer, *, bf16: bool = False) -> list[float]:
    """Five steps as a user of PyTorch writes them."""
    losses = []
    for images, labels in batches():
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            scores = network(images.to(GPU)).float()
        loss = cross_entropy(scores, labels.to(GPU))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@needs_cuda
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("way", ["cuda graph", "pytorch, channels last"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [lenet, with_statistics])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_losses_are_those_of_plain_pytorch(kind: Any, make: Any, precision: Any, way: str) -> None:
    network, plain = make().to(GPU), make().to(GPU)
    options: dict[str, Any] = {"lr": 0.01} if kind is torch.optim.Adam else {"lr": 0.05, "momentum": 0.9}
    optimizer = kind(network.parameters(), **options)
    step = TrainStep(network, cross_entropy, optimizer, batches()[0], precision=precision)
    assert not any(row.note for row in step.plan.rows)
    assert optimizer.param_groups[0]["fused"]
    step._gradients = candidates(network, batches()[0], cross_entropy, precision, Lanes(1))[way]()
    bf16 = precision == "bf16"
    expected = plain_losses(plain, kind(plain.parameters(), **options), bf16=bf16)
    found = [step(images.pin_memory(), labels).item() for images, labels in batches()]
    assert found == pytest.approx(expected, rel=5e-2 if bf16 else 2e-3)
    assert step.scores.dtype == torch.float32
    statistics = zip(network.buffers(), plain.buffers(), strict=True)
    for mine, other in statistics:
        torch.testing.assert_close(mine, other, rtol=5e-2 if bf16 else 1e-2, atol=5e-2 if bf16 else 2e-3)


@needs_cuda
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_an_optimizer_goes_on_with_the_state_it_had(kind: Any) -> None:
    options: dict[str, Any] = {"lr": 0.01} if kind is torch.optim.Adam else {"lr": 0.05, "momentum": 0.9}
    networks = lenet().to(GPU), lenet().to(GPU)
    optimizers = [kind(network.parameters(), **options) for network in networks]
    for network, optimizer in zip(networks, optimizers, strict=True):
        plain_losses(network, optimizer)
    step = TrainStep(networks[0], cross_entropy, optimizers[0], batches()[0])
    found = [step(*batch).item() for batch in batches()]
    assert found == pytest.approx(plain_losses(networks[1], optimizers[1]), rel=2e-3)


@needs_cuda
@pytest.mark.usefixtures("exact")
def test_gradients_on_a_gpu_stay_views_of_a_flat_model() -> None:
    flat = FlatModel(lenet().to(GPU))
    views = [parameter.grad.data_ptr() for parameter in flat.trained]
    graphed = Graphed(flat.module, (IMAGES, LABELS), cross_entropy)
    for factor in (1, 2, 3):
        graphed(factor * IMAGES, LABELS, cross_entropy)
        other = FlatModel(lenet().to(GPU))
        Eager(other.module)(factor * IMAGES, LABELS, cross_entropy)
        torch.testing.assert_close(flat.gradient, other.gradient, rtol=1e-3, atol=1e-3)
    assert [parameter.grad.data_ptr() for parameter in flat.trained] == views


@needs_cuda
def test_a_loss_that_waits_is_refused_and_does_no_harm() -> None:
    def waits(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(scores, labels) / max(1.0, scores.detach().abs().max().item())

    network = nn.Sequential(nn.Dropout(0.1), lenet()).to(GPU)
    with pytest.raises(UnsupportedError, match="can't be recorded for the GPU"):
        Graphed(network, (IMAGES, LABELS), waits)
    assert torch.cuda.get_sync_debug_mode() == 0
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    step = TrainStep(network, waits, torch.optim.SGD(network.parameters(), lr=0.05), (IMAGES, LABELS))
    assert step.plan.rows[0].note
    assert step(IMAGES, LABELS).isfinite()


@needs_cuda
def test_dropout_is_drawn_anew_in_each_replay() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 4)).to(GPU)
    state = torch.cuda.get_rng_state()
    graphed = Graphed(network, (IMAGES, LABELS), cross_entropy)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    first, second = (graphed(IMAGES, LABELS, cross_entropy)[0].item() for _ in range(2))
    assert first != second


@needs_cuda
@pytest.mark.parametrize("make", [linear, normed])
def test_a_learner_on_a_gpu_takes_the_steps_of_one_on_the_cpu(make: Any) -> None:
    learners = []
    for device in (torch.device("cpu"), GPU):
        torch.manual_seed(5)
        network = make(TRAIN.shape, TRAIN.num_classes)
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        options: dict[str, Any] = {"validation": Clouds.draw(50, seed=9), "batch_size": 20, "device": device}
        learners.append(Learner(network, TRAIN, OptimizerConfig(), **options))
    start = learners[0].flat.snapshot()
    exchanges = [Exchange(learner.flat, LocalSgd()) for learner in learners]
    for exchange in exchanges:
        exchange.fold(start, ahead=False)
    for size in (20, 20, 13):
        results = [learner.step(np.arange(size), epoch=1, lr=0.1) for learner in learners]
        assert results[1].loss == pytest.approx(results[0].loss, rel=1e-3)
    np.testing.assert_allclose(*(exchange.push() for exchange in exchanges), rtol=1e-2, atol=1e-4)
    for learner, exchange in zip(learners, exchanges, strict=True):
        learner.step(np.arange(40, 60), epoch=1, lr=0.1)
        exchange.fold(start, ahead=True)
    np.testing.assert_allclose(*(learner.flat.snapshot() for learner in learners), rtol=1e-2, atol=1e-4)
    assert learners[1].validate() == pytest.approx(learners[0].validate(), abs=0.05)
    assert accuracy_of(learners[1].flat.module, TRAIN) > 0.3


@needs_cuda
def test_a_label_beyond_the_outputs_is_explained_on_a_gpu_too() -> None:
    learner = Learner(linear(TRAIN.shape, 2), TRAIN, OptimizerConfig(), device=GPU)
    with pytest.raises(ModelError, match=r"^label 2 lies beyond the model's 2 outputs"):
        learner.step(np.arange(40), epoch=1, lr=0.1)
    assert np.isfinite(learner.flat.snapshot()).all()


@needs_cuda
def test_a_job_trains_on_the_device_that_it_is_given() -> None:
    data = DataPair(TRAIN, Clouds.draw(40, seed=1))
    job = prepare(a_config(workers={"count": 1, "device": "cuda"}), linear, data)
    learner = job.learner(job.network(), device=device_named(job.config.workers.device))
    assert learner.flat.vector.is_cuda
    assert learner.step(np.arange(10), epoch=1, lr=0.1).correct <= 10
