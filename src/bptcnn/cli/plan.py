"""``bptcnn plan``: how fast one worker's training step is on this machine, and in which way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, cast

import typer


def plan(
    model: Annotated[str, typer.Option(help="Network, or package.module:factory.")] = "lenet5",
    batch: Annotated[int, typer.Option(min=1, help="Samples of a step.")] = 128,
    shape: Annotated[str, typer.Option(help="Of an image: channels x height x width.")] = "3x32x32",
    classes: Annotated[int, typer.Option(min=1, help="Outputs of the network.")] = 10,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    lanes: Annotated[int, typer.Option(min=0, help="Cores to use; 0: all.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; auto: a GPU where PyTorch sees one.")] = "auto",
    trace: Annotated[
        Path | None, typer.Option(help="Write a step's tasks: .json for Perfetto, .svg as a picture.")
    ] = None,
) -> None:
    """Measure a training step in every way that is known here, and say which one is used."""
    import torch
    from torch.nn.functional import cross_entropy

    from bptcnn.errors import ConfigError
    from bptcnn.inner.account import account
    from bptcnn.inner.compiled import Compiled
    from bptcnn.inner.lanes import Lanes
    from bptcnn.inner.machine.devices import Device, device_named
    from bptcnn.inner.machine.hardware import num_cores
    from bptcnn.inner.machine.memory import keep_memory
    from bptcnn.inner.plan import remembered
    from bptcnn.inner.tasks.trace import chrome_trace, timeline_svg
    from bptcnn.models import ModelConfig, build

    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"--precision is {precision!r}: give fp32 or bf16")
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device is {device!r}: give auto, cpu or cuda")
    where = device_named(cast("Device", device), key="--device")
    sides = shape.split("x")
    if len(sides) != 3 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"--shape is {shape!r}: give three numbers above 0, such as 3x32x32")
    channels, rows, columns = map(int, sides)
    keep_memory()
    network = build(ModelConfig(name=model), (channels, rows, columns), classes, seed=0).train().to(where)
    example = torch.randn(batch, channels, rows, columns), torch.arange(batch) % classes
    made, winner = remembered(
        network,
        example,
        cross_entropy,
        "bf16" if precision == "bf16" else "fp32",
        Lanes(lanes or num_cores()),
        again=True,
    )
    best = max(row.samples_per_s for row in made.rows)
    typer.echo(f"{'':24}{'samples/s':>12}{'of the best':>14}")
    for row in made.rows:
        figures = (
            f"{row.samples_per_s:12.0f}{row.samples_per_s / best:14.2f}" if row.samples_per_s else f"{'-':>12}{'':14}"
        )
        typer.echo(f"{row.name:24}{figures}  {row.note}".rstrip())
    typer.echo(f"{made.reason}.")
    if isinstance(winner, Compiled):
        winner(*example, cross_entropy)
        tasks, schedule = account(winner)
        typer.echo(
            f"a step of {batch} samples: {len(tasks)} tasks on {schedule.num_lanes} lanes in "
            f"{schedule.makespan_s * 1e3:.2f} ms, balance {schedule.balance:.2f}, critical path waiting "
            f"{schedule.critical_waiting_s * 1e3:.2f} ms"
        )
        if trace is not None:
            picture = trace.suffix == ".svg"
            trace.write_text(timeline_svg(tasks, schedule) if picture else json.dumps(chrome_trace(tasks, schedule)))
            typer.echo(f"wrote {trace}")
    elif trace is not None:
        typer.echo(f"no trace: PyTorch's own step has no tasks, so {trace} was not written")
