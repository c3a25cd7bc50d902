"""The tensor-core backward kernel's tiling: integer programs, one for each cluster and batch tile.

Shared memory is counted as the kernel's own layout does (a test compares the two). Registers are an
estimate from above: ptxas must not spill. Costs are nanoseconds of a step, fitted to measurements
on an H200 (docs/notes/tensor_backward.md): what matters is the order of the tilings.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...cells import Cell
from ...kernels.tensor_backward import TILES, TYPES, Tiling, layout
from ...kernels.tensor_backward_cell import halves
from ..expressions import evaluator, maximum, minimum
from ..hardware import Device
from ..problem import Problem

CLUSTERS = (1, 2, 4, 8, 16)
LARGEST_TILE = 32
MAX_THREADS = 512
MAX_ITEMS = 4  # of a thread: more make long code, and take long to compile
FRAGMENT = 512  # bytes
BASE = 110  # ns: the late half, latency of the barrier, loop
WARP = 10  # ns: for each warp that meets at the barrier
LATENCY = 150  # ns: ldmatrix and a chain of mma
SPLIT = 40  # ns: sums through shared memory, with a barrier
PAIR = 80  # ns: in a cluster, for threads that have two units where others have none
SHORT = 75  # ns: for each step that inputs are fetched later than 4 steps ahead


@dataclass(frozen=True)
class Choice:
    """A tiling, and what it should take: ns of a step, and how often blocks come in turn."""

    tiling: Tiling
    step: int
    waves: int

    @property
    def cost(self) -> int:
        return self.step * self.waves


@lru_cache(maxsize=1024)
def choose(
    cell: Cell,
    dtype: str,
    B: int,
    H: int,
    D: int,
    device: Device,
    largest_tile: int = LARGEST_TILE,
) -> Choice | None:
    """The best tiling for B rows, or None where no tiling fits."""
    if dtype not in TYPES or device.compute_capability < (8, 0) or not cell.recurrent_gates:
        return None
    best: Choice | None = None
    for cluster in CLUSTERS:
        if cluster > min(device.max_cluster, -(-D // 16)):
            continue
        for tile in TILES:
            if tile > largest_tile or (tile > 1 and tile >= 2 * B):
                continue
            found = _best(cell, B, H, D, device, cluster, tile)
            if found and (best is None or found.cost < best.cost):
                best = found
    return best


def _best(
    cell: Cell, B: int, H: int, D: int, device: Device, cluster: int, tile: int
) -> Choice | None:
    p, cost = model(cell, D, device, cluster, tile)
    found = p.ranked(1, cost)
    if not found:
        return None
    ((least, solution),) = found
    tiling = tiling_of(cell, D, cluster, tile, solution)
    z = layout(cell, D, tiling)
    groups = H * -(-B // tile)
    registers = device.registers_allowed(z.threads)
    if cluster > 1:
        at_once = device.resident_clusters(cluster, z.threads, registers, z.shared_bytes)
    else:
        at_once = device.resident_blocks(z.threads, min(registers, 255), z.shared_bytes)
    if not at_once:
        return None
    # blocks that share an SM hide each other's latency
    shared = -(-min(groups, at_once) * cluster // device.sms) - 1
    step = least * (100 + 15 * shared) // 100
    return Choice(tiling, step, -(-groups // at_once))


def solution_cost(cost: Any, solution: dict[str, int], p: Problem) -> int:
    variables = list(p.variables)
    (function,) = evaluator([(cost, variables)])
    return int(function(*[solution[v.name] for v in variables]))


def tiling_of(cell: Cell, D: int, cluster: int, tile: int, solution: dict[str, int]) -> Tiling:
    k_steps = -(-D // (16 * cluster)) // solution["k_parts"]
    return Tiling(
        cluster=cluster,
        tile=tile,
        m_tiles=solution["m_tiles"],
        gate_parts=solution["gate_parts"],
        k_parts=solution["k_parts"],
        registers=solution["resident_rows"] * k_steps,
        each=solution["each"],
        ahead=solution["ahead"],
        half=cluster > 1,
    )


def model(cell: Cell, D: int, device: Device, cluster: int, tile: int) -> tuple[Problem, Any]:
    """(the problem, its cost in ns of a step) of one cluster size and batch tile."""
    J, G, S = len(cell.recurrent_gates), len(cell.gates), len(cell.states)
    k_tiles = -(-D // (16 * cluster))  # m tiles and k tiles of a block's own units
    units, m_total = 16 * k_tiles, k_tiles * cluster
    n_tiles, columns = max(1, tile // 8), min(8, max(2, tile))
    p = Problem()
    m_tiles = p.variable("m_tiles", _divisors(m_total, 16))
    gate_parts = p.variable("gate_parts", _divisors(J, 8) if cluster == 1 else [1])
    k_parts = p.variable("k_parts", _divisors(k_tiles, 4) if cluster == 1 else [1])
    each = p.variable("each", [1, 2], prefer="largest")
    ahead = p.variable("ahead", [2, 4], prefer="largest")
    parts = gate_parts * k_parts
    warps = m_total // m_tiles * parts
    threads = warps * 32
    rows = m_tiles * (J // gate_parts)  # rows of fragments: an m tile and a gate
    k_steps = k_tiles // k_parts
    resident = p.variable("resident_rows", range(0, 16 * J + 1), prefer="largest")
    staged = (rows - resident) * k_steps
    split = minimum(parts - 1, 1) if cluster == 1 else 1  # 0: sums stay in the accumulators
    if cluster == 1:
        # the accumulators decide how many units a thread has
        p.require((parts > 1) | (each == (2 if tile >= 4 else 1)), name="units of a thread")
    total = units // 16 * n_tiles * 8 * columns * (2 // each)
    pairs = -(-total // threads)
    source = units * n_tiles * columns * (2 if cluster > 1 else 4)
    sums = split * parts * cluster * source * (2 if cluster > 1 else 1)
    ring = pairs * threads * (4 * each * (G + S - 1) + 4 + 4 * S) * ahead
    shared = warps * staged * FRAGMENT + 2 * tile * (2 * J * units + 16) + sums + ring
    shared = shared + (16 if cluster > 1 else 0)
    p.require(pairs * each <= MAX_ITEMS, name="units and rows of a thread", unit="items")
    p.require(resident <= rows, name="fragments in registers", unit="rows")
    p.require(threads <= MAX_THREADS, name="threads", unit="threads")
    p.require(
        maximum(shared, warps * k_steps * FRAGMENT) <= device.shared_per_block,
        name="shared memory of a block",
        unit="bytes",
    )
    kept = _kept(cell)
    need = 4 * resident * k_steps + maximum(16, 4 * m_tiles * n_tiles)
    need = need + pairs * (each * (kept + 2 * S + G) + 10) + 46
    cuts = itertools.product(*(v.domain for v in (m_tiles, gate_parts, k_parts)))
    for n in sorted({m_total // m * gate * k * 32 for m, gate, k in cuts}):
        if n > MAX_THREADS:
            continue
        p.require(
            (threads != n) | (need <= device.registers_allowed(n)),
            name=f"registers a thread at {n} threads",
            unit="registers",
        )
    cost = _cost(
        rows * k_steps * warps, staged * warps, n_tiles, units * tile, kept + G + 2 * S,
        cluster, source, split if cluster == 1 else 0, warps, pairs, each,
    )  # fmt: skip
    return p, cost + SHORT * (4 - ahead)


@lru_cache(maxsize=64)
def _kept(cell: Cell) -> int:
    """Values of an item that its early half leaves to its late half."""
    return halves(cell).count


def _cost(
    fragments: Any, staged: Any, n_tiles: int, items: int, weight: int, cluster: int, source: Any,
    split: Any, warps: Any, pairs: Any, each: Any,
) -> Any:  # fmt: skip
    """Nanoseconds of a step. Fragments and items are those of a block."""
    # an SM's four tensor cores do an mma each in 4.5 ns; fragments come from shared memory in 2.3
    # a warp keeps one of the four busy
    product = maximum(fragments * 9 // 8, fragments * 9 // (2 * warps)) * n_tiles
    product = product + staged * 14 // 10 + LATENCY
    # what each of an SM's four schedulers does for 32 lanes, and one lane for itself
    lanes = maximum(items // 128, 1, pairs * each)
    pointwise = maximum(200 + 50 * lanes, 320 * lanes - 300) * weight // 19
    if cluster > 1:
        # the early half runs while the sums travel
        exchange = 230 + 3 * cluster + source * cluster * 27 // 1000
        pointwise = maximum(pointwise, exchange) + PAIR * (each - 1)
    return BASE + product + pointwise + split * SPLIT + WARP * warps


def _divisors(n: int, limit: int) -> list[int]:
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]
