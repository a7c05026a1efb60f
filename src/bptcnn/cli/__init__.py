"""The command line: ``bptcnn train``, ``bptcnn simulate``, ``bptcnn inspect``, ``bptcnn plan``, ``bptcnn bench``.

Exit codes: 0 done; 2 the request cannot be carried out, with one sentence on stderr; 130 interrupted.
PyTorch and Ray are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from bptcnn import __version__
from bptcnn.cli.bench import bench
from bptcnn.cli.inspect import inspect
from bptcnn.cli.plan import plan
from bptcnn.cli.simulate import simulate
from bptcnn.cli.train import train
from bptcnn.errors import BptcnnError

__all__ = ["app", "main"]

FAILED = 2
INTERRUPTED = 130

# The base of all complaints about the command line, which typer does not export by name.
_UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])

app = typer.Typer(
    name="bptcnn",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command()(simulate)
app.command()(inspect)
app.command()(plan)
app.add_typer(bench, name="bench")


@app.callback(invoke_without_command=True)
def _bptcnn(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Train CNNs over unequal machines."""
    if version:
        typer.echo(f"bptcnn {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after ``bptcnn``; None takes them from ``sys.argv``.

    Returns:
        The exit code.
    """
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="bptcnn", standalone_mode=False)
    except BptcnnError as error:
        return _fail(str(error))
    except _UsageError as error:
        return _fail(_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> str:
    """The parser's complaint as one sentence that ends with where to look."""
    _keep_near(error)
    message = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "bptcnn"
    return f"{message[:1].lower()}{message[1:]}; see '{command} --help'"


def _keep_near(error: Exception) -> None:
    """Of the options that the parser proposes, keep those that are near without the dashes, which all have."""
    proposed = getattr(error, "possibilities", None)
    if proposed and hasattr(error, "option_name"):
        names = {name.lstrip("-"): name for name in proposed}
        near = difflib.get_close_matches(error.option_name.lstrip("-"), names)
        error.possibilities = [names[name] for name in near]  # type: ignore[attr-defined]


def _fail(sentence: str) -> int:
    print("bptcnn:", " ".join(sentence.split()), file=sys.stderr)
    return FAILED
