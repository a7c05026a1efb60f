"""``bptcnn simulate``: the same run on a virtual clock, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from bptcnn.cli.closing import conclude
from bptcnn.cli.live import view
from bptcnn.cli.options import Out, Recipe, compose, with_settings


@with_settings
def simulate(
    *,
    recipe: Recipe = None,
    out: Out = None,
    link: Annotated[
        str,
        typer.Option("--link", metavar="LINK", show_default=False, help="Network of each worker, as in 100Mbit,5ms."),
    ] = "free",
    faults: Annotated[
        str, typer.Option("--faults", metavar="PLAN", help="What goes wrong, as in kill:1@5,freeze:2@8+3.")
    ] = "",
    trace: Annotated[
        int | None, typer.Option("--trace", metavar="SEED", min=0, help="Speeds change every few seconds, up to 4x.")
    ] = None,
    timing_only: Annotated[bool, typer.Option("--timing-only", help="Who waits for whom, without training.")] = False,
    overrides: Mapping[str, object],
) -> None:
    """Run the same training on a virtual clock, in one process."""
    config = compose(recipe, overrides)
    from bptcnn import api

    with view(virtual=True) as observer:
        run = api.simulate(
            config, out=out, link=link, faults=faults, trace=trace, timing_only=timing_only, observer=observer
        )
    conclude(run)
