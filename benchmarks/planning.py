"""How long planning takes, how well the models rank: python -m benchmarks.planning [--json FILE].

Solve times of each kernel's tiling problem for a set of shapes, anywhere. With --measure, on a GPU:
for each model with a kernel that can be measured, all its tilings (or --tilings of them: the best
half of that, and a spread over the others) are run. The table tells the rank correlation between
the model's cost and the measured times, and how the chosen tiling compares with the best.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.tuning import Device, DeviceNotFoundError
from flashrnn_numba.tuning.candidates import NODES, Candidate, Setting, evaluate_model
from flashrnn_numba.tuning.models.common import DIRECTIONS, Solution
from flashrnn_numba.tuning.models.registry import models

from .record import origin, write

# head dimension, heads, batch
SHAPES = ((64, 12, 16), (64, 12, 128), (128, 6, 16), (256, 3, 16), (512, 1, 16), (768, 1, 16))
MORE = ((768, 1, 128), (1024, 1, 16), (2048, 1, 16))
DTYPES = ("bfloat16", "float32")
BEST, MOST = 10, 3000  # tilings looked at: the best of each problem, and so many others in all


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
    """A model that cuts its problem has its statements solved one after the other."""
    found, totals = None, []
    slowest = float("inf")
    for _ in range(repeat):
        fresh = dataclasses.replace(setting)
        start = time.perf_counter()
        count = len(fresh.statements)
        each = (time.perf_counter() - start) / count  # to state one of them
        times = []
        for statement in fresh.statements:
            start = time.perf_counter()
            statement.best(1, NODES)
            times.append(each + time.perf_counter() - start)
        totals.append(sum(times))
        slowest = min(slowest, max(times))
    found = evaluate_model(setting.model, setting.task, setting.device, setting.direction)
    problem = fresh.statements[0].problem
    return {
        "problems": count,
        "variables": len(problem.variables),
        "constraints": len(problem.constraints),
        "ms": round(1e3 * min(totals), 2),
        "slowest_ms": round(1e3 * slowest, 2),
        "nodes": sum(s.problem.stats.nodes for s in fresh.statements),
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


# -- on a GPU ------------------------------------------------------------------------------------


def compare(device: Device, tilings: int, runs: int) -> list[dict[str, Any]]:
    """Model against measurement, for each kernel and shape."""
    from flashrnn_numba.tuning.measure import RUNNERS

    rows = []
    for D, H, B in SHAPES:
        for dtype in DTYPES:
            task = Task(get_cell("lstm"), B, 1024, H, D, dtype, "cupy")
            for model in models():
                for direction in DIRECTIONS:
                    if model.name not in RUNNERS:
                        continue
                    found = evaluate_model(model, task, device, direction)
                    if isinstance(found, Candidate):
                        rows.append(_compare(found, tilings, runs))
                        print(_line(rows[-1]), flush=True)
    return rows


def _compare(chosen: Candidate, tilings: int, runs: int) -> dict[str, Any]:
    from flashrnn_numba.tuning.measure import measurer

    setting = chosen.setting
    every = _every(setting)
    sample = _spread(every, tilings)
    if chosen.solution not in sample:
        sample.insert(0, chosen.solution)
    seconds = measurer(setting, runs=runs)
    measured, times, failed = [], [], []
    for solution in sample:
        try:
            times.append(seconds(solution))
            measured.append(solution)
        except Exception as error:  # a tiling that does not run is a finding, not the end
            failed.append({"solution": solution, "error": repr(error)})
    if chosen.solution not in measured:
        return {**_name(setting), "failed": failed}
    mine, best = times[measured.index(chosen.solution)], min(times)
    costs = [_cost(setting, solution) for solution in measured]
    return {
        **_name(setting),
        "tilings": len(every),
        "measured": len(times),
        "failed": failed,
        "rank_correlation": round(spearman(costs, times), 3),
        "chosen_ms": round(1e3 * mine, 3),
        "best_ms": round(1e3 * best, 3),
        "chosen_over_best": round(mine / best, 3),
        "predicted_ms": round(1e3 * chosen.seconds, 3),
        "chosen": chosen.solution,
        "best": measured[times.index(best)],
    }


def _every(setting: Setting) -> list[Solution]:
    """All tilings, best first; of huge problems the best ones and MOST others."""
    found = [row for s in setting.statements for row in s.best(BEST, NODES)]
    known = {tuple(solution.items()) for _, solution in found}
    for s in setting.statements:
        for own in itertools.islice(s.problem.solutions(), MOST // len(setting.statements)):
            solution = s.fixed | own
            cost = s.value(solution)
            if cost is not None and tuple(solution.items()) not in known:
                found.append((cost, solution))
    return [solution for _, solution in sorted(found, key=lambda row: row[0])]


def _cost(setting: Setting, solution: Solution) -> int:
    statement = setting.statement(solution)
    cost = None if statement is None else statement.value(solution)
    assert cost is not None
    return cost


def _spread(every: Sequence[Solution], count: int) -> list[Solution]:
    """The best few, where the choice is made, and the rest evenly over the order."""
    if not count:
        return list(every)
    head = list(every[: count // 2])
    rest = every[len(head) :]
    step = max(1, len(rest) // max(1, count - len(head)))
    return head + list(rest[::step])[: count - len(head)]


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """The rank correlation of two lists; ties share their mean rank."""
    x, y = _ranks(a), _ranks(b)
    n, middle = len(x), (len(x) - 1) / 2
    over = sum((x[i] - middle) * (y[i] - middle) for i in range(n))
    under = sum((v - middle) ** 2 for v in x) * sum((v - middle) ** 2 for v in y)
    return over / under**0.5 if under else float("nan")


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(ordered.index(v) + len(ordered) - 1 - ordered[::-1].index(v)) / 2 for v in values]


def _line(row: dict[str, Any]) -> str:
    name = f"{row['kernel']} {row['direction']} {row['shape']}"
    if "rank_correlation" not in row and "ms" not in row:
        return f"{name:52} the chosen tiling did not run: {row['failed'][0]['error']}"
    if "ms" in row:
        return (
            f"{name:52} {row['ms']:8.2f} ms, slowest {row['slowest_ms']:.2f}, {row['nodes']} nodes"
        )
    return (
        f"{name:52} rank {row['rank_correlation']:6.2f}  chosen {row['chosen_ms']:.3f} ms, "
        f"best {row['best_ms']:.3f} ms ({row['chosen_over_best']:.2f}) of {row['measured']}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="H200", help="by name, for the solve times")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help="on the GPU of this machine")
    parser.add_argument("--tilings", type=int, default=40, help="measured, of each problem; 0: all")
    parser.add_argument("--runs", type=int, default=5, help="of each tiling")
    parser.add_argument("--json", type=Path, help="record the table here")
    arguments = parser.parse_args()
    if arguments.measure:
        try:
            device = Device.query()
        except DeviceNotFoundError as error:
            print(f"skipped: nothing to measure on ({error})")
            return 0
        result = {"compared": compare(device, arguments.tilings, arguments.runs)}
    else:
        device = Device.named(arguments.device)
        table = solve_times(device, arguments.repeat)
        print("\n".join(map(_line, table)))
        plans = plan_times(device, arguments.repeat)
        for name, ms in plans.items():
            print(f"{'plan and explain ' + name:52} {ms:8.1f} ms")
        result = {"planned_for": device.name, "solved": table, "plan_ms": plans}
    if arguments.json:
        write(arguments.json, {"origin": origin()} | result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
