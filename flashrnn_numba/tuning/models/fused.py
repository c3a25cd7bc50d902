"""The portable fused kernel's tiling as an integer program.

Shared memory is counted by the kernel's own arithmetic (kernels/fused_layout.py). Registers and
cycles are estimates: registers are set so that ptxas finds no reason to spill (a test assembles
the tilings that come out), cycles (fused_time.py) were fitted to measured times. The batch is no
part of the problem: one kernel serves every batch size, with as many of its `rows` as a block
needs. So the cost is that of several batch sizes together.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from ...cells import Cell
from ...kernels.formats import FORMATS
from ...kernels.fused_layout import Direction, Tiling, layout
from ..expressions import maximum
from ..hardware import Device
from ..problem import Problem
from . import fused_time
from .fused_time import Share

PER_THREAD = 4  # units of a thread at most: each takes registers for its states
# not 768: ptxas has 80 registers then, and spilled up to 52 bytes in some tilings whatever the
# estimate; without it a step takes 1.4 % more at most, by the model
THREADS = (32, 64, 128, 256, 512, 1024)
REGISTERS = {32: 255, 64: 255, 128: 255, 256: 240, 512: 128, 1024: 64}

ROOM = 120  # registers that ptxas takes where it may, however few would do, beside lines of R
# batch size -> what a cycle counts there. 16 decides: at 128, where a step takes 3 to 8 times as
# many cycles, half of them must not outweigh a tenth of those at 16. What is left to the others is
# the choice among tilings that are within some percent of each other at 16.
BATCHES = {1: 1, 16: 40, 128: 1}


@lru_cache(maxsize=1024)
def choose_tiling(
    cell: Cell, dtype: str, D: int, H: int, direction: Direction, device: Device
) -> Tiling | None:
    """The best tiling, or None where R of one head does not fit into a block's shared memory."""
    if not fits(cell, dtype, D, direction, device):
        return None
    problem, cost = model(cell, dtype, D, H, direction, device)
    solution = problem.solve(minimize=cost)
    return Tiling(**solution) if solution else None


def fits(cell: Cell, dtype: str, D: int, direction: Direction, device: Device) -> bool:
    """Whether the smallest tiling keeps within the shared memory and the threads of a block."""
    threads = device.threads_per_block
    least = Tiling(heads=1, rows=1, row_tile=1, unit_tile=1, split=1, threads=threads)
    z = layout(cell, dtype, D, direction, least)
    return z.shared_bytes <= device.shared_per_block and z.per_thread <= PER_THREAD


def largest_head(cell: Cell, dtype: str, direction: Direction, device: Device) -> int:
    """The largest D that has a tiling."""
    low, high = 0, PER_THREAD * device.threads_per_block + 1
    while high - low > 1:
        middle = (low + high) // 2
        possible = fits(cell, dtype, middle, direction, device)
        low, high = (middle, high) if possible else (low, middle)
    return low


def model(
    cell: Cell, dtype: str, D: int, H: int, direction: Direction, device: Device
) -> tuple[Problem, Any]:
    """(the problem, its cost: cycles, weighed over batch sizes)."""
    p = Problem()
    z = SimpleNamespace(
        heads=p.variable(
            "heads", [n for n in (1, 2, 4, 8, 16) if (n <= max(1, H) and n * D <= 256) or n == 1]
        ),
        rows=p.variable("rows", [1, 2, 4, 8, 16]),
        row_tile=p.variable("row_tile", [1, 2, 4]),
        unit_tile=p.variable("unit_tile", [1, 2, 4]),
        split=p.variable("split", [1, 2, 4, 8]),
        threads=p.variable("threads", [n for n in THREADS if n <= device.threads_per_block]),
    )
    s = layout(cell, dtype, D, direction, z)
    p.require(z.rows % z.row_tile == 0, name="rows come in tiles")
    p.require(
        s.shared_bytes <= device.shared_per_block, name="shared memory of a block", unit="bytes"
    )
    p.require(s.product_threads <= z.threads, name="threads of the product", unit="threads")
    p.require(s.per_thread <= PER_THREAD, name="units a thread", unit="units")
    for threads, limit in REGISTERS.items():
        limit = limit * device.registers_per_thread // 255
        p.require(
            (z.threads != threads) | (registers(cell, dtype, direction, z, s) <= limit),
            name=f"registers a thread at {threads} threads",
            unit="registers",
        )
    return p, cost(cell, dtype, H, direction, device, z, s)


def registers(cell: Cell, dtype: str, direction: Direction, z: Any, s: Any) -> Any:
    """About the registers that a thread cannot do without: with more allowed, ptxas takes more."""
    form = FORMATS[dtype]
    wide = form.real_bytes // 4
    gates, states = len(cell.gates), len(cell.states)
    product = z.row_tile * z.unit_tile * s.lines * wide + z.row_tile * form.vector * wide
    product = product + form.words * form.word_bytes // 4 + 4 * z.unit_tile + 12
    if direction == "forward":
        owned = len(cell.input_gates) * wide + len(cell.bias_gates) * wide + states * wide + 12
        cell_needs = (gates + 2 * states) * wide + 14 * wide + 12
    else:
        owned = (gates + 4 * states) * wide + 12
        cell_needs = (2 * gates + 3 * states) * wide + 14 * wide + 12
        # gates that not all of Wx, R and b feed have sums of their own
        apart = 2 * gates - len(cell.input_gates) - len(cell.recurrent_gates)
        owned = owned + 4 * apart * wide
    division = 16 if s.D & (s.D - 1) else 0  # of indices, by no power of 2
    return 16 + division + s.per_thread * owned + maximum(product, cell_needs)


def resident(cell: Cell, dtype: str, direction: Direction, device: Device, z: Any, s: Any) -> Any:
    """Blocks of an SM at once."""
    needed = registers(cell, dtype, direction, z, s) * 9 // 8  # where ptxas may
    needed = maximum(needed, ROOM + z.unit_tile * s.lines)
    return fused_time.blocks_per_sm(device, z.threads, needed, s.shared_bytes)


def cost(
    cell: Cell, dtype: str, H: int, direction: Direction, device: Device, z: Any, s: Any
) -> Any:
    """Cycles of a step at some batch sizes together: one tiling is for all of them."""
    per_sm, total = resident(cell, dtype, direction, device, z, s), 0
    for B, weight in BATCHES.items():
        own = fused_time.share(device, z, per_sm, B, H)
        total += weight * own.waves * step(cell, dtype, direction, device, z, s, own)
    return total


def step(
    cell: Cell, dtype: str, direction: Direction, device: Device, z: Any, s: Any, own: Share
) -> Any:
    """Cycles of one time step of one wave."""
    product = fused_time.product(cell, dtype, device, z, s, own)
    return product + fused_time.pointwise(cell, dtype, direction, z, s, own)
