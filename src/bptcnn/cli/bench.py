"""``bptcnn bench``: what is measured, on this machine and on demand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from bptcnn.cli.options import parse_assignment
from bptcnn.errors import ConfigError

T = TypeVar("T")

bench = typer.Typer(rich_markup_mode=None, help="Measure how update rules do on unequal workers.")


@bench.callback()
def _bench() -> None:
    """A group, though it has one command so far."""


@bench.command()
def rules(
    level: Annotated[str, typer.Option(metavar="A,B", help="HL1, HL2, HL4, HL8, or units as in 6/6/4/32.")] = "HL8",
    rules: Annotated[str, typer.Option(metavar="A,B", help="Contenders; default: train's own rule; all.")] = "all",
    data: Annotated[str, typer.Option(metavar="NAME", help="Data set.")] = "fashion-mnist",
    data_dir: Annotated[str | None, typer.Option(metavar="DIR", help="Where its files are.")] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="Network.")] = "lenet5",
    target: Annotated[float, typer.Option(metavar="Q", help="Test accuracy to reach.")] = 0.9,
    seeds: Annotated[str, typer.Option(metavar="A,B", help="A run each.")] = "1,2,3",
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Budget of a run.")] = 5,
    link: Annotated[str, typer.Option(metavar="LINK", help="Network of each worker, as in 100Mbit,5ms.")] = "free",
    trace: Annotated[
        int | None, typer.Option(metavar="SEED", min=0, help="Speeds change every few seconds, up to 4x.")
    ] = None,
    unit: Annotated[float, typer.Option(metavar="RATE", help="Samples/s of one unit.")] = 80.0,
    engine: Annotated[str, typer.Option(metavar="NAME", help="virtual or ray.")] = "virtual",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For the results; else the next free in runs/.")
    ] = None,
    evaluate_every: Annotated[float, typer.Option(metavar="EPOCHS", help="Between evaluations.")] = 0.1,
    stop_at_target: Annotated[bool, typer.Option("--stop-at-target", help="End each run there.")] = False,
    rates: Annotated[str, typer.Option(metavar="A,B", help="Learning rates to try first, on these seeds.")] = "",
    batches: Annotated[str, typer.Option(metavar="A,B", help="Batch sizes to try first, likewise.")] = "",
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Runs at a time; else one a core, with ray one.")
    ] = None,
    set: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any setting, for all runs.")] = None,
) -> None:
    """Time until update rules reach an accuracy on unequal workers, against one worker with all their speed."""
    chosen_levels, chosen_rules = _list("--level", level, str), _list("--rules", rules, str)
    chosen_seeds = _list("--seeds", seeds, int)
    chosen_rates = _list("--rates", rates, float) if rates else []
    chosen_batches = _list("--batches", batches, int) if batches else []
    extra = dict(parse_assignment(text) for text in set or ())
    from bptcnn.bench.contenders import choose
    from bptcnn.bench.protocol import Protocol
    from bptcnn.bench.results import Results
    from bptcnn.bench.study import Study
    from bptcnn.cli.benching import carry_out

    protocol = Protocol(
        data=data,
        data_dir=data_dir,
        model=model,
        target=target,
        epochs=epochs,
        evaluate_every=evaluate_every,
        link=link,
        engine=engine,  # type: ignore[arg-type]
        trace=trace,
        unit_per_s=unit,
        stop_at_target=stop_at_target,
        extra=extra,
    )
    study = Study(protocol, choose(chosen_rules), chosen_levels, chosen_seeds, chosen_rates, chosen_batches)
    study.check()
    results = Results.create(out)
    carry_out(study, results, jobs or (1 if engine == "ray" else _cores()))


def _list(flag: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """The parts of a comma list, each once."""
    parts: dict[T, None] = {}
    for part in text.split(","):
        try:
            parts[kind(part.strip())] = None
        except ValueError:
            expected = "whole numbers" if kind is int else "numbers"
            raise ConfigError(f"{flag} {text}: {part!r} is not understood: give {expected}, as in 1,2") from None
    return list(parts)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
