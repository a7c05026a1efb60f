"""The inner layer: one worker's steps, what it folds in and what it pushes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jobs import Clouds, linear, normed
from torch import nn
from torch.nn import functional

from bptcnn.errors import DataError, DivergedError, ModelError
from bptcnn.inner import Exchange, Learner, LocalWorker, OptimizerConfig, ScheduleConfig, Throttle, accuracy_of
from bptcnn.inner.learner import StepResult
from bptcnn.inner.work import Work
from bptcnn.models import freeze
from bptcnn.outer.rules import AllReduce, Contribution, Easgd, LocalSgd, Strategy

TRAIN = Clouds.draw(120)
BATCHES = np.split(np.random.default_rng(3).permutation(120), 6)
CONSTANT = ScheduleConfig(kind="constant", warmup=0)


def a_network(make: Callable[..., nn.Module] = linear) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return make(TRAIN.shape, TRAIN.num_classes)


def without_chance(network: nn.Module) -> nn.Module:
    """Dropout of two implementations can't be compared number by number."""
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return network


def a_learner(make: Callable[..., nn.Module] = linear, **options: Any) -> Learner:
    return Learner(a_network(make), options.pop("samples", TRAIN), OptimizerConfig(), **options)


def steps(learner: Learner, *numbers: int) -> None:
    for number in numbers:
        learner.step(BATCHES[number], epoch=1, lr=0.1)


def weights_of(learner: Learner) -> np.ndarray:
    return learner.flat.snapshot()


# ------------------------------------------------------------------------------------------------ one step


@pytest.mark.parametrize("make", [linear, normed])
@pytest.mark.parametrize(
    "settings",
    [
        OptimizerConfig(momentum=0, weight_decay=0),
        OptimizerConfig(momentum=0.9, nesterov=False, weight_decay=0.01),
        OptimizerConfig(momentum=0.9, nesterov=True, weight_decay=0.01),
    ],
    ids=["plain", "momentum", "nesterov"],
)
def test_steps_are_those_of_torchs_sgd_on_the_same_network(
    make: Callable[..., nn.Module], settings: OptimizerConfig
) -> None:
    networks = without_chance(a_network(make)), without_chance(a_network(make)).train()
    learner, reference = Learner(networks[0], TRAIN, settings), networks[1]
    nesterov = settings.nesterov and settings.momentum > 0
    sgd = torch.optim.SGD(reference.parameters(), 1.0, settings.momentum, 0, settings.weight_decay, nesterov)
    for number, batch in enumerate(BATCHES):
        lr = 0.1 / (1 + number)
        result = learner.step(batch, epoch=1, lr=lr)
        scores = reference(TRAIN.images[batch])
        loss = functional.cross_entropy(scores, TRAIN.labels[batch])
        sgd.zero_grad()
        loss.backward()
        sgd.param_groups[0]["lr"] = lr
        sgd.step()
        assert result.loss == pytest.approx(loss.item() * len(batch), rel=1e-5)
        assert result.correct == int((scores.argmax(1) == TRAIN.labels[batch]).sum())
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(learner.flat.module.state_dict()[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("batch_size", [20, 2], ids=["compiled", "by PyTorch"])
def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves_as_by_torchs_sgd(batch_size: int) -> None:
    networks = [without_chance(a_network(normed)) for _ in range(2)]
    for network in networks:
        network[0].running_mean.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0]))
        freeze(network, ["0.*", "2.*"])
    learner = Learner(networks[0], TRAIN, OptimizerConfig(momentum=0.9, weight_decay=0.01), batch_size=batch_size)
    before, reference = learner.flat.state_dict(), networks[1].train()
    reference[0].eval()
    sgd = torch.optim.SGD([p for p in reference.parameters() if p.requires_grad], 0.1, 0.9, 0, 0.01, nesterov=True)
    exchange = Exchange(learner.flat, LocalSgd())
    exchange.fold(weights_of(learner), ahead=False)
    for batch in BATCHES:
        learner.step(batch, epoch=1, lr=0.1)
        sgd.zero_grad()
        functional.cross_entropy(reference(TRAIN.images[batch]), TRAIN.labels[batch]).backward()
        sgd.step()
    assert (learner.last_step() is None) == (batch_size == 2)
    after = learner.flat.state_dict()
    assert [name for name in after if not torch.equal(after[name], before[name])] == ["5.weight", "5.bias"]
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-6)
    assert exchange.push().size == 8 * 3 + 3  # nothing else is sent


def test_the_last_step_is_told_if_it_was_compiled() -> None:
    learner = a_learner(normed, batch_size=20, num_lanes=2)
    assert learner.last_step() is None
    steps(learner, 0, 1)
    told = learner.last_step()
    assert told is not None
    assert told.num_lanes == 2
    assert 0.5 <= told.balance <= 1
    assert 0 <= told.waiting_s < told.seconds < 60
    assert f"balance {told.balance:.2f}" in told.drawing
    learner.step(np.arange(120), epoch=1, lr=0.1)  # more samples than it was compiled for
    assert learner.last_step() is None


def test_a_network_that_pytorch_serves_has_no_step_to_tell_of() -> None:
    learner = a_learner(lambda shape, classes: nn.Sequential(nn.Hardswish(), linear(shape, classes)))
    steps(learner, 0)
    assert learner.last_step() is None


def test_bf16_learns_too_and_its_weights_stay_float32() -> None:
    learner = a_learner(precision="bf16")
    first = learner.step(BATCHES[0], epoch=1, lr=0.1).loss
    steps(learner, 1, 2, 3, 4, 5)
    assert learner.step(BATCHES[0], epoch=1, lr=0.1).loss < first
    assert weights_of(learner).dtype == np.float32


def test_an_image_that_holds_nan_is_to_blame_itself() -> None:
    images = TRAIN.images.clone()
    images[7] = torch.nan
    learner = a_learner(samples=Clouds(images, TRAIN.labels, TRAIN.num_classes))
    with pytest.raises(DataError, match=r"^image 7 of the training set holds nan or inf: "):
        learner.step(np.arange(120), epoch=1, lr=0.1)


def test_a_loss_that_is_no_number_leaves_the_weights_as_they_were() -> None:
    learner = a_learner()
    learner.flat.vector[2] = torch.nan
    before = weights_of(learner)
    with pytest.raises(DivergedError, match=r"^the loss became nan at learning rate 0\.1$"):
        learner.step(np.arange(120), epoch=1, lr=0.1)
    assert np.array_equal(weights_of(learner), before, equal_nan=True)


def test_a_label_beyond_the_outputs_is_explained() -> None:
    learner = Learner(linear(TRAIN.shape, 2), TRAIN, OptimizerConfig())
    with pytest.raises(ModelError, match=r"^label 2 lies beyond the model's 2 outputs: give the model an output per"):
        steps(learner, 0)


# -------------------------------------------------------------------------------------------- fold and push


def an_exchange(learner: Learner, rule: Strategy | None = None) -> Exchange:
    """One that has just received the learner's own weights."""
    exchange = Exchange(learner.flat, rule or LocalSgd())
    exchange.fold(weights_of(learner), ahead=False)
    return exchange


@pytest.mark.parametrize("make", [linear, normed])
def test_new_global_weights_keep_what_was_learned_since_the_push(make: Callable[..., nn.Module]) -> None:
    learner = a_learner(make)
    exchange = an_exchange(learner)
    steps(learner, 0, 1)
    pushed_at = weights_of(learner)
    exchange.push()
    steps(learner, 2, 3)
    learned_since = weights_of(learner) - pushed_at
    new = np.linspace(-1, 1, learner.flat.num_weights, dtype=np.float32)
    exchange.fold(new, ahead=True)
    np.testing.assert_allclose(weights_of(learner), new + learned_since, atol=1e-6)
    assert np.abs(learned_since).max() > 1e-3


def test_the_next_push_counts_from_the_new_global_weights() -> None:
    learner = a_learner()
    exchange = an_exchange(learner)
    steps(learner, 0)
    exchange.push()
    steps(learner, 1)
    new = np.ones(learner.flat.num_weights, np.float32)
    exchange.fold(new, ahead=True)
    steps(learner, 2)
    local = weights_of(learner)
    np.testing.assert_array_equal(exchange.push(), local - new)
    np.testing.assert_array_equal(weights_of(learner), local)


def test_without_anything_learned_since_the_global_weights_are_taken_to_the_bit() -> None:
    learner = a_learner()
    base = weights_of(learner)
    new = (base * 0.7 + 0.123).astype(np.float32)
    new.flags.writeable = False
    exchange = Exchange(learner.flat, LocalSgd())
    exchange.fold(new, ahead=False)
    assert np.array_equal(weights_of(learner), new)
    steps(learner, 0, 1)
    exchange.push()
    exchange.fold(base, ahead=False)
    assert np.array_equal(weights_of(learner), base)


def test_a_new_life_begins_with_the_global_weights_alone() -> None:
    learner = a_learner()
    exchange = an_exchange(learner)
    steps(learner, 0)
    exchange.push()
    steps(learner, 1)
    new = np.zeros(learner.flat.num_weights, np.float32)
    Exchange(learner.flat, LocalSgd()).fold(new, ahead=True)
    assert np.array_equal(weights_of(learner), new)


def test_a_team_goes_on_from_its_sum_when_that_counts_and_can_sum_again_until_then() -> None:
    """From 1, two workers go to 3 and to 5; with factors of 1/4 and 3/4 both go on from 1 + 2/4 + 12/4 = 4.5."""
    learners = a_learner(), a_learner()
    exchanges = [Exchange(learner.flat, AllReduce(), summed=True) for learner in learners]
    for learner, exchange, place in zip(learners, exchanges, (3.0, 5.0), strict=True):
        exchange.fold(np.ones(learner.flat.num_weights, np.float32), ahead=False)
        learner.flat.vector.fill_(place)
        exchange.push()
    for _ in range(2):
        parts = [exchange.part(scale) for exchange, scale in zip(exchanges, (0.25, 0.75), strict=True)]
        for exchange in exchanges:
            exchange.take_sum(parts[0] + parts[1])
    for learner, exchange in zip(learners, exchanges, strict=True):
        exchange.fold_sum()
        assert set(weights_of(learner).tolist()) == {4.5}
        exchange.push()  # and the next round begins there


def test_elastic_workers_and_centre_move_towards_each_other() -> None:
    """a = 0.25: from x = 3, c = 1 to x = 2.5, c = 1.5; a worker that has moved on since keeps its lead."""
    learner, rule = a_learner(), Easgd(moving_rate=0.25)
    exchange = Exchange(learner.flat, rule)
    centre = np.ones(learner.flat.num_weights, np.float32)
    exchange.fold(centre, ahead=False)
    learner.flat.vector.fill_(3.0)
    pushed = exchange.push()
    [merged] = {float(w) for w in rule.merge(centre, [Contribution(0, pushed, 0, 1, 0.0)], {}, 0).weights}
    assert merged == 1.5
    for lead, ahead in ((0.0, False), (0.5, True)):
        learner.flat.vector.fill_(3.0 + lead)
        exchange.fold(np.full_like(centre, merged), ahead=ahead)
        assert set(weights_of(learner).tolist()) == {2.5 + lead}
        learner.flat.vector.fill_(3.0)
        exchange.push()


def test_a_push_must_be_answered_before_the_next() -> None:
    exchange = an_exchange(a_learner())
    exchange.push()
    with pytest.raises(AssertionError):
        exchange.push()


def test_weights_that_are_no_numbers_are_not_pushed_and_stay_as_they_were() -> None:
    learner = a_learner()
    exchange = an_exchange(learner)
    learner.flat.vector[2] = torch.inf
    before = weights_of(learner)
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"^the weights are no longer finite$"):
            exchange.push()
    assert np.array_equal(weights_of(learner), before)


# ------------------------------------------------------------------------------------------------ accuracy


def test_accuracy_is_the_fraction_of_right_answers_in_evaluation_mode() -> None:
    images = torch.eye(3)[[0, 1, 2, 0, 1]][:, :, None, None]
    samples = Clouds(images, torch.tensor([0, 1, 2, 1, 1]), 3)
    network = nn.Sequential(nn.Dropout(0.9), nn.Flatten()).train()
    assert accuracy_of(network, samples, batch_size=2) == 4 / 5
    assert not network.training


def test_q_may_be_measured_on_held_out_samples() -> None:
    held_out = Clouds.draw(50, seed=9)
    learner = a_learner(validation=held_out)
    assert learner.validate() == accuracy_of(learner.flat.module, held_out)
    assert a_learner().validate() is None


# -------------------------------------------------------------------------------------------- local worker


class Notes:
    """Stands in for a learner and its exchange: one right answer a step, a loss of 2 a sample."""

    def __init__(self, held_out: float | None = None) -> None:
        self.asked: list[tuple[list[int], int, float]] = []
        self.folded: list[tuple[np.ndarray, bool]] = []
        self._held_out = held_out
        self.diverges = self.summed = False

    def step(self, indices: np.ndarray, epoch: int, lr: float) -> StepResult:
        if self.diverges:
            raise DivergedError("the loss became nan")
        self.asked.append((indices.tolist(), epoch, lr))
        return StepResult(2.0 * len(indices), 1)

    def fold(self, weights: np.ndarray, *, ahead: bool) -> None:
        self.folded.append((weights, ahead))

    def push(self) -> np.ndarray:
        if self.diverges:
            raise DivergedError("the weights are no longer finite")
        return np.ones(3, np.float32)

    def validate(self) -> float | None:
        return self._held_out


def a_worker(learner: Any = None, schedule: ScheduleConfig = CONSTANT, batch_size: int = 10) -> LocalWorker:
    return LocalWorker(batch_size, OptimizerConfig(lr=0.5), schedule, learner, learner)


def a_lease(number: int, size: int, progress: tuple[float, float] = (0.0, 1.0), epoch: int = 1) -> Work:
    return Work(number, epoch, np.arange(100, 100 + size), progress)


@given(size=st.integers(1, 2000), batch_size=st.integers(1, 300))
def test_batches_of_a_lease_are_near_equal_and_leave_nothing_out(size: int, batch_size: int) -> None:
    notes = Notes()
    worker = a_worker(notes, batch_size=batch_size)
    worker.receive(0, None, [a_lease(1, size)])
    announced = []
    while not worker.done:
        announced.append(worker.next_size)
        assert worker.step() == announced[-1]
    batches = [indices for indices, _, _ in notes.asked]
    assert [len(batch) for batch in batches] == announced
    assert [index for batch in batches for index in batch] == list(range(100, 100 + size))
    assert max(announced) - min(announced) <= 1
    assert size < batch_size or 2 / 3 * batch_size - 1 < min(announced) <= max(announced) < 1.5 * batch_size + 1


def test_the_learning_rate_follows_the_progress_of_the_run() -> None:
    notes = Notes()
    worker = a_worker(notes, ScheduleConfig(kind="linear", warmup=0))
    worker.receive(0, None, [a_lease(1, 40, progress=(0.2, 0.6)), a_lease(2, 10, progress=(0.6, 0.7), epoch=2)])
    for _ in range(4):
        worker.step()
    worker.finish()
    worker.step()
    assert [lr for _, _, lr in notes.asked] == pytest.approx([0.5 * x for x in (0.75, 0.65, 0.55, 0.45, 0.35)])
    assert [epoch for _, epoch, _ in notes.asked] == [1, 1, 1, 1, 2]


def test_a_step_on_few_samples_goes_less_far() -> None:
    """Of 40 samples a step should have 4 at least: one of 1 has a quarter of the rate, one of 4 or 6 the whole."""
    notes = Notes()
    worker = LocalWorker(40, OptimizerConfig(lr=0.5), CONSTANT, notes, notes, smallest_step=4)  # type: ignore[arg-type]
    worker.receive(0, None, [a_lease(1, 1), a_lease(2, 4), a_lease(3, 6)])
    while worker.holds_work:
        worker.step()
        worker.finish()
    assert [lr for _, _, lr in notes.asked] == [0.125, 0.5, 0.5]


def test_a_lease_is_not_divided_into_steps_that_are_too_small() -> None:
    notes = Notes()
    worker = LocalWorker(32, OptimizerConfig(), CONSTANT, notes, notes, smallest_step=4)  # type: ignore[arg-type]
    sizes = (3, 6, 7, 9, 12)
    worker.receive(0, None, [replace(a_lease(size, size), batch_size=4) for size in sizes])
    steps = []
    while worker.holds_work:
        while not worker.done:
            worker.step()
        steps.append(worker.finish().steps)
    assert steps == [1, 1, 1, 2, 3]


def test_a_finished_lease_reports_what_it_came_to() -> None:
    worker = a_worker(Notes())
    worker.receive(3, np.zeros(3, np.float32), [a_lease(7, 40)])
    while not worker.done:
        worker.step()
        worker.note_busy(0.25)
    finished = worker.finish()
    assert (finished.lease, finished.steps, finished.busy_s, finished.base_version) == (7, 4, 1.0, 3)
    assert (finished.loss, finished.accuracy) == (2.0, 0.1)
    assert finished.delta is not None
    assert worker.idle


def test_a_lease_may_say_how_large_its_steps_are() -> None:
    worker = a_worker(Notes(), batch_size=32)
    worker.receive(0, None, [replace(a_lease(1, 20), batch_size=5), a_lease(2, 64)])
    assert [worker.step() for _ in range(4)] == [5] * 4
    worker.finish()
    assert [worker.step() for _ in range(2)] == [32] * 2


@pytest.mark.parametrize(("span_s", "num_steps"), [(0.1, 1), (0.5, 2), (0.6, 2), (0.63, 3), (9.0, 4)])
def test_a_lease_ends_when_its_time_is_up_to_the_nearest_step(span_s: float, num_steps: int) -> None:
    worker = a_worker(Notes())
    worker.receive(3, None, [replace(a_lease(7, 43), span_s=span_s)])
    while not worker.done:
        worker.step()
        worker.note_busy(0.25)
    finished = worker.finish()
    assert (finished.steps, finished.samples) == (num_steps, 43 * num_steps // 4)
    assert (finished.loss, finished.accuracy) == (2.0, num_steps / finished.samples)


def test_leases_are_trained_in_order_and_pushes_are_numbered() -> None:
    worker = a_worker()
    worker.receive(0, None, [a_lease(5, 10), a_lease(6, 20)])
    finished = []
    for version in (4, 9):
        while not worker.done:
            worker.step()
        finished.append(worker.finish())
        worker.receive(version, None, [a_lease(version, 10)])
    assert [(f.sequence, f.lease, f.steps) for f in finished] == [(1, 5, 1), (2, 6, 2)]
    assert [f.base_version for f in finished] == [0, 4]
    assert not worker.idle


def test_an_answer_between_two_steps_sets_the_base_of_the_lease_under_way() -> None:
    notes = Notes()
    worker = a_worker(notes)
    worker.receive(1, np.zeros(3, np.float32), [a_lease(1, 20)])
    worker.step()
    worker.receive(2, np.ones(3, np.float32), [])
    worker.step()
    assert worker.finish().base_version == 2
    assert [(weights[0], ahead) for weights, ahead in notes.folded] == [(0, False), (1, True)]


def test_q_from_held_out_samples_takes_the_place_of_training_accuracy() -> None:
    worker = a_worker(Notes(held_out=0.75))
    worker.receive(0, None, [a_lease(1, 10)])
    worker.step()
    assert worker.finish().accuracy == 0.75


def test_divergence_names_the_step_counted_over_all_leases() -> None:
    notes = Notes()
    worker = a_worker(notes)
    worker.receive(0, None, [a_lease(1, 20), a_lease(2, 20)])
    for _ in range(2):
        worker.step()
    worker.finish()
    notes.diverges = True
    with pytest.raises(DivergedError, match=r"^the loss became nan, in local step 3$"):
        worker.step()
    notes.diverges = False
    for _ in range(2):
        worker.step()
    notes.diverges = True
    with pytest.raises(DivergedError, match=r"^the weights are no longer finite, after local step 4$"):
        worker.finish()


# ------------------------------------------------------------------------------------------------ schedule


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (ScheduleConfig(kind="constant", warmup=0), [1, 1, 1, 1, 1]),
        (ScheduleConfig(kind="constant", warmup=0.5), [0, 0.5, 1, 1, 1]),
        (ScheduleConfig(kind="linear", warmup=0), [1, 0.75, 0.5, 0.25, 0]),
        (ScheduleConfig(kind="cosine", warmup=0), [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]),
        (ScheduleConfig(kind="cosine", warmup=0.5), [0, 0.5, 1, 0.5, 0]),
        (ScheduleConfig(kind="step", warmup=0), [1, 1, 0.1, 0.01, 0.01]),
        (ScheduleConfig(kind="step", warmup=0.5, milestones=(0.75,), gamma=0.5), [0, 0.5, 1, 0.5, 0.5]),
    ],
)
def test_shapes_of_the_learning_rate(schedule: ScheduleConfig, factors: list[float]) -> None:
    found = [schedule.factor(progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx(factors, abs=1e-12)


@given(
    kind=st.sampled_from(["constant", "cosine", "linear", "step"]),
    warmup=st.floats(0, 0.99),
    progress=st.floats(0, 1),
)
def test_the_learning_rate_never_leaves_its_range(kind: Any, warmup: float, progress: float) -> None:
    assert 0 <= ScheduleConfig(kind=kind, warmup=warmup).factor(progress) <= 1


# ------------------------------------------------------------------------------------------------ throttle


class Bed:
    """A clock whose sleeper wakes up early, after these fractions of the time asked for."""

    def __init__(self, now: float, fractions: list[float]) -> None:
        self.now = now
        self.naps = 0
        self._fractions = fractions

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        fraction = self._fractions[self.naps] if self.naps < len(self._fractions) else 1.0
        self.now += seconds * fraction
        self.naps += 1


def emulated(speed: float, bed: Bed) -> Throttle:
    return Throttle(speed, clock=lambda: bed.now, sleep=bed.sleep)


@given(
    speed=st.floats(1, 1e5),
    num_samples=st.integers(1, 1000),
    worked=st.floats(0, 2),
    begun=st.floats(0, 1e6),
    fractions=st.lists(st.floats(0, 1), max_size=5),
)
def test_a_step_never_ends_sooner_than_asked(
    speed: float, num_samples: int, worked: float, begun: float, fractions: list[float]
) -> None:
    span = num_samples / speed
    bed = Bed(begun, fractions)
    with emulated(speed, bed).step(num_samples):
        bed.now += worked * span
    assert bed.now >= begun + span
    if worked <= 1:
        assert bed.now == pytest.approx(begun + span)


@given(speed=st.floats(1, 1e5), works=st.lists(st.floats(0, 2), min_size=1, max_size=20))
def test_steps_last_as_long_as_they_should_or_as_their_work_takes(speed: float, works: list[float]) -> None:
    """Together; a wait in front of work that then took longer than expected is made up for in the next step."""
    bed = Bed(0.0, [])
    throttle, due, span = emulated(speed, bed), 0.0, 10 / speed
    for worked in works:
        with throttle.step(10):
            bed.now += worked * span
        due += max(1.0, worked) * span
        assert due * (1 - 1e-9) <= bed.now <= (due + span) * (1 + 1e-9)


def test_a_step_that_was_slow_by_itself_is_not_held_up() -> None:
    bed = Bed(1.0, [])
    throttle = emulated(100.0, bed)
    for step in range(1, 4):
        with throttle.step(100):
            bed.now += 2
        assert (bed.now, bed.naps) == (1.0 + 2 * step, 0)


def test_work_is_done_at_the_end_of_a_step_once_it_is_known_how_long_it_takes() -> None:
    bed = Bed(0.0, [])
    throttle = emulated(100.0, bed)
    begun = []
    for worked in (0.2, 0.1, 0.3, 0.3):
        with throttle.step(100):
            begun.append(bed.now)
            bed.now += worked
    assert begun == pytest.approx([0, 1.8, 2.8, 3.7])  # the third was expected to take 0.2, and ended late
    assert bed.now == pytest.approx(4)


def test_a_late_timer_does_not_slow_the_emulated_machine_down() -> None:
    bed = Bed(0.0, [1.5] * 100)  # each nap lasts half as long again as asked for
    throttle = emulated(100.0, bed)
    for step in range(1, 51):
        with throttle.step(10):
            pass
        assert 0.1 * step <= bed.now <= 0.1 * step + 0.05 + 1e-9
