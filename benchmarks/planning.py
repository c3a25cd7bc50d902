"""How long planning takes, how well the models rank: python -m benchmarks.planning [--json FILE].

Solve times of each kernel's tiling problem for a set of shapes, anywhere. With --measure, on a GPU:
for the cases of ranking.py, --tilings of each are run: the best half of that number by the model,
and a spread over the others. The table tells the rank correlation between the model's cost and the
measured times, and how the chosen tiling compares with the best.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.tuning import Device, DeviceNotFoundError
from flashrnn_numba.tuning.candidates import Candidate, Setting, evaluate_model
from flashrnn_numba.tuning.models.common import DIRECTIONS
from flashrnn_numba.tuning.models.registry import models

from .record import origin, write

# head dimension, heads, batch
SHAPES = ((64, 12, 16), (64, 12, 128), (128, 6, 16), (256, 3, 16), (512, 1, 16), (768, 1, 16))
MORE = ((768, 1, 128), (1024, 1, 16), (2048, 1, 16))
DTYPES = ("bfloat16", "float32")


def solve_times(device: Device, repeat: int) -> list[dict[str, Any]]:
    """The fastest of `repeat` cold solves (statement, model and search), to proven optimality."""
    rows = []
    for D, H, B in (*SHAPES, *MORE):
        for dtype in DTYPES:
            task = Task(get_cell("lstm"), B, 1024, H, D, dtype, "cupy")
            for model in models():
                for direction in DIRECTIONS:
                    if model.refuses(task, device, direction) is None:
                        setting = Setting(model, task, device, direction)
                        rows.append(_name(setting) | _solve(setting, repeat))
    return rows


def _name(setting: Setting) -> dict[str, Any]:
    t = setting.task
    shape = f"{t.cell.name} {t.dtype} {t.D} x {t.H}, B {t.B}"
    return {"kernel": setting.model.name, "direction": setting.direction, "shape": shape}


def _solve(setting: Setting, repeat: int) -> dict[str, Any]:
    """All statements of a model, as far as their bounds leave them to be searched."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        found = evaluate_model(setting.model, setting.task, setting.device, setting.direction)
        times.append(time.perf_counter() - start)
    statements = found.setting.statements
    searched = [s for s in statements if s.stated]
    return {
        "problems": len(statements),
        "searched": len(searched),
        "variables": max(len(s.problem.variables) for s in searched),
        "constraints": max(len(s.problem.constraints) for s in searched),
        "ms": round(1e3 * min(times), 2),
        "nodes": sum(s.nodes for s in searched),
        "rows": sum(s.problem.stats.rows for s in searched),
        "solution": found.solution if isinstance(found, Candidate) else None,
    }


def plan_times(device: Device, repeat: int) -> dict[str, float]:
    """A whole plan with its explanation, in this process."""
    from flashrnn_numba import plan

    found = {}
    for D, H, B in ((64, 12, 16), (768, 1, 16), (2048, 1, 16)):
        times = []
        for _ in range(repeat):
            start = time.perf_counter()
            plan(B=B, T=1024, H=H, D=D, device=device).explain()
            times.append(time.perf_counter() - start)
        found[f"lstm bfloat16 {D} x {H}, B {B}"] = round(1e3 * min(times), 1)
    return found


def _line(row: dict[str, Any]) -> str:
    name = f"{row['kernel']} {row['direction']} {row['shape']}"
    times = f"{row['ms']:8.2f} ms, {row['searched']} of {row['problems']} problems"
    # small problems are tables of rows, without branches
    return f"{name:52} {times}, {row['rows']} rows, {row['nodes']} nodes"


def measure(arguments: argparse.Namespace) -> int:
    """The models beside measurements on this machine's GPU."""
    # brings kernels along, which the solve times do without
    from . import ranking

    try:
        device = Device.query()
    except DeviceNotFoundError as error:
        print(f"skipped: nothing to measure on ({error})")
        return 0
    facts = {"origin": origin(), "gpu": device.name, "driver": device.driver}

    def done(rows: list[dict[str, Any]]) -> None:
        print(ranking.line(rows[-1]), flush=True)
        if arguments.json:  # as far as it got, should it be stopped
            write(arguments.json, facts | {"compared": rows})

    cases = [case for case in ranking.CASES if arguments.only in case.name]
    limits = arguments.tilings, arguments.runs, arguments.seconds
    ranking.compare(device, cases, *limits, done)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="H200", help="by name, for the solve times")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help="on the GPU of this machine")
    parser.add_argument("--tilings", type=int, default=24, help="measured of each case; 0: all")
    parser.add_argument("--runs", type=int, default=5, help="of each tiling")
    parser.add_argument("--seconds", type=float, help="stop measuring after so many")
    parser.add_argument("--only", default="", help="measure cases with this in their name")
    parser.add_argument("--json", type=Path, help="record the table here")
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments)
    device = Device.named(arguments.device)
    table = solve_times(device, arguments.repeat)
    print("\n".join(map(_line, table)))
    plans = plan_times(device, arguments.repeat)
    for name, ms in plans.items():
        print(f"{'plan and explain ' + name:52} {ms:8.1f} ms")
    if arguments.json:
        facts = {"origin": origin(), "planned_for": device.name}
        write(arguments.json, facts | {"solved": table, "plan_ms": plans})
    return 0


if __name__ == "__main__":
    sys.exit(main())
