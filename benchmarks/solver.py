"""How fast the tiling solver is: `python -m benchmarks.solver [--json FILE] [--repeat N]`.

Three kinds of problem. "FlashRNN" is the problem that FlashRNN states for its own LSTM kernel on an
H200 (28 variables to refine, two passes, products of up to six variables), in our words, with
ConstrINT's time for its first solution beside it (measured.md section 1; another run of the same
kind of CPU, so a scale and not a race). "FlashRNN's text" is the same in its own words and order
of values, read from the package flashrnn where that is installed (published.py), and skipped where
not. "tiling" is a problem of the size that this package's own kernels pose.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from flashrnn_numba.tuning import Constraint, Device, Expression, Problem, maximum

from . import published

# Head dim x heads -> seconds to ConstrINT's first solution.
CONSTRINT_SECONDS = {(64, 12): 9.7, (256, 3): 13.2, (768, 1): 24.2, (1024, 1): 16.0}

H200 = Device.named("H200")
# What FlashRNN takes of it: a quarter of the threads, and not quite all shared memory.
SMS, REGISTERS, SHARED, THREADS = H200.sms, H200.registers_per_sm, 227_000, 256
LARGE = range(1, (1 << 30) + 1)


def _pass(p: Problem, name: str, head_dim: int, heads: int, batch: int) -> dict[str, Expression]:
    """One pass: "forward" tiles (gates x hidden), "backward" (hidden x gates)."""
    gates, pad, forward = 4, 8, name == "forward"
    rows, depth = (gates * head_dim, head_dim) if forward else (head_dim, gates * head_dim)

    def var(what: str, values: Iterable[int] = LARGE, prefer: str = "smallest") -> Expression:
        return p.variable(f"{name}_{what}", values, prefer)

    def say(what: str, constraint: Constraint, unit: str | None = None) -> None:
        p.require(constraint, name=f"{name}: {what}", unit=unit)

    tile_batch = var("tile_batch", [8, 16, 32], "largest")
    tile_row = var("tile_row", [8, 16, 32], "largest")
    tile_depth = var("tile_depth", [16])
    padding = var("padding", [pad])
    heads_at_once = var("heads_at_once", range(1, heads + 1), "largest")
    row_blocks = var("row_blocks", LARGE, "largest")
    depth_blocks = var("depth_blocks")
    batch_blocks = var("batch_blocks", LARGE, "largest")
    batch_loop = var("batch_loop", LARGE, "largest")
    row_loop = var("row_loop")
    depth_warps = var("depth_warps", LARGE, "largest")
    batch_warps = var("batch_warps", LARGE, "largest")
    cached = var("cached", LARGE, "largest")
    warps, blocks, batch_count = var("warps"), var("blocks"), var("batch_count")
    r_registers, r_shared, state = var("r_registers"), var("r_shared"), var("state_shared")
    used = var("shared_used")

    say("tensor-core shape", tile_batch * tile_row == 256)
    say("registers hold the loop", batch_loop <= 4)
    say("batch split", batch_count == batch_blocks * batch_warps * batch_loop)
    say("warps", depth_warps * batch_warps * rows == warps * row_blocks * row_loop * tile_row)
    say("depth divides", depth % (depth_blocks * depth_warps * tile_depth) == 0)
    say("rows divide", rows % (row_loop * row_blocks * tile_row) == 0)
    say("threads", warps * 32 <= THREADS, "threads")
    say("batch divides", batch % (batch_count * tile_batch) == 0)
    say("blocks fit", blocks <= SMS, "blocks")
    say("blocks", blocks == row_blocks * depth_blocks * batch_blocks * heads_at_once)
    say("heads divide", heads % heads_at_once == 0)
    say(
        "R in registers",
        tile_depth * tile_row * cached * warps == r_registers * batch_warps,
        "values",
    )
    say("R at most whole", depth_blocks * cached * depth_warps * tile_depth <= depth)
    say(
        "registers",
        r_registers
        + warps * tile_batch * tile_row * batch_loop * 2
        + warps * tile_batch * tile_depth
        <= 2 * REGISTERS,
        "16-bit registers",
    )
    whole = gates * head_dim * head_dim + head_dim * padding * (gates if forward else 1)
    in_registers = 2 * r_registers * batch_blocks * row_blocks * depth_blocks
    say("R in shared", 2 * whole * batch_blocks + 64 == r_shared + in_registers, "bytes")
    split = depth_warps * depth_blocks * batch_count * tile_batch
    say("state", 4 * split * rows + 4 * split * row_blocks * padding == state, "bytes")
    say("shared used", r_shared + state == used, "bytes")
    say("shared memory", heads_at_once * used <= SHARED * blocks, "bytes")
    return {
        "blocks": blocks,
        "shared": used,
        "warps": warps,
        "loop": batch_loop * row_loop,
        "depth_blocks": depth_blocks,
        "heads_at_once": heads_at_once,
        "cached": cached,
    }


def flashrnn_lstm(head_dim: int, heads: int, batch: int = 16) -> tuple[Problem, Expression]:
    """FlashRNN's LSTM problem, both passes, and a cost that it does not have."""
    p = Problem()
    cost: Expression | int = 0
    for name in ("forward", "backward"):
        part = _pass(p, name, head_dim, heads, batch)
        # Passes over the heads, work a warp, and reductions across blocks.
        rounds = heads * 64 // (part["heads_at_once"] * part["warps"])
        cost = cost + rounds * part["loop"] * part["depth_blocks"] + part["blocks"]
    assert isinstance(cost, Expression)
    return p, cost


def tiling(head_dim: int, heads: int, batch: int) -> tuple[Problem, Expression]:
    """A fused kernel on a cluster of blocks: 10 variables, 20 constraints, cost in ns a step."""
    p = Problem()
    gates = 4
    batch_tile = p.variable("batch_tile", [8, 16, 32, 64])
    cluster = p.variable("cluster", [1, 2, 4, 8, 16])
    units = p.variable("units", range(8, head_dim + 1, 8))
    warps = p.variable("warps", range(1, 17))
    splits = p.variable("splits", [1, 2, 4, 8])
    m_groups = p.variable("m_groups", range(1, 17))
    m_tiles = p.variable("m_tiles", range(1, 65))
    r_registers = p.variable("r_registers", range(0, 49), prefer="largest")
    r_shared = p.variable("r_shared", range(0, 1025))
    clusters = p.variable("clusters", range(1, 133))
    p.require(units * cluster == head_dim, "units of all blocks")
    p.require(m_groups * splits == warps, "warps")
    p.require(warps * 32 <= 512, "threads", "threads")
    p.require(m_groups * m_tiles * 16 == gates * units, "rows of a block")
    p.require(head_dim % (splits * 16) == 0, "k divides")
    p.require(m_tiles * head_dim == 16 * splits * (r_registers + r_shared), "fragments of R")
    registers = r_registers * 4 + m_tiles * (batch_tile // 8) * 4 + 40
    p.require(registers <= H200.registers_per_thread, "registers a thread", "registers")
    p.require(registers * warps * 32 <= H200.registers_per_block, "registers a block", "registers")
    exchange = 2 * batch_tile * (head_dim + 8) * 2
    partial = splits * batch_tile * gates * units * 4
    weights = r_shared * warps * 512
    p.require(weights + exchange + partial <= H200.shared_per_block, "shared memory", "bytes")
    p.require(batch_tile <= maximum(8, -(-batch // 8) * 8), "batch tile")
    p.require(clusters * batch_tile >= heads * batch, "clusters cover the batch")
    p.require((clusters - 1) * batch_tile < heads * (batch + batch_tile), "no idle clusters")
    p.require(clusters * cluster <= H200.sms, "resident at once", "blocks")
    p.require((cluster < 16) | (clusters <= H200.resident_clusters(16)), "clusters of 16 that fit")
    p.require(batch_tile * units >= warps * 32 // 4, "pointwise work")
    p.require(units % 8 == 0, "whole fragments")
    p.require(m_tiles <= 16, "unrolled rows")
    p.require(r_registers <= m_tiles * head_dim // (16 * splits), "no more than all of R")
    p.require(warps >= 4, "four schedulers")
    p.require(units <= 256, "units a block")
    k_steps = head_dim // (16 * splits)
    product = k_steps * m_tiles * (batch_tile // 8) * -(-warps // 4) * 9
    loads = r_shared * warps * 4
    sync = 25 * splits + minimum_one(cluster) * (180 + 14 * cluster + batch_tile * units // 64)
    pointwise = 60 * -(-batch_tile * units // (warps * 32))
    return p, product + loads + sync + pointwise


def minimum_one(cluster: Expression) -> Expression:
    """0 for a cluster of one block, else 1."""
    return 1 - 1 // cluster


def measure(build: Callable[[], tuple[Problem, Expression]], repeat: int) -> dict[str, object]:
    """Times of a cold solve (statement, model and search), the fastest of `repeat`."""
    feasible, optimal = [], []
    for _ in range(repeat):
        start = time.perf_counter()
        problem, _ = build()
        found = problem.solve()
        feasible.append(time.perf_counter() - start)
        first_nodes = problem.stats.nodes
        start = time.perf_counter()
        problem, cost = build()
        best = problem.solve(minimize=cost)
        optimal.append(time.perf_counter() - start)
        assert (found is None) == (best is None)
    return {
        "variables": len(problem.variables),
        "constraints": len(problem.constraints),
        "feasible_ms": round(min(feasible) * 1e3, 2),
        "feasible_nodes": first_nodes,
        "optimal_ms": round(min(optimal) * 1e3, 2),
        "optimal_nodes": problem.stats.nodes,
        "solution": best,
    }


def measure_text(text: str, repeat: int, prefer: dict[str, str] | None = None) -> dict[str, object]:
    """Fastest of `repeat`: read a problem from ConstrINT's text form, find a first solution."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        problem = Problem.parse(text, prefer)
        assert problem.solve() is not None
        times.append(time.perf_counter() - start)
    return {
        "variables": len(problem.variables),
        "constraints": len(problem.constraints),
        "feasible_ms": round(min(times) * 1e3, 2),
        "feasible_nodes": problem.stats.nodes,
    }


SHAPES = ((64, 12, 16), (256, 3, 16), (512, 1, 16), (768, 1, 16), (1024, 1, 16), (64, 12, 128))


def rows(repeat: int) -> list[dict[str, object]]:
    table: list[dict[str, object]] = []
    for (head_dim, heads), seconds in CONSTRINT_SECONDS.items():
        name = f"FlashRNN LSTM {head_dim} x {heads}"
        row = measure(partial(flashrnn_lstm, head_dim, heads), repeat)
        table.append({"problem": name} | row | {"constrint_ms": seconds * 1e3})
        row = measure_text(flashrnn_lstm(head_dim, heads)[0].to_text(), repeat)
        table.append({"problem": f"{name}, as text"} | row | {"constrint_ms": seconds * 1e3})
    table += published_rows(repeat)
    for shape in SHAPES:
        row = measure(partial(tiling, *shape), repeat)
        table.append({"problem": "tiling {} x {}, B {}".format(*shape)} | row)
    return table


def published_rows(repeat: int) -> list[dict[str, object]]:
    """First solutions of FlashRNN's own text; none where it is not installed."""
    table = []
    for (head_dim, heads), seconds in CONSTRINT_SECONDS.items():
        try:
            text, prefer = published.lstm(head_dim, heads, H200)
        except published.PublishedError as error:
            print(f"FlashRNN's text skipped: {error}")
            return []
        row = measure_text(text, repeat, prefer)
        name = f"FlashRNN's text {head_dim} x {heads}"
        table.append({"problem": name} | row | {"constrint_ms": seconds * 1e3})
    return table


COLUMNS = {
    "problem": "problem",
    "variables": "vars",
    "constraints": "constr",
    "feasible_ms": "feasible ms",
    "feasible_nodes": "nodes",
    "optimal_ms": "optimal ms",
    "optimal_nodes": "nodes",
    "constrint_ms": "ConstrINT ms",
}


def _cpu() -> str:
    """The processor's name and the number of cores."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    models = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    return f"{os.cpu_count()} x {models[0] if models else platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    table = rows(arguments.repeat)
    line = "{:32} {:>5} {:>6} {:>11} {:>6} {:>11} {:>6} {:>13}"
    print(line.format(*COLUMNS.values()))
    for row in table:
        print(line.format(*(str(row.get(column, "")) for column in COLUMNS)))
    if arguments.json:
        record = {"python": platform.python_version(), "cpu": _cpu(), "rows": table}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
