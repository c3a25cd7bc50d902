"""Where a step's time goes in the tensor-core kernels: python -m benchmarks.profile, on a GPU.

Each kernel is timed whole, without any steps, and with one stage of its time loop left out
(leave_out.py): what that saves is what the stage costs beyond what it hides. T = 1024, bfloat16,
the solver's tilings; the kernel alone, some launches in a row between two events, all variants of
a pass in turn. In nanoseconds a step:

    start      before the first step and after the last one: a launch with T = 0
    exchange   of what blocks that share a head tell each other, and waiting for it
    barriers   of a block; where there is an exchange, what they save once that is left out
    product    tensor cores, and R and the B operand from shared memory into registers
    functions  exp, tanh, division and the like
    memory     what global memory is read and written for
    rest       what all these do not add up to: other arithmetic, shared memory, latency that
               several stages share. Less than nothing where stages wait for the same thing

A variant's results are nonsense, and it may need fewer registers than the kernel.

Everything is compiled first, in a process a core; another process times it, and is replaced when
a case hangs. Forward is timed as it is without gradients, with `--directions kept` as it is for
backward.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import tensor, tensor_backward_run
from flashrnn_numba.kernels.interface import Inputs, Task
from flashrnn_numba.kernels.launch import Program, compilations, machine_code
from flashrnn_numba.kernels.machine import HostMachine, Machine
from flashrnn_numba.tuning import Device, DeviceNotFoundError
from flashrnn_numba.tuning.measure import random_inputs

from .leave_out import STAGES, without
from .record import origin, write
from .served import STUCK, Deadline, Served, cores, hidden_gpu

STEPS, DTYPE = 1024, "bfloat16"
DIRECTIONS = ("forward", "kept", "backward")
VARIANTS = ("whole", "start", *STAGES)
DRAWN = 16, 64  # batch rows and steps of random numbers; repeated where there are more
COMPILING = 0.7  # of the time there is
PATIENCE = 60.0  # seconds for one case: what takes longer hangs

Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    cell: str
    head_dim: int
    heads: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.cell} {self.head_dim} x {self.heads}, B {self.batch}"

    def task(self, steps: int) -> Task:
        shape = self.batch, steps, self.heads, self.head_dim
        return Task(get_cell(self.cell), *shape, DTYPE, "cupy")


CASES = (
    Case("lstm", 64, 12, 16),
    Case("lstm", 768, 1, 16),
    Case("lstm", 256, 3, 16),
    Case("lstm", 128, 6, 16),
    Case("lstm", 64, 12, 128),
    Case("slstm", 64, 12, 16),
    Case("gru", 64, 12, 16),
    Case("elman", 64, 12, 16),
    Case("gru", 768, 1, 16),
    Case("lstm", 768, 1, 1),
    Case("lstm", 768, 1, 128),
)


# variants of a pass -----------------------------------------------------------------------------


class NothingOfIt(Exception):  # noqa: N818 -- no error
    """The kernel has nothing of the stage that is to be left out."""


class Leaving(HostMachine):
    """A machine that leaves out a stage of what it launches, and notes all that it does to its
    memory and with it, to do it again: `work`. No products beside the kernel."""

    def __init__(self, machine: Machine, stage: str) -> None:
        self.arrays, self.device = machine.arrays, machine.device  # type: ignore[method-assign]
        self._machine, self._stage = machine, stage
        self.programs: list[Program] = []
        self.work: list[Work] = []

    def prepare(
        self, program: Program, grid: Sequence[int], constants: Sequence[Any]
    ) -> Callable[..., None]:
        changed = without(program, self._stage) if self._stage in STAGES else program
        if changed is None:
            raise NothingOfIt
        self.programs.append(changed)
        launch = self._machine.prepare(changed, grid, constants)

        def noted(*arrays: Any, begun: Any = None) -> None:
            self.work.append(partial(launch, *arrays, begun=begun))
            self.work[-1]()

        return noted

    def filled(self, shape: tuple[int, ...], dtype: Any, byte: int) -> Any:
        made = super().filled(shape, dtype, byte)
        self.work.append(lambda: made.view("uint8").fill(byte))
        return made

    def prepare_product(self, *_: Any, **__: Any) -> Callable[..., None]:
        return lambda *arrays: None

    def run(self) -> None:
        for each in self.work:
            each()


class Pass:
    """A case's inputs on a machine, and the variants of its passes."""

    def __init__(self, machine: Machine, case: Case, steps: int) -> None:
        self._machine, self._task = machine, case.task(steps)
        self._inputs, self._dstates = drawn(machine, self._task)
        self._kept: Any = None

    def variant(self, direction: str, stage: str) -> Leaving | None:
        """Runs once; None where the kernel has nothing of the stage."""
        on = Leaving(self._machine, stage)
        task = replace(self._task, T=0) if stage == "start" else self._task
        # pre-activations and states that the kernel itself made
        if direction == "backward" and self._kept is None:
            self._kept = self._forward(Leaving(self._machine, "whole"), self._task, True)
        with contextlib.suppress(NothingOfIt):
            if direction == "backward":
                self._backward(on, task)
            else:
                self._forward(on, task, direction == "kept")
            return on
        return None

    def _forward(self, on: Machine, task: Task, keep: bool) -> Any:
        return tensor.prepare_forward(on, task, self._inputs, keep)(self._inputs)[2]

    def _backward(self, on: Machine, task: Task) -> None:
        given = self._inputs, self._dstates
        planned = tensor_backward_run.prepare_backward(on, task, *given, None)
        planned(self._inputs, self._kept, self._dstates, None)


def drawn(machine: Machine, task: Task) -> tuple[Inputs, Any]:
    """Random inputs and gradients of the states: few numbers, again and again, because drawing
    those of a large batch takes seconds."""
    rows, steps = math.gcd(task.B, DRAWN[0]), math.gcd(task.T, DRAWN[1])
    inputs, dstates = random_inputs(machine, replace(task, B=rows, T=steps))
    times = task.B // rows, task.T // steps
    Wx = _repeated(machine, inputs.Wx, (*times, 1, 1, 1))
    return inputs._replace(Wx=Wx), _repeated(machine, dstates, (1, *times, 1, 1))


def _repeated(machine: Machine, array: Any, times: tuple[int, ...]) -> Any:
    shape = tuple(n * size for n, size in zip(times, array.shape, strict=True))
    made = machine.arrays.ndarray(shape, array.dtype)
    made.view("int16")[...] = machine.arrays.tile(array.view("int16"), times)
    return made


# compiling --------------------------------------------------------------------------------------


class Dry(HostMachine):
    """Launches nothing."""

    def __init__(self, device: Device) -> None:
        self.arrays, self._device = np, device

    def device(self) -> Device:
        return self._device

    def launch(self, program: Program, grid: Sequence[int], arguments: Sequence[Any]) -> None:
        pass


def programs(case: Case, direction: str, stage: str, device: Device) -> list[Program]:
    """What a variant compiles; needs no GPU."""
    found = _dry_pass(case, device).variant(direction, stage)
    return found.programs if found else []


@cache
def _dry_pass(case: Case, device: Device) -> Pass:
    return Pass(Dry(device), case, 1)


def compile_one(case: Case, direction: str, stage: str, device: Device) -> None:
    """Into the cache on disk, where the timing process finds it."""
    for program in programs(case, direction, stage, device):
        machine_code(program, device.compute_capability)


Variant = tuple[Case, str, str]  # with its direction and stage


def to_compile(cases: Sequence[Case], directions: Sequence[str]) -> list[Variant]:
    """Without doubles: a launch with T = 0 is of the whole kernel."""
    found = []
    for case in cases:
        if "backward" in directions and "kept" not in directions:
            found.append((case, "kept", "whole"))  # what backward needs
        stages = [stage for stage in VARIANTS if stage != "start"]
        found += [(case, direction, stage) for direction in directions for stage in stages]
    return found


def compile_all(
    variants: Sequence[Variant], device: Device, deadline: Deadline
) -> dict[Variant, str]:
    """Those that cannot be timed, and why."""
    until, failed = Deadline(COMPILING * deadline.left), dict[Variant, str]()
    with hidden_gpu():
        pool = multiprocessing.get_context("spawn").Pool(cores())
        jobs = [pool.apply_async(compile_one, (*variant, device)) for variant in variants]
        for job in jobs:
            job.wait(min(until.left, STUCK))
        pool.terminate()
    for job, variant in zip(jobs, variants, strict=True):
        try:
            if not job.ready():
                raise TimeoutError("not compiled in time")
            job.get()
        except Exception as error:
            failed[variant] = f"{type(error).__name__}: {error}"
    return failed


# timing -----------------------------------------------------------------------------------------


def time_case(
    case: Case, wanted: dict[str, list[str]], rounds: int, launches: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """(rows of a case on this process's GPU, what failed and why).

    wanted -- the variants of each direction.
    """
    from flashrnn_numba.kernels.machine import gpu

    before, prepared = len(compilations()), Pass(gpu(), case, STEPS)
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for direction, stages in wanted.items():
        runs, reasons = _variants(prepared, direction, stages)
        failed |= {f"{direction}, {stage}": reason for stage, reason in reasons.items()}
        if not runs:
            continue
        told = _rows(case, direction, _in_turn(runs, rounds, launches))
        told[0]["plan"] = runs["whole"].programs[0].plan
        rows += told
    if len(compilations()) > before:
        print(f"{case.name}: compiled while timing", flush=True)
    return rows, failed


def _variants(
    prepared: Pass, direction: str, stages: Sequence[str]
) -> tuple[dict[str, Leaving], dict[str, str]]:
    """(what can be timed, what failed and why)."""
    runs: dict[str, Leaving] = {}
    failed: dict[str, str] = {}
    for stage in stages:
        try:
            made = prepared.variant(direction, stage)
        except Exception as error:
            failed[stage] = f"{type(error).__name__}: {error}"
        else:
            runs |= {stage: made} if made else {}
    return {stage: runs[stage] for stage in comparable(runs, failed)}, failed


def comparable(stages: Iterable[str], failed: Collection[str]) -> list[str]:
    """Those whose times say something where some failed."""
    if "whole" in failed:
        return []
    # barriers are left out together with the exchange: see leave_out.py
    lost = {*failed, "barriers"} if "exchange" in failed else failed
    return [stage for stage in stages if stage not in lost]


def _in_turn(runs: dict[str, Leaving], rounds: int, launches: int) -> dict[str, float]:
    """Seconds of one launch of each: the median over rounds."""
    import cupy

    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, on in runs.items():
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            # the GPU is busy while the host prepares the others
            on.run()
            begin.record()
            for _ in range(launches):
                on.run()
            end.record()
            end.synchronize()
            taken[name].append(1e-3 * cupy.cuda.get_elapsed_time(begin, end) / launches)
    return {name: statistics.median(times) for name, times in taken.items()}


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """What each stage takes of the whole, from the times of the variants; and the rest."""
    whole = seconds["whole"]
    found: dict[str, float] = {s: seconds[s] for s in ("whole", "start") if s in seconds}
    for stage in STAGES:
        if stage in seconds:
            # barriers are left out together with the exchange: see leave_out.py
            before = seconds.get("exchange", whole) if stage == "barriers" else whole
            found[stage] = before - seconds[stage]
    return found | {"rest": 2 * whole - sum(found.values())}


def _rows(case: Case, direction: str, seconds: dict[str, float]) -> list[dict[str, Any]]:
    found = shares(seconds)
    return [
        {
            **vars(case),
            "direction": direction,
            "stage": stage,
            "ns": round(1e9 * share / STEPS, 2),
            "percent": round(100 * share / found["whole"], 1),
        }
        for stage, share in found.items()
    ]


# telling ----------------------------------------------------------------------------------------


def lines(rows: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each pass: ns a step, then what each stage takes of them."""
    passes: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        case = Case(*(row[name] for name in Case.__dataclass_fields__))
        passes.setdefault((case.name, row["direction"]), {})[row["stage"]] = row
    told = []
    for (name, direction), found in passes.items():
        text = f"{name:21} {direction:8} {found['whole']['ns']:7.0f} ns a step:"
        for stage in (*VARIANTS[1:], "rest"):
            share = f"{'-':>5}      "
            if stage in found:
                share = f"{found[stage]['ns']:5.0f} {found[stage]['percent']:3.0f} %"
            text += f"  {stage} {share}"
        told.append(text)
    return told


def measure(
    cases: Sequence[Case],
    given: argparse.Namespace,
    device: Device,
    done: Callable[[dict[str, Any]], object],
) -> dict[str, Any]:
    """All rows, and what failed; `done` gets them as far as they are."""
    deadline = Deadline(given.seconds)
    missing = compile_all(to_compile(cases, given.directions), device, deadline)
    failed = {f"{case.name} {d}, {stage}": why for (case, d, stage), why in missing.items()}
    result: dict[str, Any] = {"rows": [], "failed": failed}
    with Served((time_case,)) as clock:
        for case in cases:
            wanted = {d: _compiled(case, d, missing) for d in given.directions}
            how = (
                {d: stages for d, stages in wanted.items() if stages},
                given.rounds,
                given.launches,
            )
            try:
                if not deadline.left:
                    raise RuntimeError("no time left")
                rows, reasons = clock.ask(0, min(PATIENCE, deadline.left), case, *how)
            except RuntimeError as error:
                rows, reasons = [], {"all": str(error)}
            result["rows"] += rows
            failed |= {f"{case.name} {what}": why for what, why in reasons.items()}
            print(*lines(rows), sep="\n", flush=True)
            done(result)  # a lease may end at any time
    return result


def _compiled(case: Case, direction: str, missing: Collection[Variant]) -> list[str]:
    failed = {stage for c, d, stage in missing if (c, d) == (case, direction)}
    if direction == "backward" and (case, "kept", "whole") in missing:
        return []
    return comparable(VARIANTS, failed)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="*", default=[""], help="cases whose name has such a text")
    parser.add_argument(
        "--directions", nargs="*", choices=DIRECTIONS, default=["forward", "backward"]
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--launches", type=int, default=5, help="in a row between two events")
    parser.add_argument("--seconds", type=float, help="stop after so many")
    parser.add_argument("--json", type=Path, help="record the rows there")
    given = parser.parse_args()
    try:
        device = Device.query()
    except DeviceNotFoundError as error:
        print(f"skipped: nothing to measure on ({error})")
        return 0
    facts = {**origin(), "gpu": device.name, "driver": device.driver}
    facts |= {"dtype": DTYPE, "steps": STEPS}

    def done(result: dict[str, Any]) -> None:
        if given.json:
            write(given.json, facts | result)

    start = time.perf_counter()
    cases = [case for case in CASES if any(text in case.name for text in given.only)]
    result = measure(cases, given, device, done)
    print(*(f"{what}: {why}"[:300] for what, why in result["failed"].items()), sep="\n")
    print(f"{time.perf_counter() - start:.0f} s in all")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
