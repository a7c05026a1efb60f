"""Flags to settings: each flag stands for one key of the recipe, ``--set`` for any key."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bptcnn.errors import ConfigError

if TYPE_CHECKING:
    from bptcnn.config import RunConfig

Recipe = Annotated[Path | None, typer.Argument(metavar="RECIPE", show_default=False, help="A TOML file of settings.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run folder; else the next free one in runs/.")]


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that sets one key of the recipe.

    Attributes:
        key: dotted path of the setting.
        kind: how the word on the command line is read: str, int or float.
        metavar: what the help shows in place of the value.
        help: a line or two.
    """

    key: str
    kind: type
    metavar: str
    help: str


FLAGS: Mapping[str, Flag] = {
    "data": Flag(
        "data.name", str, "NAME", "Data set: digits, mnist, fashion-mnist, cifar-10, imagefolder:PATH or npz:PATH."
    ),
    "data_dir": Flag("data.dir", str, "DIR", "Where its files are."),
    "model": Flag(
        "model.name",
        str,
        "NAME",
        "Network: lenet5, case1 to case7, resnet8, resnet18, resnet20, easgd-cifar, or your own as module:function.",
    ),
    "init": Flag("model.init", str, "PATH", "Begin with the weights of this run or .safetensors file."),
    "freeze": Flag("model.freeze", str, "A,B,...", "Parameters that do not train, as in 0.*"),
    "strategy": Flag(
        "strategy.name",
        str,
        "NAME",
        "ad-psgd, agwu, allreduce, anytime, async-local-sgd, auto, diloco, downpour, eamsgd, easgd, gosgd, "
        "local-sgd, none or sgwu.",
    ),
    "allocation": Flag("allocation.name", str, "NAME", "Who gets which data: uniform, idpa or dynamic."),
    "workers": Flag("workers.count", int, "N", "Number of workers."),
    "speeds": Flag("workers.speeds", str, "A,B,...", "Slow each worker to so many samples/s."),
    "epochs": Flag("epochs", int, "N", "Times the data is gone through."),
    "batch_size": Flag("batch_size", int, "N", "Samples per local step."),
    "lr": Flag("optimizer.lr", float, "RATE", "Learning rate."),
    "precision": Flag("precision", str, "TYPE", "fp32 or bf16."),
    "seed": Flag("seed", int, "N", "Seed of everything random."),
}


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every flag of `FLAGS`, and ``--set``.

    Args:
        command: takes its own flags and a keyword ``overrides``, a mapping from dotted key to value.

    Returns:
        The command as typer should see it.
    """
    own = dict(inspect.signature(command, eval_str=True).parameters)
    del own["overrides"]
    shared = {name: _parameter(name, flag) for name, flag in FLAGS.items()}
    shared["set"] = inspect.Parameter(
        "set",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, as in optimizer.lr=0.1.")
        ],
    )

    @functools.wraps(command)
    def run(**given: Any) -> None:
        flags = {name: given.pop(name) for name in shared}
        command(**given, overrides=overrides(flags))

    as_keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.values()]
    parameters = [*as_keyword, *shared.values()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameter(name: str, flag: Flag) -> inspect.Parameter:
    option = typer.Option("--" + name.replace("_", "-"), metavar=flag.metavar, help=flag.help)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def overrides(flags: Mapping[str, Any]) -> dict[str, object]:
    """The settings that were given as flags.

    ``--speeds`` alone also says how many workers there are; ``--set`` comes last and wins.

    Args:
        flags: the word given for each name in `FLAGS`, a list of ``KEY=VALUE`` under ``"set"``; None where not given.

    Returns:
        Values by dotted key, only of what was given.

    Raises:
        ConfigError: a word cannot be read.

    Example:
        >>> overrides({"speeds": "100,50", "lr": "0.1", "epochs": None, "set": ["exchange.every=8"]})
        {'workers.speeds': (100.0, 50.0), 'optimizer.lr': 0.1, 'workers.count': 2, 'exchange.every': 8}
    """
    values: dict[str, object] = {}
    for name, flag in FLAGS.items():
        if flags.get(name) is not None:
            read = _LISTS.get(name, functools.partial(_read, name, flag.kind))
            values[flag.key] = read(flags[name])
    speeds = values.get("workers.speeds")
    if isinstance(speeds, tuple):
        values.setdefault("workers.count", len(speeds))
    for assignment in flags.get("set") or ():
        key, value = parse_assignment(assignment)
        values[key] = value
    return values


def _read(name: str, kind: type, word: str) -> object:
    try:
        return kind(word)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise ConfigError(f"--{name.replace('_', '-')} {word}: {word!r} is not {expected}: give one") from None


def parse_speeds(text: str) -> tuple[float, ...]:
    """Read ``"2000,1000,500"``.

    Raises:
        ConfigError: there is nothing, or a part is not a number.
    """
    if not text.strip():
        raise ConfigError("--speeds is empty: write samples per second for each worker, as in 2000,500")
    speeds = []
    for part in text.split(","):
        try:
            speeds.append(float(part))
        except ValueError:
            raise ConfigError(
                f"--speeds {text}: {part!r} is not a number: write samples per second for each worker, as in 2000,500"
            ) from None
    return tuple(speeds)


def parse_patterns(text: str) -> tuple[str, ...]:
    """Read ``"0.*,1.0.*"``.

    Raises:
        ConfigError: there is nothing, or a part is empty.
    """
    patterns = tuple(part.strip() for part in text.split(","))
    if not all(patterns):
        raise ConfigError(f"--freeze {text}: a pattern is empty: write names of parameters, as in 0.*,1.0.weight")
    return patterns


_LISTS: Mapping[str, Callable[[str], object]] = {"speeds": parse_speeds, "freeze": parse_patterns}
"""How flags are read that hold more than one value."""


def parse_assignment(text: str) -> tuple[str, object]:
    """Read ``"optimizer.lr=0.1"``: the value as TOML, or as a bare string where it is none.

    Raises:
        ConfigError: there is no key or no ``=``.

    Example:
        >>> parse_assignment("workers.speeds=[100, 50]"), parse_assignment("exchange.every=epoch")
        (('workers.speeds', [100, 50]), ('exchange.every', 'epoch'))
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    key, equals, value = (part.strip() for part in text.partition("="))
    if not (key and equals):
        raise ConfigError(f"--set {text}: write KEY=VALUE, as in --set optimizer.lr=0.1")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def compose(recipe: Path | None, settings: Mapping[str, object]) -> RunConfig:
    """The configuration of a run: defaults, then the recipe, then what was given as flags.

    Args:
        recipe: a TOML file, or None.
        settings: values by dotted key.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: a key or value is wrong.
    """
    from bptcnn import config

    return config.compose(recipe, settings)
