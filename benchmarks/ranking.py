"""Do the models rank tilings as the GPU does? Measured for benchmarks/planning.py --measure.

Made for a card that is lent for minutes, and for a disk cache that is empty: what the tilings would
compile is found by dry runs and compiled in one process a core. Only then is it timed, in other
processes that take turns on the GPU, and are replaced when a tiling hangs or breaks one. Whatever
fails is recorded.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from threading import Lock
from typing import Any

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.kernels.launch import Program, compilations, machine_code
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.candidates import NODES, Candidate, Setting, evaluate_model
from flashrnn_numba.tuning.measure import kernel_tiling, measurer, rehearsal
from flashrnn_numba.tuning.models.common import DIRECTIONS, Direction, Solution
from flashrnn_numba.tuning.models.registry import model

from .served import STUCK, Deadline, Served, cores, hidden_gpu

BEST, MOST = 12, 3000  # tilings looked at: the best of each problem, and so many others in all
COMPILING = 0.6  # of the time there is
PATIENCE = 15.0  # seconds for one tiling, four times that to prepare it: what takes longer hangs


@dataclass(frozen=True)
class Case:
    """A kernel and a shape."""

    kernel: str
    direction: Direction
    dtype: str
    D: int
    H: int
    B: int

    def setting(self, device: Device) -> Setting:
        task = Task(get_cell("lstm"), self.B, 1024, self.H, self.D, self.dtype, "cupy")
        return Setting(model(self.kernel), task, device, self.direction)

    @property
    def name(self) -> str:
        shape = f"{self.dtype} {self.D} x {self.H}, B {self.B}"
        return f"{self.kernel} {self.direction} lstm {shape}"


SHAPES = (
    ("tensor", "bfloat16", 64, 12, 16),
    ("tensor", "bfloat16", 256, 3, 16),
    ("tensor", "bfloat16", 768, 1, 16),
    ("portable", "float32", 64, 12, 16),
    ("portable", "float32", 96, 8, 16),
    ("grid", "bfloat16", 1024, 1, 16),
    ("grid", "bfloat16", 768, 1, 128),
    ("grid", "bfloat16", 768, 1, 16),
    ("grid", "bfloat16", 768, 1, 1),
    ("cluster", "bfloat16", 768, 1, 1),
)
CASES = tuple(
    Case(kernel, direction, dtype, D, H, B)
    for kernel, dtype, D, H, B in SHAPES
    for direction in DIRECTIONS
)


@dataclass
class Sample:
    """The tilings of a case that are measured: (the model's cost, solution), its choice first.

    every -- how many there are; predicted -- the model's seconds of each of `tilings` at the case's
    batch size; failed -- what cannot run; ready -- places in `tilings` whose programs are compiled.
    """

    case: Case
    every: int = 0
    tilings: list[tuple[int, Solution]] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)

    def fails(self, place: int, error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}"
        self.failed.append({"solution": self.tilings[place][1], "error": text})


def compare(
    device: Device,
    cases: Sequence[Case],
    tilings: int,
    runs: int,
    seconds: float | None,
    done: Callable[[list[dict[str, Any]]], object],
) -> list[dict[str, Any]]:
    """A row for each case, in the order in which they are ready. `done` gets the rows so far."""
    deadline = Deadline(seconds)
    rows: list[dict[str, Any]] = []
    alone, telling = Lock(), Lock()  # one kernel at a time, one row at a time

    def one(sample: Sample) -> None:
        with Stopwatch(rehearse_on_host, time_on_gpu, alone) as watch:
            row = measured(sample, watch.time, runs, deadline)
        with telling:
            rows.append(row)
            done(rows)

    samples = prepared(device, cases, tilings, deadline)
    # one process for each case: most of a tiling's time is Python's, which the cores share
    with ThreadPoolExecutor(max(2, min(len(cases), cores() // 2))) as threads:
        list(threads.map(one, samples))
    return rows


# -- what to measure -----------------------------------------------------------------------------


def prepared(
    device: Device, cases: Sequence[Case], tilings: int, deadline: Deadline
) -> list[Sample]:
    """The tilings of all cases, compiled as far as the time allows."""
    until = Deadline(COMPILING * deadline.left)
    with hidden_gpu():
        pool = multiprocessing.get_context("spawn").Pool(cores())
        samples = pool.starmap(sampled, [(case, device, tilings) for case in cases])
        # the choices and the best of each case first, should the time not do for all
        places = [(n, sample) for sample in samples for n in range(len(sample.tilings))]
        places.sort(key=lambda place: place[0])
        tasks = [(sample.case, device, sample.tilings[n][1]) for n, sample in places]
        jobs = [pool.apply_async(compiled, task) for task in tasks]
        for job in jobs:
            job.wait(min(until.left, STUCK))
        pool.terminate()
    for job, (n, sample) in zip(jobs, places, strict=True):
        if job.ready():
            try:
                job.get()
                sample.ready.append(n)
            except Exception as error:
                sample.fails(n, error)
    ready = sum(len(sample.ready) for sample in samples)
    print(f"{ready} of {len(jobs)} tilings compiled", flush=True)
    return samples


def compiled(case: Case, device: Device, solution: Solution) -> None:
    """All that a run needs into the disk cache, where the timing process finds it."""
    for program in _rehearsal(case, device)(solution):
        machine_code(program, device.compute_capability)


@cache
def _rehearsal(case: Case, device: Device) -> Callable[[Solution], tuple[Program, ...]]:
    return rehearsal(case.setting(device))


def sampled(case: Case, device: Device, tilings: int) -> Sample:
    """All tilings of a case, or `tilings` of them: the best half, and a spread over the others."""
    setting, sample = case.setting(device), Sample(case)
    found = evaluate_model(setting.model, setting.task, device, case.direction)
    if not isinstance(found, Candidate):
        sample.failed.append({"solution": None, "error": found.reason or "no tiling"})
        return sample
    # each kernel once: some solutions differ in what the model alone sees
    every = {kernel_tiling(setting, found.solution): (found.cost, found.solution)}
    for cost, solution in every_solution(setting):
        every.setdefault(kernel_tiling(setting, solution), (cost, solution))
    sample.every = len(every)
    # by their time at this batch size: a cost may stand for several batch sizes
    timed = [(found.with_solution(z, cost).seconds, cost, z) for cost, z in every.values()]
    rows = spread(sorted(timed, key=lambda row: row[:2]), tilings)
    choice = (found.seconds, found.cost, found.solution)
    if choice in rows:
        rows.remove(choice)
    rows = [choice, *rows][: tilings or None]
    sample.predicted = [seconds for seconds, _, _ in rows]
    sample.tilings = [(cost, solution) for _, cost, solution in rows]
    return sample


def every_solution(setting: Setting) -> list[tuple[int, Solution]]:
    """(cost, solution), best first; of huge problems the best ones and MOST others."""
    found = [row for s in setting.statements for row in s.best(BEST, NODES)]
    known = {tuple(solution.items()) for _, solution in found}
    for s in setting.statements:
        for own in itertools.islice(s.problem.solutions(), MOST // len(setting.statements)):
            solution = s.fixed | own
            cost = s.value(solution)
            if cost is not None and tuple(solution.items()) not in known:
                found.append((cost, solution))
    return sorted(found, key=lambda row: row[0])


def spread(every: Sequence[Any], count: int) -> list[Any]:
    """The best few, where the choice is made, and the rest evenly over the order; 0: all."""
    if not count:
        return list(every)
    head = list(every[: count // 2])
    rest = every[len(head) :]
    step = max(1, len(rest) // max(1, count - len(head)))
    return head + list(rest[::step])[: count - len(head)]


# -- timing --------------------------------------------------------------------------------------

Time = Callable[[Case, Solution, int, float], float]


def measured(sample: Sample, clock: Time, runs: int, deadline: Deadline) -> dict[str, Any]:
    """The row of a case: which tilings ran, how long they took, and how well the model ranks."""
    times: dict[int, float] = {}
    for n in sample.ready:
        if not deadline.left:
            break
        solution = sample.tilings[n][1]
        try:
            times[n] = clock(sample.case, solution, runs, min(PATIENCE, deadline.left))
        except Exception as error:  # a tiling that does not run is a finding, not the end
            sample.fails(n, error)
    row = {
        **asdict(sample.case),
        "tilings": sample.every,
        "measured": len(times),
        "out_of_time": max(0, len(sample.tilings) - len(times) - len(sample.failed)),
        "failed": sample.failed,
    }
    return row | _ranks(sample, times)


def _ranks(sample: Sample, times: dict[int, float]) -> dict[str, Any]:
    """Times beside what the model says of this batch size, which its cost need not be."""
    if not times:
        return {}
    best = min(times, key=lambda n: times[n])
    rank = spearman([sample.predicted[n] for n in times], list(times.values()))
    result: dict[str, Any] = {
        "rank_correlation": None if math.isnan(rank) else round(rank, 3),
        "best_ms": round(1e3 * times[best], 4),
        "best": sample.tilings[best][1],
        "times": [
            {
                "cost": sample.tilings[n][0],
                "predicted_ms": round(1e3 * sample.predicted[n], 4),
                "ms": round(1e3 * seconds, 4),
                "solution": sample.tilings[n][1],
            }
            for n, seconds in times.items()
        ],
    }
    if 0 in times:  # the model's choice
        result |= {
            "chosen": sample.tilings[0][1],
            "chosen_ms": round(1e3 * times[0], 4),
            "chosen_over_best": round(times[0] / times[best], 3),
            "predicted_ms": round(1e3 * sample.predicted[0], 4),
        }
    return result


def line(row: dict[str, Any]) -> str:
    case = Case(*(row[name] for name in Case.__dataclass_fields__))
    text = f"{case.name:46} {row['measured']:3} of {row['tilings']:4}"
    if "best_ms" in row:
        rank = row["rank_correlation"]
        text += "  rank  none" if rank is None else f"  rank {rank:5.2f}"
        text += f"  best {row['best_ms']:.3f} ms"
    if "chosen_ms" in row:
        text += f"  chosen {row['chosen_ms']:.3f} ms ({row['chosen_over_best']:.2f})"
        text += f", predicted {row['predicted_ms']:.3f}"
    if row["failed"]:
        text += f"  {len(row['failed'])} failed: {row['failed'][0]['error'][:120]}"
    if row["out_of_time"]:
        text += f"  {row['out_of_time']} out of time"
    return text


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """The rank correlation of two lists; ties share their mean rank."""
    x, y = _places(a), _places(b)
    n, middle = len(x), (len(x) - 1) / 2
    over = sum((x[i] - middle) * (y[i] - middle) for i in range(n))
    under = sum((v - middle) ** 2 for v in x) * sum((v - middle) ** 2 for v in y)
    return over / under**0.5 if under else float("nan")


def _places(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(ordered.index(v) + len(ordered) - 1 - ordered[::-1].index(v)) / 2 for v in values]


# -- the timing process --------------------------------------------------------------------------


class Stopwatch:
    """A process that times tilings. One that hangs or dies is replaced at the next tiling.

    rehearse -- (case, solution): all that can be done without the GPU; work -- (case, solution,
    runs) -> seconds, while `alone` is held. Both run in the process and must be importable.
    """

    def __init__(
        self,
        rehearse: Callable[[Case, Solution], object],
        work: Callable[[Case, Solution, int], float],
        alone: Lock,
    ) -> None:
        self._served = Served((rehearse, work), harmless=(0,))
        self._alone = alone

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._served.stop()

    def time(self, case: Case, solution: Solution, runs: int, patience: float) -> float:
        """RuntimeError with the reason where the tiling does not run, or not in time."""
        self._served.ask(0, 4 * patience, case, solution)
        with self._alone:
            return float(self._served.ask(1, patience, case, solution, runs))


def rehearse_on_host(case: Case, solution: Solution) -> None:
    """Writes the kernel's text, which stays in memory, and loads what the timing will need."""
    import cupy  # noqa: F401

    _rehearsal(case, Device.query())(solution)


def time_on_gpu(case: Case, solution: Solution, runs: int) -> float:
    before = len(compilations())
    seconds = _measurer(case, runs)(solution)
    if len(compilations()) > before:
        print(f"{case.name}: compiled while timing {solution}", flush=True)
    return seconds


@cache
def _measurer(case: Case, runs: int) -> Callable[[Solution], float]:
    return measurer(case.setting(Device.query()), runs=runs)
