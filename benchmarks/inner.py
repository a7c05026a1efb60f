"""Training steps of one worker on one machine: ours against PyTorch, torch.compile, TensorFlow and JAX.

The same networks with the same first weights, cross-entropy, SGD with Nesterov's momentum and weight decay, batch-norm
in training mode, dropout where the network has it. All cores that this process may use. Each contender lives in a
process of its own, which sleeps until its turn: all do one repeat, then all the next, each round beginning with
another, so that a busy moment hits them alike.

``bf16`` allows bfloat16 between the layers: peers have it by autocast or mixed precision, ours takes float32 where that
is faster, as it would for a user.

Timed: whole steps on batches that are in memory, in the contender's layout; ours gets them as PyTorch's default.
Not timed: start, compilation, warm-up, and one step before each repeat, for the caches.

``of peak``: images/s x floating-point operations of convolutions and linear layers / what one core reaches in a matrix
product or a convolution (the best of all repeats, PyTorch) x cores. ``of capacity``: the same against what that task
reaches in the same round, one process on each of the contender's cores, all at once; for cores that other systems share
are not always there whole. ``MB``: peak memory of the process, framework included. ``capacity left``: what a process
that keeps one core busy leaves, by the time that it really had; beside it half a core less, which is what would be left
if all shared that core equally. Contenders whose framework is not there are skipped; ``pip install -e '.[bench]'``
brings them.

    python benchmarks/inner.py
    python benchmarks/inner.py --models resnet20 --precisions fp32 --contenders ours pytorch "compile channels_last"
"""

from __future__ import annotations

import argparse
import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import record
import torch
from inner_peers.case import CONTENDERS, Case, Setup, Skipped
from inner_peers.describe import describe
from inner_peers.peak import peak
from inner_peers.process import Contender, Machine, cores, disturbance
from inner_peers.results import Results, summary

SMALL = (3, 32, 32)
MODELS = {
    "lenet5": ("lenet5", SMALL, 128),
    "easgd-cifar": ("easgd-cifar", SMALL, 128),
    "resnet20": ("resnet20", SMALL, 128),
    "resnet18": ("resnet18", SMALL, 128),
    "resnet18-224": ("resnet18", (3, 224, 224), 4),
}
"""Network, shape of an image, and batch size."""


class Entrant(NamedTuple):
    """A contender under some circumstances: how it is called, what it is, and what it may use."""

    label: str
    contender: str
    cores: tuple[int, ...]


def main() -> None:
    """Measure every case, show, and write a record."""
    options = parse()
    load_before = record.load()
    series: dict[str, record.Series] = {}
    peaks: dict[str, tuple[float, str]] = {}
    for precision in options.precisions:
        rates = peak(precision, options.repeats)
        named = {f"{name} on one core, {precision}": record.Series("GFLOP/s", values) for name, values in rates.items()}
        peaks[precision] = max((max(values), name) for name, values in rates.items())
        record.show(named)
        series |= named
    results = []
    for name, precision in itertools.product(options.models, options.precisions):
        model, shape, batch_size = MODELS[name]
        case = Case(model, shape, options.batch_size or batch_size, precision)
        results.append(measure(case, options, *peaks[precision]))
        results[-1].show()
        series |= results[-1].series()
    totals = summary(results)
    if totals:
        print()
        record.show(totals)
    settings = {name: value for name, value in vars(options).items() if name != "out"} | {
        "core_peak_gflops": {precision: gflops for precision, (gflops, _) in peaks.items()},
        "flop_per_image": {one.case.label: one.network.flop for one in results},
        "frameworks": {label: ready.version for one in results for label, ready in one.ready.items()},
        "first_losses": {one.case.label: {key: ready.losses for key, ready in one.ready.items()} for one in results},
        "best_peer": {one.case.label: one.best_peer for one in results},
        "skipped": {one.case.label: one.skipped for one in results},
        "notes": {one.case.label: list(one.warnings()) for one in results},
    }
    print(record.write(options.out, "inner", settings, series | totals, load_before))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="training steps of one worker against PyTorch, TensorFlow and JAX")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="networks")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--batch-size", type=int, help="images in a step, instead of the case's own number")
    parser.add_argument("--repeats", type=int, default=5, help="of each contender")
    parser.add_argument("--seconds", type=float, default=0.5, help="that a repeat takes, about")
    parser.add_argument("--scaling", action="store_true", help="ours on one and on two cores, too")
    parser.add_argument("--disturbed", action="store_true", help="ours and pytorch with one core disturbed, too")
    parser.add_argument("--out", type=Path, default=record.RECORDS, help="folder of the record")
    return parser.parse_args()


def measure(case: Case, options: argparse.Namespace, peak_gflops: float, task: str) -> Results:
    """Start all contenders of a case, and have them run in turns, the machine itself among them.

    Args:
        case: what they train.
        options: the command line's.
        peak_gflops: of a core.
        task: in which it reached that, of ``peak.TASKS``.

    Returns:
        What they did.
    """
    torch.set_num_threads(1)  # of this process, which should not be in the way
    network = describe(case)
    results = Results(case, network, peak_gflops)
    with ExitStack() as stack:
        crew: dict[str, Contender] = {}
        for label, name, own_cores in entrants(options, results):
            plain = network if name in ("tensorflow", "jax") else None
            contender = Contender(Setup(name, case, own_cores, options.seconds, plain))
            stack.callback(contender.close)
            if isinstance(contender.ready, Skipped):
                results.skipped[label] = contender.ready.reason
            else:
                crew[label], results.ready[label] = contender, contender.ready
                results.turns[label], results.cores[label] = [], len(own_cores)
        machine = Machine(stack, case, task, options.seconds)
        results.capacity = {num: [] for num in {len(cores()), *results.cores.values()}}
        players: list[str | int] = [*crew, *results.capacity]
        to_disturb = [label for label in ("ours", "pytorch") if options.disturbed and label in crew]
        for round_ in range(options.repeats):
            first = round_ % len(players)
            for player in players[first:] + players[:first]:
                if isinstance(player, int):
                    results.capacity[player].append(machine.capacity(cores()[-player:]))
                else:
                    results.turns[player].append(crew[player].turn())
            if to_disturb:
                with disturbance(cores()[-1]) as disturber:
                    for label in to_disturb[:: 1 if round_ % 2 else -1]:
                        disturbed = f"{label}, disturbed"
                        results.cores[disturbed] = results.cores[label]
                        results.turns.setdefault(disturbed, []).append(crew[label].turn(disturber))
    return results


def entrants(options: argparse.Namespace, results: Results) -> list[Entrant]:
    """Who takes part."""
    everywhere = tuple(cores())
    found = [Entrant(name, name, everywhere) for name in options.contenders]
    if options.scaling and len(everywhere) < 2:
        results.skipped["scaling"] = "this process may use one core only"
    elif options.scaling:
        # From the end: the first cores serve most interrupts.
        found += [Entrant("ours, 1 core", "ours", everywhere[-1:]), Entrant("ours, 2 cores", "ours", everywhere[-2:])]
    return found


if __name__ == "__main__":
    main()
