"""``bptcnn train``: a real run, here or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from bptcnn.cli.closing import conclude
from bptcnn.cli.live import view
from bptcnn.cli.options import Out, Recipe, compose, with_settings
from bptcnn.errors import ConfigError


@with_settings
def train(
    *,
    recipe: Recipe = None,
    out: Out = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="DIR", help="Continue the run in this folder.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="ADDR", help="Ray cluster to use; else this machine alone.")
    ] = None,
    overrides: Mapping[str, object],
) -> None:
    """Train a network; flags win over the recipe."""
    if resume is not None:
        _refuse_beside_resume(recipe, out)
    config = None if resume else compose(recipe, overrides)
    from bptcnn import api

    with view() as observer:
        if config is None:
            run = api.train(None, resume=resume, address=address, overrides=overrides, observer=observer)
        else:
            run = api.train(config, out=out, address=address, observer=observer)
    conclude(run)


def _refuse_beside_resume(recipe: Path | None, out: Path | None) -> None:
    """A resumed run has its recipe and its folder already."""
    if recipe is not None:
        raise ConfigError(f"{recipe} and --resume exclude each other: the folder holds its own recipe, leave one out")
    if out is not None:
        raise ConfigError(f"--out {out} and --resume exclude each other: a run goes on in its folder, leave --out out")
