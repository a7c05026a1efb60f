"""SGD inside the compiled step: the same weights as by PyTorch's optimizer, on the optimizer's own state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from blocks import Bench
from torch import nn
from torch.nn import functional

from bptcnn.inner import step as step_module
from bptcnn.inner.compiled import Compiled
from bptcnn.inner.descent import Descent, SgdOptimizer
from bptcnn.inner.kernels.descent import sgd
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.lanes import Lanes
from bptcnn.inner.plan import Plan
from bptcnn.inner.step import TrainStep
from bptcnn.models import ModelConfig, build

LANES = Lanes(2)
SHAPE = (1, 12, 12)


def network(name: str = "resnet8") -> nn.Module:
    return build(ModelConfig(name=name), SHAPE, 4, seed=1).train()


def batch(count: int = 32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPE, generator=numbers), torch.randint(0, 4, (count,), generator=numbers)


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are compiled, whatever would be the fastest here."""

    def compiled(model: nn.Module, example: tuple[torch.Tensor, torch.Tensor], *_: object) -> tuple[Plan, Compiled]:
        return Plan("compiled", ()), Compiled(model, SHAPE, len(example[0]), LANES)

    monkeypatch.setattr(step_module, "remembered", compiled)


def in_one_pass(model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainStep:
    return TrainStep(model, functional.cross_entropy, optimizer, batch(), num_lanes=2)


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int) -> float:
    images, labels = batch(count, seed)
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("momentum", "nesterov", "expected"),
    [
        # v = g + decay w = 3 + 0.5 * 2 = 4; then v = 0.9 * 4 + (3 + 0.5 w)
        (0.0, False, [2 - 0.1 * 4, 1.6 - 0.1 * (3 + 0.8)]),
        (0.9, False, [2 - 0.1 * 4, 1.6 - 0.1 * (0.9 * 4 + 3 + 0.8)]),
        (0.9, True, [2 - 0.1 * (4 + 0.9 * 4), 1.24 - 0.1 * (3.62 + 0.9 * (0.9 * 4 + 3.62))]),
    ],
)
def test_two_updates_worked_out_by_hand(momentum: float, nesterov: bool, expected: list[float]) -> None:
    bench = Bench(Vectors(4, 16))
    name, _ = bench.emit(sgd, momentum=momentum > 0, nesterov=nesterov)
    # 11 numbers from 2 on: vectors and a rest, nothing in front of or behind them.
    weight, gradient, velocity = torch.full((15,), 2.0), torch.full((15,), 3.0), torch.zeros(15)
    numbers, stay = torch.tensor([0.1, momentum, 0.5]), torch.zeros(1, dtype=torch.int32)
    pointers = [tensor.data_ptr() for tensor in (weight, gradient, velocity, numbers, stay)]
    for wanted in expected:
        bench.call(name, *pointers, 2, 13)
        torch.testing.assert_close(weight[2:13], torch.full((11,), wanted))
        assert weight[:2].tolist() == [2, 2] == weight[13:].tolist()
    stay[0] = 1
    before = weight.clone(), velocity.clone()
    bench.call(name, *pointers, 2, 13)
    assert torch.equal(weight, before[0])
    assert torch.equal(velocity, before[1])


OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.05},
    {"lr": 0.05, "momentum": 0.9},
    {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"lr": 0.05, "weight_decay": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["lenet5", "resnet8"])
def test_steps_are_those_of_the_optimizer(name: str, options: dict[str, Any]) -> None:
    ours, theirs = network(name), network(name)
    mine, other = (torch.optim.SGD(model.parameters(), **options) for model in (ours, theirs))
    step = in_one_pass(ours, mine)
    for number, count in enumerate((32, 32, 19, 32)):
        expected = plain_step(theirs, other, count, number)
        assert step(*batch(count, number)).item() == pytest.approx(expected, rel=1e-4)
    for one, another in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, another, rtol=1e-3, atol=1e-4)
    if options.get("momentum"):
        for one, another in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(
                mine.state[one]["momentum_buffer"], other.state[another]["momentum_buffer"], rtol=1e-2, atol=1e-3
            )


def test_learning_rates_and_groups_are_read_anew_in_each_step() -> None:
    ours, theirs = network("lenet5"), network("lenet5")

    def optimizer(model: nn.Module) -> torch.optim.SGD:
        first, *others = model.parameters()
        groups = [{"params": [first], "lr": 0.0}, {"params": others, "momentum": 0.5}]
        return torch.optim.SGD(groups, lr=0.05)

    mine, other = optimizer(ours), optimizer(theirs)
    step = in_one_pass(ours, mine)
    for number in range(4):
        plain_step(theirs, other, 32, number)
        step(*batch(32, number))
        for each in (mine, other):
            each.param_groups[0]["lr"] = 0.01 * number
            each.param_groups[1]["weight_decay"] = 0.01 * number
            each.param_groups[0]["momentum"] = 0.5 * (number > 1)
    for one, another in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, another, rtol=1e-3, atol=1e-5)


def test_a_scheduler_finds_the_optimizer_as_it_expects_it(recwarn: pytest.WarningsRecorder) -> None:
    model = network("lenet5")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    step = in_one_pass(model, optimizer)
    assert step._sgd.descent() is not None
    step(*batch())
    scheduler.step()
    assert not [warning for warning in recwarn if "lr_scheduler" in str(warning.message)]


def test_a_state_that_is_loaded_goes_on_where_it_was() -> None:
    ours, theirs = network("lenet5"), network("lenet5")
    mine, other = (torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9) for model in (ours, theirs))
    step = in_one_pass(ours, mine)
    for number in range(2):
        plain_step(theirs, other, 32, number)
    step(*batch(32, 7))
    ours.load_state_dict(theirs.state_dict())
    mine.load_state_dict(copy.deepcopy(other.state_dict()))
    plain_step(theirs, other, 32, 3)
    step(*batch(32, 3))
    for one, another in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, another, rtol=1e-3, atol=1e-5)


# ------------------------------------------------------------------------------------------------ left to PyTorch


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters())


def with_hook(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def with_own_step(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.step = lambda: None  # type: ignore[assignment, method-assign, misc]
    return optimizer


def of_others_too(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(1))], lr=0.1)


UNUSUAL: list[Callable[[nn.Module], torch.optim.Optimizer]] = [
    adam,
    with_hook,
    with_own_step,
    of_others_too,
    lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5, dampening=0.5),
    lambda model: torch.optim.SGD(model.parameters(), lr=0.1, maximize=True),
    lambda model: torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1)),
]


@pytest.mark.parametrize("make", UNUSUAL, ids=range(len(UNUSUAL)))
def test_anything_unusual_is_left_to_the_optimizer(make: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    model = network("lenet5")
    assert SgdOptimizer(make(model), model).descent() is None


def test_weights_without_gradient_and_without_optimizer_stay() -> None:
    model = network("lenet5")
    frozen, _, left_out, *others = model.parameters()
    frozen.requires_grad_(False)
    before = frozen.clone(), left_out.detach().clone()
    moving = [frozen, *others]
    step = in_one_pass(model, torch.optim.SGD(moving, lr=0.1, weight_decay=0.1))
    first = others[0].detach().clone()
    step(*batch())
    assert torch.equal(frozen, before[0])
    assert torch.equal(left_out, before[1])
    assert not torch.equal(others[0], first)


@pytest.mark.parametrize("guard", [False, True])
def test_a_loss_that_is_no_number_moves_nothing_under_guard(guard: bool) -> None:
    model = network("lenet5")
    weights = list(model.parameters())
    velocities = [torch.ones_like(weight) for weight in weights]
    descent = Descent([(weights, velocities, False)], guard=guard)
    descent.set(0, lr=0.1, momentum=0.9, weight_decay=0.0)
    before = [weight.detach().clone() for weight in weights]
    images, labels = batch()
    images[3] = float("inf")
    loss, _ = Compiled(model, SHAPE, 32, LANES)(images, labels, functional.cross_entropy, descent)
    assert not torch.isfinite(loss)
    same = all(torch.equal(one, other) for one, other in zip(weights, before, strict=True))
    assert same == guard
    assert all((velocity == 1).all() for velocity in velocities) == guard


# ------------------------------------------------------------------------------------------------ losses


class Halved(nn.CrossEntropyLoss):
    def forward(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return super().forward(scores, labels) / 2


def test_only_plain_cross_entropy_of_classes_is_a_part_of_the_step() -> None:
    compiled = Compiled(network("lenet5"), SHAPE, 32, LANES)
    labels = torch.tensor([0, 3])
    assert compiled.knows(functional.cross_entropy, labels, 2)
    assert compiled.knows(nn.CrossEntropyLoss(), labels, 2)
    assert not compiled.knows(nn.CrossEntropyLoss(label_smoothing=0.1), labels, 2)
    assert not compiled.knows(nn.CrossEntropyLoss(weight=torch.ones(4)), labels, 2)
    assert not compiled.knows(nn.CrossEntropyLoss(reduction="sum"), labels, 2)
    assert not compiled.knows(nn.CrossEntropyLoss(ignore_index=3), labels, 2)
    assert not compiled.knows(Halved(), labels, 2)
    assert not compiled.knows(functional.nll_loss, labels, 2)
    assert not compiled.knows(functional.cross_entropy, torch.tensor([0, 4]), 2)  # PyTorch says what is wrong with it
    assert not compiled.knows(functional.cross_entropy, torch.tensor([0, -100]), 2)  # which PyTorch leaves out
    assert not compiled.knows(functional.cross_entropy, torch.eye(4)[:2], 2)
    assert not compiled.knows(functional.cross_entropy, labels, 3)
    assert compiled.knows(functional.cross_entropy, torch.tensor([0, 9, 3, 9])[::2], 2)


def test_a_loss_stays_what_it_was() -> None:
    compiled = Compiled(network(), SHAPE, 32, LANES)
    batches = [batch(count) for count in (32, 19, 32)]
    losses = [compiled(*each, functional.cross_entropy)[0] for each in batches]
    again = [compiled(*each, functional.cross_entropy)[0].item() for each in batches]
    assert [loss.item() for loss in losses] == again
    assert len(set(again)) > 1


def test_labels_may_lie_anywhere() -> None:
    compiled, (images, labels) = Compiled(network("lenet5"), SHAPE, 32, LANES), batch(32)
    expected, _ = compiled(images, labels, functional.cross_entropy)
    apart = torch.stack([labels, torch.full_like(labels, 9)], 1)[:, 0]
    loss, _ = compiled(images, apart, functional.cross_entropy)
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("count", [32, 19, 3])
def test_both_ways_to_a_loss_give_the_same(count: int) -> None:
    one, other = network(), network()
    images, labels = batch(count)
    compiled = Compiled(one, SHAPE, 32, LANES)
    loss, scores = compiled(images, labels, functional.cross_entropy)
    assert len(compiled.passes) == 1
    apart = Compiled(other, SHAPE, 32, LANES)
    its_loss, its_scores = apart(images, labels, lambda scores, labels: functional.cross_entropy(scores, labels))
    assert len(apart.passes) == 2
    torch.testing.assert_close(loss, its_loss)
    assert torch.equal(scores, its_scores)
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-6)


def test_scores_far_apart_overflow_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
    with torch.no_grad():
        model[1].weight.fill_(0)
        model[1].bias.copy_(torch.tensor([1e4, -1e4, 0.0, 88.0]))
    images, labels = torch.ones(5, *SHAPE), torch.tensor([0, 1, 2, 3, 0])
    loss, _ = Compiled(model, SHAPE, 8, LANES)(images, labels, functional.cross_entropy)
    assert float(loss) == pytest.approx((2e4 + 1e4 + 1e4 - 88) / 5)
    gradient = model[1].bias.grad
    assert gradient is not None
    torch.testing.assert_close(gradient, torch.tensor([3 / 5, -1 / 5, -1 / 5, -1 / 5]))
