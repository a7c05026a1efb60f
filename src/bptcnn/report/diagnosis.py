"""Who was slow, and why: sentences from a run's summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bptcnn.report.format import count, percent

NOTABLE_WAITING = 0.1
"""Below this fraction of the time, waiting is not worth a sentence."""

TOLERANCE = 0.9
"""A share or a speed above this fraction of what it should be counts as right."""


def who_is_slow(summary: Mapping[str, Any]) -> list[str]:
    """What is worth saying about each worker: waiting, a speed that was not reached, losses.

    Args:
        summary: as in ``summary.json``.

    Returns:
        Sentences, in the order of the workers.
    """
    sentences: list[str] = []
    for worker, waiting in _with_waiting(summary):
        if not worker["samples"]:
            sentences.append(f"worker {worker['worker']} trained nothing.")
        elif waiting >= NOTABLE_WAITING:
            sentences.append(_why_waiting(summary, worker, waiting))
        sentences += _short_of_speed(worker) + _replaced(worker)
    return sentences


def most_waiting(summary: Mapping[str, Any]) -> str:
    """Who waited most, and why, in one sentence.

    Args:
        summary: as in ``summary.json``.

    Returns:
        The sentence.
    """
    trained = [(worker, waiting) for worker, waiting in _with_waiting(summary) if worker["samples"]]
    if not trained:
        return "no worker trained anything."
    worker, waiting = max(trained, key=lambda pair: pair[1])
    if waiting < NOTABLE_WAITING:
        return f"no worker waited more than {percent(waiting)} of the time."
    return _why_waiting(summary, worker, waiting)


def _with_waiting(summary: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], float]]:
    return list(zip(summary["workers"], summary["waiting_fraction"], strict=True))


def _why_waiting(summary: Mapping[str, Any], worker: Mapping[str, Any], waiting: float) -> str:
    """A share too small for the worker's speed, a loss that the others sit out, or else its exchanges."""
    samples = worker["samples"] / sum(other["samples"] for other in summary["workers"])
    speed = worker["speed"] / (sum(other["speed"] or 0.0 for other in summary["workers"]) or 1.0)
    opening = f"worker {worker['worker']} waited {percent(waiting, digits=0)} of the time:"
    if samples < TOLERANCE * speed:
        remedy = " (--allocation dynamic follows the speeds)" if summary["allocation"] == "uniform" else ""
        return (
            f"{opening} it makes {percent(speed, digits=0)} of the speed and got "
            f"{percent(samples, digits=0)} of the samples{remedy}."
        )
    replaced = [str(other["worker"]) for other in summary["workers"] if other["replaced"]]
    if str(worker["worker"]) in replaced:
        return f"{opening} it was lost and had to be replaced."
    if replaced:
        return f"{opening} for the replacement of worker {' and '.join(replaced)}, whose share was still to be trained."
    each_s = waiting * summary["train_seconds"] / max(worker["pushes"], 1)
    return f"{opening} {1000 * each_s:,.0f} ms at each of its {count(worker['pushes'])} exchanges."


def _short_of_speed(worker: Mapping[str, Any]) -> list[str]:
    asked, speed = worker.get("asked_speed"), worker["speed"]
    if asked is None or speed is None or speed >= TOLERANCE * asked:
        return []
    return [
        f"worker {worker['worker']} ran at {count(speed)} of the asked {count(asked)} samples/s: "
        "this machine is too slow for that."
    ]


def _replaced(worker: Mapping[str, Any]) -> list[str]:
    times, name = worker["replaced"], f"worker {worker['worker']}"
    sentences = [f"{name} was replaced {times} time{'s' * (times > 1)}."] if times else []
    return [*sentences, f"{name} was given up, and its data dealt to the others."] if worker["dismissed"] else sentences
