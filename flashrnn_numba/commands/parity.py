"""Train a one-layer network on the parity of random bit strings of up to 40 bits, and measure its
accuracy at lengths that it never saw.

Embedding, input product, recurrent layer, read-out, cross-entropy, Adam; on the CPU in NumPy, on a
GPU in CuPy. Every prefix of a bit string is a bit string with a parity of its own, so in training
the network answers after each symbol. Accuracy is that of the answer after the last symbol of fresh
random strings, whose lengths are uniform in the bucket. A cell has learned if it is right on at
least 0.999 of the strings of every bucket; the exit status is 1 if any cell has not.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..cells import Cell
from ..kernels import backends
from ..training import BUCKETS, Progress, Settings, Shape, accuracies, array_module, train
from . import UsageError
from .environment import environment
from .find_cell import find_cell
from .tables import table

ALL = ("elman", "lstm", "gru", "slstm")
LEARNED = 0.999  # of the strings of each bucket


def add_arguments(parser: argparse.ArgumentParser) -> None:
    size, settings = Shape(), Settings()
    parser.add_argument(
        "--cell",
        default="lstm",
        help=f"a registered cell, path/to/file.py:name for one of your own, or all "
        f"({', '.join(ALL)})",
    )
    parser.add_argument("--heads", type=_positive, default=size.heads, help="heads of the layer")
    parser.add_argument(
        "--hidden", type=_positive, default=size.hidden, help="units of all heads together"
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        nargs="+",
        default=[0],
        help="one or more; each gives its own weights, training, validation and test strings",
    )
    parser.add_argument(
        "--backend", choices=("auto", *backends.names()), default="auto", help="how to compute"
    )
    parser.add_argument(
        "--steps",
        type=_positive,
        default=settings.steps,
        help="updates at most, new initialisations included; training stops when it is done",
    )
    parser.add_argument("--batch", type=_positive, default=settings.batch, help="strings a step")
    parser.add_argument(
        "--lr", type=_rate, default=settings.learning_rate, help="highest learning rate"
    )
    parser.add_argument(
        "--strings", type=_positive, default=1000, help="strings measured in each bucket"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw accuracy over length: .png or .svg"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="record the results")


def run(arguments: argparse.Namespace) -> int:
    start = datetime.now(UTC).isoformat(timespec="seconds")
    cells, shape, settings, xp = _check(arguments)
    runs = [
        _run(cell, seed, shape, settings, arguments, xp)
        for cell in cells
        for seed in arguments.seed
    ]
    print(report(runs))
    if arguments.json:
        record = _record(runs, shape, settings, arguments, start)
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    if arguments.plot:
        from .parity_plot import draw

        draw([asdict(run) for run in runs], arguments.plot)
    return 0 if all(run.learned for run in runs) else 1


@dataclass
class Run:
    """One cell trained from one seed."""

    cell: str
    seed: int
    accuracy: dict[str, float]  # by bucket
    learned: bool
    solved: bool  # the margin was reached in validation, before --steps ran out
    steps: int
    attempts: int
    training_seconds: float
    measuring_seconds: float
    cpu_seconds: float  # of all threads, both parts: on a busy machine it tells more


def report(runs: list[Run]) -> str:
    """The table: a line for each run, a column for each bucket."""
    buckets = list(runs[0].accuracy)
    rows = [
        [
            run.cell,
            str(run.seed),
            *(_three_digits(run.accuracy[name]) for name in buckets),
            str(run.steps),
            f"{run.training_seconds + run.measuring_seconds:.1f}",
        ]
        for run in runs
    ]
    lines = [table(["cell", "seed", *buckets, "steps", "seconds"], rows)]
    missed = [f"{run.cell} (seed {run.seed})" for run in runs if not run.learned]
    if missed:
        lines.append(f"\nnot learned, below {LEARNED} somewhere: {', '.join(missed)}")
    return "\n".join(lines)


def _three_digits(share: float) -> str:
    # cut, not rounded: 1.000 means that every answer was right
    return f"{int(share * 1000 + 1e-9) / 1000:.3f}"


def _check(arguments: argparse.Namespace) -> tuple[list[Cell], Shape, Settings, Any]:
    """Everything that can be wrong is looked at before the first step."""
    names = ALL if arguments.cell == "all" else (arguments.cell,)
    cells = [find_cell(name, "--cell") for name in names]
    if arguments.hidden % arguments.heads:
        raise UsageError(
            f"--hidden is {arguments.hidden}, expected a multiple of --heads = {arguments.heads}"
        )
    for option, path in (("--plot", arguments.plot), ("--json", arguments.json)):
        if path and not path.absolute().parent.is_dir():
            raise UsageError(f"{option}: there is no directory {str(path.absolute().parent)!r}")
    if arguments.plot:
        _check_plot(arguments.plot)
    try:
        xp = array_module(arguments.backend)
    except RuntimeError as error:
        raise UsageError(f"--backend: {error}") from error
    settings = Settings(steps=arguments.steps, batch=arguments.batch, learning_rate=arguments.lr)
    return cells, Shape(arguments.heads, arguments.hidden), settings, xp


def _check_plot(path: Path) -> None:
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot must end in .png or .svg, got {str(path)!r}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(
            "--plot needs matplotlib; install it with: pip install 'flashrnn-numba[plot]'"
        ) from None


def _run(
    cell: Cell,
    seed: int,
    shape: Shape,
    settings: Settings,
    arguments: argparse.Namespace,
    xp: Any,
) -> Run:
    label, cpu_start = f"{cell.name} (seed {seed})", time.process_time()
    with tqdm(total=settings.steps, desc=label, unit="step", disable=None) as bar:
        trained = train(cell, shape, settings, seed, arguments.backend, xp, _Bar(bar))
        bar.total = bar.n  # it stopped early: show a full bar
        bar.refresh()
    start = time.perf_counter()
    with tqdm(total=len(BUCKETS), desc=f"{label}: measuring", disable=None, leave=False) as bar:
        accuracy = accuracies(
            trained.model, seed, arguments.strings, done=lambda bucket: bar.update()
        )
    return Run(
        cell.name,
        seed,
        accuracy,
        min(accuracy.values()) >= LEARNED,
        trained.solved,
        trained.steps,
        trained.attempts,
        round(trained.seconds, 2),
        round(time.perf_counter() - start, 2),
        round(time.process_time() - cpu_start, 2),
    )


class _Bar(Progress):
    def __init__(self, bar: tqdm) -> None:
        self._bar = bar

    def update(self, steps: int, length: int, loss: float, accuracy: float) -> None:
        self._bar.set_postfix(
            length=length, loss=f"{loss:.4f}", accuracy=f"{accuracy:.3f}", refresh=False
        )
        self._bar.update(steps)


def _record(
    runs: list[Run], shape: Shape, settings: Settings, arguments: argparse.Namespace, start: str
) -> dict[str, Any]:
    return {
        "task": "parity",
        "date": start,
        "command": shlex.join(["flashrnn-numba", *arguments.words]),
        "environment": environment(),
        "backend": arguments.backend,
        "shape": asdict(shape),
        "settings": asdict(settings),
        "strings_per_bucket": arguments.strings,
        "learned_at": LEARNED,
        "runs": [asdict(run) for run in runs],
    }


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return rate
