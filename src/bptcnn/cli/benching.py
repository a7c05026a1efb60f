"""A benchmark as the terminal shows it: a bar and a line for each run that ends, the table when all have."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bptcnn.bench.crossing import crossing_s
from bptcnn.bench.results import Results
from bptcnn.bench.runs import Case, Played, players
from bptcnn.bench.study import Study
from bptcnn.bench.table import printed
from bptcnn.report.format import duration, percent

SEARCHED = ("optimizer.lr", "batch_size")
"""Settings that a line names where they are not the recipe's defaults."""


def carry_out(study: Study, results: Results, jobs: int, console: Console | None = None) -> None:
    """Search if asked for, play, write and print.

    Args:
        study: what is to be played.
        results: where it is written.
        jobs: runs at a time.
        console: the output; None means stdout.

    Raises:
        BptcnnError: a run cannot be carried out.
    """
    console = console or Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar,
        players(jobs) as player,
    ):
        task = bar.add_task("trials" if study.num_trials else "runs", total=study.num_trials or study.num_runs)

        def tell(case: Case, played: Played) -> None:
            bar.console.print(line(case, played, study.protocol.target), soft_wrap=True)
            bar.advance(task)

        if study.num_trials:
            results.write_trials(study.search(player, tell))
            bar.reset(task, total=study.num_runs, description="runs")
        rows = results.write(study, study.play(player, tell))
    console.print(printed(rows, console.width))
    console.print(f"results: {results.path}")


def line(case: Case, played: Played, target: float) -> str:
    """A run that has ended.

    Args:
        case: the run.
        played: what it came to.
        target: test accuracy to reach.

    Returns:
        One line.
    """
    reached_s = crossing_s(played.time_to_accuracy, target)
    came = f"target after {duration(reached_s)}" if reached_s is not None else "target missed"
    ended = "" if played.outcome == "finished" else f", {played.outcome}"
    tried = "".join(f", {key.split('.')[-1]} {case.settings[key]}" for key in SEARCHED if key in case.settings)
    return f"{case.level} {case.rule}, seed {case.seed}{tried}: {came}, {percent(played.final_accuracy)} at last{ended}"
