"""SGD as a part of a compiled step: what it needs to know of the weights that it moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Rule:
    """How some weights move: ``d = g + decay w; v = momentum v + d; w -= lr v`` (``lr (d + momentum v)``: Nesterov)."""

    momentum: bool
    nesterov: bool
    numbers: int  # where learning rate, momentum and decay are
    velocity: int  # where v is


class Descent:
    """SGD with momentum over groups of weights.

    The numbers of a group may change from step to step; which weights have momentum may not.

    Args:
        groups: of each the weights that move, their velocities (none: no momentum), and whether it is Nesterov's form.
        guard: whether a step whose loss is not finite leaves the weights as they were.

    Example:
        >>> weight = torch.ones(3)
        >>> descent = Descent([([weight], [], False)])
        >>> descent.set(0, lr=0.1, momentum=0.0, weight_decay=0.0)
        >>> descent.rule(weight).momentum, descent.rule(torch.ones(2)) is None
        (False, True)
    """

    def __init__(
        self,
        groups: Sequence[tuple[Sequence[torch.Tensor], Sequence[torch.Tensor], bool]],
        *,
        guard: bool = False,
    ) -> None:
        self.guard = guard
        self._groups = groups
        self._numbers = np.zeros((len(groups), 3), np.float32)
        self._rules: dict[int, Rule] = {}
        for (weights, velocities, nesterov), numbers in zip(groups, self._numbers, strict=True):
            for place, weight in enumerate(weights):
                velocity = velocities[place].data_ptr() if velocities else 0
                self._rules[id(weight)] = Rule(bool(velocities), nesterov, numbers.ctypes.data, velocity)

    def set(self, group: int, *, lr: float, momentum: float, weight_decay: float) -> None:
        """Say how a group moves in the next steps.

        Args:
            group: its place.
            lr: learning rate.
            momentum: how much of the velocity is kept.
            weight_decay: L2 penalty.
        """
        self._numbers[group] = lr, momentum, weight_decay

    def rule(self, weight: torch.Tensor) -> Rule | None:
        """How a weight moves; None if it does not."""
        return self._rules.get(id(weight))


def is_watched(optimizer: torch.optim.Optimizer) -> bool:
    """Whether somebody wants to be called at an optimizer's steps, or has put a step of their own in their place."""
    own_step = optimizer.__dict__.get("step")
    wrapped = own_step is not None and not getattr(own_step, "_wrapped_by_lr_sched", False)
    return wrapped or bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)


UNUSUAL = ("dampening", "maximize", "differentiable")
"""Options of an optimizer that are left to PyTorch."""


class SgdOptimizer:
    """An optimizer of PyTorch whose step kernels can do, on its own state: plain SGD over weights of one network.

    Args:
        optimizer: may be anything.
        module: the network.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> SgdOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), net).descent() is None
        False
        >>> SgdOptimizer(torch.optim.Adam(net.parameters()), net).descent() is None
        True
    """

    def __init__(self, optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
        self._optimizer, self._module = optimizer, module
        self._descent: Descent | None = None
        self._taken: list[_Group] = []
        self._state: object = None

    def descent(self) -> Descent | None:
        """What the optimizer's next step would do; None if kernels can't."""
        if not self._is_plain():
            return None
        if self._descent is None or not self._is_as_taken():
            self._descent = self._take()
        if self._descent is not None:
            for place, group in enumerate(self._optimizer.param_groups):
                numbers = group["lr"], group["momentum"], group["weight_decay"]
                self._descent.set(place, lr=numbers[0], momentum=numbers[1], weight_decay=numbers[2])
            self._optimizer._opt_called = True  # type: ignore[attr-defined]  # learning-rate schedulers ask for it
        return self._descent

    def _is_plain(self) -> bool:
        """Whether a step is no more than the rule: nothing that few people use, nobody who wants to be called."""
        optimizer = self._optimizer
        if type(optimizer) is not torch.optim.SGD:
            return False
        return not is_watched(optimizer) and all(
            isinstance(group["lr"], float | int) and not any(group[name] for name in UNUSUAL)
            for group in optimizer.param_groups
        )

    def _is_as_taken(self) -> bool:
        """Whether the same weights still move by the same velocities."""
        groups = self._optimizer.param_groups
        return (
            self._optimizer.state is self._state
            and len(groups) == len(self._taken)
            and all(
                [id(weight) for weight in group["params"] if weight.requires_grad] == taken.ids
                and (bool(group["momentum"]), bool(group["nesterov"])) == (taken.momentum, taken.nesterov)
                and all(
                    state.get("momentum_buffer") is one
                    for state, one in zip(taken.states, taken.velocities, strict=True)
                )
                for group, taken in zip(groups, self._taken, strict=True)
            )
        )

    def _take(self) -> Descent | None:
        own = {id(parameter) for parameter in self._module.parameters() if parameter.requires_grad}
        self._taken, self._state = [], self._optimizer.state
        for group in self._optimizer.param_groups:
            weights = [weight for weight in group["params"] if weight.requires_grad]
            momentum = bool(group["momentum"])
            states = [self._optimizer.state[weight] for weight in weights] if momentum else []
            velocities = [_velocity(*pair) for pair in zip(states, weights, strict=False)]
            ids = [id(weight) for weight in weights]
            if not own.issuperset(ids) or not all(velocity.is_contiguous() for velocity in velocities):
                return None
            self._taken.append(_Group(weights, ids, states, velocities, momentum, bool(group["nesterov"])))
        return Descent([(taken.weights, taken.velocities, taken.nesterov) for taken in self._taken])


@dataclass(frozen=True, slots=True)
class _Group:
    """What was found in one group of an optimizer."""

    weights: list[torch.Tensor]
    ids: list[int]
    states: list[dict[str, object]]
    velocities: list[torch.Tensor]
    momentum: bool
    nesterov: bool


def _velocity(state: dict[str, object], weight: torch.Tensor) -> torch.Tensor:
    """The optimizer's own; zeros in front of the first step, as which it would be made."""
    velocity = state.get("momentum_buffer")
    if not isinstance(velocity, torch.Tensor):
        velocity = state["momentum_buffer"] = torch.zeros_like(weight)
    return velocity
