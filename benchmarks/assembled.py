"""What ptxas makes of the tilings that the solver chooses: python -m benchmarks.assembled.

Needs no GPU. For each model with a kernel, many shapes, cells and three architectures: the chosen
tiling is compiled and assembled, and the model's figures are set beside ptxas's. Shared memory must
be the model's, registers within its limit, spills none. Exit status 1 where one is not so.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import alternating_plan, fused, tensor
from flashrnn_numba.kernels.assemble import Resources, assemble
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.kernels.launch import Program, compile_to_ptx
from flashrnn_numba.kernels.tensor_backward import backward_program
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.candidates import Candidate, evaluate_model
from flashrnn_numba.tuning.measure import kernel_tiling
from flashrnn_numba.tuning.models.common import DIRECTIONS, Direction
from flashrnn_numba.tuning.models.registry import model, models

from .record import origin, write

DEVICES = ("A100", "H200", "B200")  # sm_80, sm_90, sm_100
CELLS = ("lstm", "slstm", "gru", "elman")
SHAPES = (  # head dimension, heads: the benchmark's first
    *((64, 12), (128, 6), (256, 3), (512, 1), (768, 1), (1024, 1)),
    *((32, 4), (40, 2), (96, 8), (160, 2), (192, 4), (320, 1), (384, 2), (640, 1)),
)
BATCHES = (16, 1, 128)


@dataclass(frozen=True)
class Case:
    """A kernel, a shape and a device; `place` among the model's best tilings, 0 the first."""

    kernel: str
    direction: Direction
    cell: str
    dtype: str
    D: int
    H: int
    B: int
    device: str
    place: int = 0

    @property
    def name(self) -> str:
        shape = f"{self.cell} {self.dtype} {self.D} x {self.H}, B {self.B}"
        return f"{self.kernel} {self.direction} {shape} on {self.device}, place {self.place}"

    @property
    def cc(self) -> tuple[int, int]:
        return Device.named(self.device).compute_capability


def cases(dtypes: Iterable[str] = ("bfloat16", "float32"), best: int = 1) -> Iterator[Case]:
    """All of the wide list, what matters most first."""
    names = [m.name for m in models()]
    for place, cell, (D, H), B in itertools.product(range(best), CELLS, SHAPES, BATCHES):
        for device, dtype, name in itertools.product(DEVICES, dtypes, names):
            for direction in DIRECTIONS:
                yield Case(name, direction, cell, dtype, D, H, B, device, place)


@cache
def chosen(case: Case) -> Candidate | None:
    """The tiling; None where the model has none at this place."""
    task = Task(get_cell(case.cell), case.B, 1024, case.H, case.D, case.dtype, "cupy")
    device = Device.named(case.device)
    found = evaluate_model(model(case.kernel), task, device, case.direction)
    if not isinstance(found, Candidate):
        return None
    rows = [found] if case.place == 0 else found.best(case.place + 1)
    return rows[case.place] if case.place < len(rows) else None


def programs(case: Case) -> list[Program]:
    """The kernels that the tiling may become: with the least and the most that a call can ask."""
    got = chosen(case)
    if got is None:
        return []
    cell, dtype, D = get_cell(case.cell), case.dtype, case.D
    if case.kernel == "alternating":
        return [alternating_plan.program(cell, dtype, case.direction)]
    tiling = kernel_tiling(got.setting, got.solution)
    if case.kernel == "portable":
        return [fused.program(cell, dtype, D, case.direction, tiling)]
    if case.direction == "forward":
        last = D % 8 == 0, tensor.coarse(dtype)
        variants = [tensor.Variant(full, full, *last) for full in (False, True)]
        return [tensor.program(cell, dtype, D, tiling, variant) for variant in variants]
    return [backward_program(cell, dtype, D, tiling, resets=full) for full in (False, True)]


def compared(case: Case, program: Program) -> dict[str, Any]:
    """The model's figures beside the program's and ptxas's, and what is wrong, if anything."""
    got = chosen(case)
    assert got is not None
    says, used = got.footprint, _resources(program, case.cc)
    wrong = {
        "shared memory": program.shared_bytes != says.shared_bytes or used.shared_bytes,
        "threads": program.threads != says.threads,
        "registers": used.registers > says.registers,
        "spills": used.spill_stores or used.spill_loads,
    }
    return {
        **asdict(case),
        "solution": got.solution,
        "threads": says.threads,
        "shared_bytes": says.shared_bytes,
        "registers_limit": says.registers,
        "registers": used.registers,
        "spill_stores": used.spill_stores,
        "spill_loads": used.spill_loads,
        "wrong": [name for name, found in wrong.items() if found],
    }


@cache
def _resources(program: Program, cc: tuple[int, int]) -> Resources:
    return assemble(compile_to_ptx(program, cc), cc)


def assembled(case: Case) -> list[dict[str, Any]]:
    """A row for each kernel of a case; one row that says why not where it failed."""
    try:
        return [compared(case, program) for program in programs(case)]
    except Exception as error:
        return [{**asdict(case), "wrong": ["error"], "error": repr(error)}]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--best", type=int, default=1, help="tilings of each problem")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--dtypes", nargs="*", default=("bfloat16", "float32"))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--json", type=Path, help="record the rows here")
    given = parser.parse_args()
    wanted = [case for case in cases(given.dtypes, given.best) if given.only in case.name]
    rows: list[dict[str, Any]] = []
    end = time.perf_counter() + given.seconds
    pool = ProcessPoolExecutor(given.workers, multiprocessing.get_context("spawn"))
    jobs = [pool.submit(assembled, case) for case in wanted]
    for walked, job in enumerate(as_completed(jobs), 1):
        rows += job.result()
        for row in job.result():
            if row["wrong"]:
                print(_line(row), flush=True)
        late = time.perf_counter() > end
        if given.json and (walked % 20 == 0 or late or walked == len(jobs)):
            write(given.json, {"origin": origin(), **_summary(rows, walked, len(jobs))})
        if late:
            break
    pool.shutdown(cancel_futures=True)
    print(f"{walked} of {len(jobs)} cases, {len(rows)} kernels")
    return 1 if any(row["wrong"] for row in rows) else 0


def _summary(rows: list[dict[str, Any]], walked: int, cases: int) -> dict[str, Any]:
    counts = Counter(f"{row['kernel']} {row['direction']} {row['device']}" for row in rows)
    return {
        "cases": cases,
        "walked": walked,
        "kernels": len(rows),
        "kernels_of": dict(counts),
        "wrong": [row for row in rows if row["wrong"]],
        "rows": rows,
    }


def _line(row: dict[str, Any]) -> str:
    name = Case(*(row[field] for field in Case.__dataclass_fields__)).name
    if "error" in row:
        return f"{name}: {row['error'][:200]}"
    return (
        f"{name}: {', '.join(row['wrong'])}; {row['registers']} of {row['registers_limit']} "
        f"registers, spills {row['spill_stores']} + {row['spill_loads']} bytes, {row['solution']}"
    )


if __name__ == "__main__":
    sys.exit(main())
