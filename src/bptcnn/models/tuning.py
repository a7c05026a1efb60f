"""Fine-tuning: a network begins with the weights of another, and a part of it does not train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from bptcnn.errors import ConfigError, ModelError
from bptcnn.models.files import kind, tensors


@dataclass(frozen=True, slots=True)
class NewHead:
    """The last layers of a network, which start anew as there are other classes.

    Attributes:
        tensors: their names.
        classes: outputs that they have.
        before: outputs that they had.

    Example:
        >>> str(NewHead(("fc3.weight", "fc3.bias"), 10, 26))
        'the head fc3 starts anew: 10 classes instead of 26'
    """

    tensors: tuple[str, ...]
    classes: int
    before: int

    @property
    def name(self) -> str:
        """What it is called: its layers, as far as they have names."""
        layers = dict.fromkeys(name.rpartition(".")[0] for name in self.tensors)
        return " ".join(filter(None, ("the head", ", ".join(layers))))

    def __str__(self) -> str:
        return f"{self.name} starts anew: {self.classes} classes instead of {self.before}"


def adopt(module: nn.Module, stored: Mapping[str, torch.Tensor], num_classes: int, source: str) -> NewHead | None:
    """Take the weights of another network over, in place: all of them, but for a head of other classes.

    A tensor belongs to such a head if it has a row for each class, and only their number differs.

    Args:
        module: the network.
        stored: tensors under the network's own names.
        num_classes: rows of the network's head.
        source: where they come from, as the user wrote it.

    Returns:
        The head if it starts anew: it keeps the weights that it has; None if all are taken.

    Raises:
        ModelError: a tensor is missing, too many, of another shape or type, holds nan or inf, or belongs to a new head
            that is frozen; the module is then left as it was.
    """
    own = tensors(module)
    anew = [name for name in own if name in stored and _is_of_other_classes(own[name], stored[name], num_classes)]
    before = len(stored[anew[0]]) if anew else num_classes
    for name in (*own, *(name for name in stored if name not in own)):
        there, here = stored.get(name), own.get(name)
        if kind(there) != kind(here) and not (name in anew and there is not None and len(there) == before):
            raise ModelError(
                f"model.init = {source!r} does not fit: {name!r} is {kind(there)} there and {kind(here)} in the "
                "network, so name the network that was saved (model.name) and give it images of that size "
                "(data.crop, data.pad)"
            )
        if there is not None and not torch.isfinite(there).all():
            raise ModelError(f"model.init = {source!r} holds nan or inf in {name!r}: name a model that did not diverge")
    head = NewHead(tuple(anew), num_classes, before) if anew else None
    if head is not None and not all(p.requires_grad for name, p in module.named_parameters() if name in anew):
        raise ModelError(f"{head}, but it is frozen: take it out of model.freeze")
    for name, value in own.items():
        if name not in anew:
            value.copy_(stored[name])
    return head


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Take parameters out of training, in place.

    Args:
        module: the network.
        patterns: over the parameters' names, with ``*``, ``?`` and ``[...]`` as in a shell; a tied parameter is met
            under each of its names.

    Raises:
        ConfigError: a pattern meets nothing, or nothing is left to train.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
        >>> freeze(net, ["0.*"])
        >>> [name for name, parameter in net.named_parameters() if parameter.requires_grad]
        ['2.weight', '2.bias']
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        met = [name for name in parameters if fnmatchcase(name, pattern)]
        if not met:
            raise ConfigError(f"model.freeze: {pattern!r} matches no parameter: {_remedy(pattern, parameters)}")
        for name in met:
            parameters[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError(f"model.freeze = {','.join(patterns)} leaves nothing to train: leave out a pattern")


SHOWN = 6
"""Names of parameters in a message."""


def _remedy(pattern: str, parameters: Iterable[str]) -> str:
    names = list(parameters)
    if any(name.startswith(f"{pattern}.") for name in names):
        return f"did you mean '{pattern}.*'?"
    shown = names if len(names) <= SHOWN else [*names[: SHOWN - 1], "...", names[-1]]
    return f"write a pattern over their names ({', '.join(shown)})"


def _is_of_other_classes(own: torch.Tensor, stored: torch.Tensor, num_classes: int) -> bool:
    """Whether one tensor has a row for each class, and the other as many alike for other classes."""
    alike = own.ndim > 0 and own.dtype == stored.dtype and own.shape[1:] == stored.shape[1:]
    return alike and own.ndim == stored.ndim and len(own) == num_classes != len(stored)
