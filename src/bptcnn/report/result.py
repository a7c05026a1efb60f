"""A finished run in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bptcnn.report.diagnosis import most_waiting
from bptcnn.report.format import count, duration, percent


def result_lines(summary: Mapping[str, Any]) -> list[str]:
    """What a run prints when it is over.

    Args:
        summary: as in ``summary.json``.

    Returns:
        Accuracy, speed and time; the account of the samples; who waited most.
    """
    figures = (
        f"test accuracy {percent(summary['test_accuracy'])}",
        f"{count(summary['samples_per_second'])} samples/s",
        time_taken(summary),
    )
    return ["   ".join(figures), account_line(summary["samples"], summary.get("samples_total")), most_waiting(summary)]


def time_taken(summary: Mapping[str, Any]) -> str:
    """How long a run trained, and what it took to get there; a virtual clock knows no setup."""
    training = duration(summary["train_seconds"])
    if summary["engine"] == "virtual":
        return f"{training} of virtual time"
    return f"{training} of training, after {duration(summary['setup_seconds'])} of setup"


def account_line(samples: Mapping[str, int], total: int | None = None) -> str:
    """Where every sample that was handed out went, and how many are still to be trained.

    Args:
        samples: issued, committed, returned, lost and duplicated.
        total: how many the run is to commit; None if not known.

    Returns:
        One line; ``!=`` in place of ``=`` where the account does not balance.

    Example:
        >>> account_line({"issued": 1200, "committed": 1000, "returned": 200, "lost": 0, "duplicated": 0}, 1500)
        'samples: issued 1,200 = committed 1,000 + returned 200; lost 0, duplicated 0; 500 to go'
    """
    balanced = samples["issued"] == samples["committed"] + samples["returned"]
    left = 0 if total is None else total - samples["committed"]
    return (
        f"samples: issued {count(samples['issued'])} {'=' if balanced else '!='} "
        f"committed {count(samples['committed'])} + returned {count(samples['returned'])}; "
        f"lost {count(samples['lost'])}, duplicated {count(samples['duplicated'])}"
        f"{f'; {count(left)} to go' if left > 0 else ''}"
    )
