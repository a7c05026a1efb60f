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


UNUSUAL = ("dampening", "maximize", "differentiable")
"""Options of an optimizer that are left to PyTorch."""


def descent_of(optimizer: torch.optim.Optimizer, module: nn.Module) -> Descent | None:
    """SGD that does what an optimizer's step does, on the optimizer's own state.

    Args:
        optimizer: of some of the module's weights.
        module: the network.

    Returns:
        None if the optimizer is something else than plain SGD.
    """
    if type(optimizer) is not torch.optim.SGD or not _plain(optimizer):
        return None
    own = {id(parameter) for parameter in module.parameters()}
    groups = []
    for group in optimizer.param_groups:
        weights = [weight for weight in group["params"] if weight.requires_grad]
        if not all(id(weight) in own for weight in weights):
            return None
        groups.append(
            (
                weights,
                [_velocity(optimizer, weight) for weight in weights] if group["momentum"] else [],
                bool(group["nesterov"]),
            )
        )
    return Descent(groups)


def refresh(descent: Descent, optimizer: torch.optim.Optimizer) -> bool:
    """Take over what has changed in an optimizer.

    Args:
        descent: made by :func:`descent_of`.
        optimizer: of the same.

    Returns:
        Whether that was possible; otherwise a new one must be made.
    """
    if not _plain(optimizer) or len(optimizer.param_groups) != len(descent._groups):
        return False
    for place, (group, (weights, velocities, nesterov)) in enumerate(
        zip(optimizer.param_groups, descent._groups, strict=True)
    ):
        own = [optimizer.state[weight].get("momentum_buffer") for weight in weights] if group["momentum"] else []
        same = len(own) == len(velocities) and all(one is other for one, other in zip(own, velocities, strict=True))
        moved = [weight for weight in group["params"] if weight.requires_grad]
        if not same or group["nesterov"] != nesterov or len(moved) != len(weights):
            return False
        if not all(one is other for one, other in zip(moved, weights, strict=True)):
            return False
        descent.set(place, lr=group["lr"], momentum=group["momentum"], weight_decay=group["weight_decay"])
    return True


def _plain(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its step is no more than the rule: nothing that few people use, nobody who wants to be called."""
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    return not any(hooks) and all(
        isinstance(group["lr"], float | int) and not any(group[name] for name in UNUSUAL)
        for group in optimizer.param_groups
    )


def _velocity(optimizer: torch.optim.Optimizer, weight: torch.Tensor) -> torch.Tensor:
    """The optimizer's own; zeros in front of the first step, as which it would be made."""
    state = optimizer.state[weight]
    if state.get("momentum_buffer") is None:
        state["momentum_buffer"] = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    velocity: torch.Tensor = state["momentum_buffer"]
    return velocity
