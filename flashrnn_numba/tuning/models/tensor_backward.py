"""The tensor-core backward kernel's tiling: integer programs, one for each cluster and batch tile.

Shared memory is counted as the kernel's own layout does (a test compares the two). Registers are an
estimate from above: ptxas must not spill. Costs are nanoseconds of a step, fitted to measurements
on an H200 (docs/notes/tensor_backward.md): what matters is the order of the tilings.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from ...cells import Cell
from ...kernels.tensor_backward import FORMATS, MOST_TURNS, PASSAGE, TILES, Tiling, layout
from ...kernels.tensor_backward_cell import halves
from ...kernels.tensor_layout import grid_exchange, number_bytes
from ..expressions import evaluator, maximum, minimum
from ..hardware import Device
from ..problem import Problem

CLUSTERS = (1, 2, 4, 8, 16)
LARGEST_TILE = 32
MAX_THREADS = 512
MOST_OWN_TILES = 6  # of 16 units, of a block of a grid
MOST_ACCUMULATORS = 8  # tiles of sums that a warp computes before it sends them, in a grid
MAIL = 12  # registers: where partial sums go and come from
MAX_ITEMS = 4  # of a thread: more make long code, and take long to compile
FRAGMENT = 512  # bytes
BASE = 110  # ns: the late half, latency of the barrier, loop
WARP = 10  # ns: for each warp that meets at the barrier
LATENCY = 150  # ns: ldmatrix and a chain of mma
SPLIT = 40  # ns: sums through shared memory, with a barrier
PAIR = 80  # ns: in a cluster, for threads that have two units where others have none
THROUGH_L2 = 1150  # ns: what everybody gives everybody in a grid, however little
UNSURE = 10  # percent added for a grid, whose costs are not measured yet
L2_BYTES = 25  # a ns, into one multiprocessor
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


class Spread(NamedTuple):
    """The blocks that share a head: a cluster or, with `grid`, blocks of a cooperative launch."""

    blocks: int
    grid: bool = False


def spreads(D: int, device: Device, grid: bool) -> list[Spread]:
    """All clusters or grids that a head can be spread over. A grid's blocks have one multiprocessor
    each, and may be a few more than needed, so that warps can share the m tiles evenly."""
    tiles = -(-D // 16)
    if not grid:
        most = min(device.max_cluster, tiles)
        return [Spread(n) for n in CLUSTERS if n <= most]
    found: dict[Spread, None] = {}
    for own, multiple in itertools.product(range(1, MOST_OWN_TILES + 1), (1, 4, 8)):
        needed = -(-tiles // own)
        n = -(-needed // multiple) * multiple
        if 1 < n <= device.sms and -(-tiles // n) == own:
            found[Spread(n, True)] = None
    return list(found)


def groups_at_once(spread: Spread, device: Device, threads: int, shared_bytes: int) -> int:
    """How many heads and batch tiles run at once; 0 if none can."""
    registers = device.registers_allowed(threads)
    if spread.grid:
        fits = device.resident_blocks(threads, registers, shared_bytes) > 0
        return device.sms // spread.blocks if fits else 0
    if spread.blocks > 1:
        return device.resident_clusters(spread.blocks, threads, registers, shared_bytes)
    return device.resident_blocks(threads, min(registers, 255), shared_bytes)


def choose(
    cell: Cell,
    dtype: str,
    B: int,
    H: int,
    D: int,
    device: Device,
    largest_tile: int = LARGEST_TILE,
    grid: bool | None = None,
) -> Choice | None:
    """The best tiling for B rows, or None where no tiling fits. grid -- whether blocks of a grid
    may share a head; None: as the environment says. In float32 they may not: there sums travel in
    16 bits."""
    if dtype not in FORMATS or device.compute_capability < (8, 0) or not cell.recurrent_gates:
        return None
    grid = grid_exchange() if grid is None else grid
    size = number_bytes(dtype)
    return _choose(cell, size, B, H, D, device, largest_tile, grid and size == 2)


@lru_cache(maxsize=1024)
def _choose(
    cell: Cell, size: int, B: int, H: int, D: int, device: Device, largest_tile: int, grid: bool
) -> Choice | None:
    found = _cheapest(cell, size, B, H, D, device, largest_tile, spreads(D, device, False))
    if found is None and grid:
        found = _cheapest(cell, size, B, H, D, device, largest_tile, spreads(D, device, True))
    return found


def _cheapest(
    cell: Cell,
    size: int,
    B: int,
    H: int,
    D: int,
    device: Device,
    largest_tile: int,
    ways: list[Spread],
) -> Choice | None:
    able = [spread for spread in ways if could_hold(cell, size, spread, D, device)]
    best: Choice | None = None
    for spread, tile in itertools.product(able, TILES):
        if tile > largest_tile or (tile > 1 and tile >= 2 * B):
            continue
        if best and _at_least(cell, spread, B, H, D, device, tile) >= best.cost:
            continue
        found = _best(cell, size, B, H, D, device, spread, tile)
        if found and (best is None or found.cost < best.cost):
            best = found
    return best


def could_hold(cell: Cell, size: int, spread: Spread, D: int, device: Device) -> bool:
    """Whether a block's share of R is no more than its registers and shared memory together: most
    clusters of a large head need not be looked at."""
    own = -(-D // (16 * spread.blocks))
    fragments = len(cell.recurrent_gates) * own * own * spread.blocks * size // 2
    return fragments * FRAGMENT <= device.shared_per_block + 4 * device.registers_per_block


def _at_least(cell: Cell, spread: Spread, B: int, H: int, D: int, device: Device, tile: int) -> int:
    """A bound of the cost from below: what a grid's product and exchange take."""
    if not spread.grid:
        return 0
    own = -(-D // (16 * spread.blocks))
    product = len(cell.recurrent_gates) * own * own * spread.blocks * 9 // 8 * max(1, tile // 8)
    waves = -(-(H * -(-B // tile)) // (device.sms // spread.blocks))
    return waves * (BASE + product + LATENCY + THROUGH_L2 + D * tile * 2 // L2_BYTES)


def _best(
    cell: Cell, size: int, B: int, H: int, D: int, device: Device, spread: Spread, tile: int
) -> Choice | None:
    p, cost = model(cell, D, device, spread.blocks, tile, spread.grid, size)
    found = p.ranked(1, cost)
    if not found:
        return None
    ((least, solution),) = found
    tiling = tiling_of(D, spread.blocks, tile, solution, spread.grid, size)
    z = layout(cell, D, tiling, size=size)
    time = in_turns(spread, least, H * -(-B // tile), device, z.threads, z.shared_bytes)
    return Choice(tiling, *time) if time else None


def in_turns(
    spread: Spread, least: int, groups: int, device: Device, threads: int, shared_bytes: int
) -> tuple[int, int] | None:
    """(ns of a step, waves) of so many heads and batch tiles, from the problem's own cost; None
    where none can run."""
    at_once = groups_at_once(spread, device, threads, shared_bytes)
    if not at_once:
        return None
    # blocks that share an SM hide each other's latency
    shared = -(-min(groups, at_once) * spread.blocks // device.sms) - 1
    return least * (100 + 15 * shared) // 100, -(-groups // at_once)


def solution_cost(cost: Any, solution: dict[str, int], p: Problem) -> int:
    variables = list(p.variables)
    (function,) = evaluator([(cost, variables)])
    return int(function(*[solution[v.name] for v in variables]))


def tiling_of(
    D: int,
    cluster: int,
    tile: int,
    solution: dict[str, int],
    grid: bool = False,
    size: int = 2,
) -> Tiling:
    k_steps = -(-D // (16 * cluster)) * size // 2 // solution["k_parts"]
    strip = solution["strip"]
    return Tiling(
        cluster=cluster,
        tile=tile,
        m_tiles=solution["m_tiles"],
        gate_parts=solution["gate_parts"],
        k_parts=solution["k_parts"],
        registers=solution["resident_rows"] * k_steps,
        each=solution["each"],
        ahead=solution["ahead"],
        half=cluster > 1 and size == 2,
        grid=grid,
        strip=0 if strip == solution["m_tiles"] else strip,
    )


def model(
    cell: Cell, D: int, device: Device, cluster: int, tile: int, grid: bool = False, size: int = 2
) -> tuple[Problem, Any]:
    """(the problem, its cost in ns of a step) of one spread and batch tile. size -- bytes of a
    number: 4 with products in TF32."""
    J, G, S = len(cell.recurrent_gates), len(cell.gates), len(cell.states)
    own_tiles = -(-D // (16 * cluster))  # m tiles of a block's own units
    units, m_total, k_total = 16 * own_tiles, own_tiles * cluster, own_tiles * size // 2
    half = cluster > 1 and size == 2  # sums travel in 16 bits
    n_tiles, columns = max(1, tile // 8), min(8, max(2, tile))
    p = Problem()
    m_tiles = p.variable("m_tiles", _m_tiles(m_total, own_tiles, grid))
    gate_parts = p.variable("gate_parts", _divisors(J, 8) if cluster == 1 else [1])
    k_parts = p.variable("k_parts", _divisors(k_total, 4) if cluster == 1 else [1])
    each = p.variable("each", [1, 2], prefer="largest")
    ahead = p.variable("ahead", [2, 4], prefer="largest")
    parts = gate_parts * k_parts
    warps = m_total // m_tiles * parts
    threads = warps * 32
    rows = m_tiles * (J // gate_parts)  # rows of fragments: an m tile and a gate
    k_steps = k_total // k_parts
    resident = p.variable("resident_rows", range(0, 16 * J + 1), prefer="largest")
    strip = p.variable("strip", range(1, 17), prefer="largest")
    staged = (rows - resident) * k_steps
    split = minimum(parts - 1, 1) if cluster == 1 else 1  # 0: sums stay in the accumulators
    if cluster == 1:
        # the accumulators decide how many units a thread has
        p.require((parts > 1) | (each == (2 if tile >= 4 else 1)), name="units of a thread")
    total = units // 16 * n_tiles * 8 * columns * (2 // each)
    pairs = -(-total // threads)
    source = units * n_tiles * columns * (2 if half else 4)
    owners: Any = threads
    turns: Any = 0
    if grid:
        letters = source // 16
        p.require(threads >= 4 * letters, name="threads for a message", unit="threads")
        p.require(m_tiles % strip == 0, name="whole strips")
        p.require((strip * n_tiles <= MOST_ACCUMULATORS) | (strip == 1), name="sums of a strip")
        # a thread takes these letters, some at a time
        turns = -(-cluster // (4 * maximum(threads // (4 * letters), 1)))
        rounds = -(-turns // MOST_TURNS)
        turns = -(-turns // rounds)
        sums = -(-cluster // (4 * rounds * turns)) * source * 2
        owners = minimum(threads, -(-total // 32) * 32)
    else:
        p.require(strip == m_tiles, name="whole strips")
        sums = split * parts * cluster * source * (2 if cluster > 1 else 1)
    number = 4 if size == 2 else 4 * each  # a pair's: two of 16 bits share a word
    ring = pairs * owners * (4 * each * (G + S - 1) + number * (1 + S)) * ahead
    shared = warps * staged * FRAGMENT + 2 * tile * (size * J * units + 16) + sums + ring
    shared = shared + (16 if cluster > 1 and not grid else 0)
    p.require(pairs * each <= MAX_ITEMS, name="units and rows of a thread", unit="items")
    p.require(resident <= rows, name="fragments in registers", unit="rows")
    p.require(threads <= MAX_THREADS, name="threads", unit="threads")
    row = warps * k_steps * FRAGMENT
    passage = maximum(minimum(resident * row, PASSAGE), row) if grid else row
    p.require(
        maximum(shared, passage) <= device.shared_per_block,
        name="shared memory of a block",
        unit="bytes",
    )
    kept = _kept(cell)
    sending = maximum(16, 4 * strip * n_tiles)
    if grid:
        # B and the sums of a strip, or letters; where to and from
        sending = maximum(sending + 2 * n_tiles * J * k_steps, 4 * turns + 4) + MAIL
    need = 4 * resident * k_steps + sending
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
        Spread(cluster, grid), source, split if cluster == 1 else 0, warps, pairs, each,
    )  # fmt: skip
    return p, cost + SHORT * (4 - ahead)


@lru_cache(maxsize=64)
def _kept(cell: Cell) -> int:
    """Values of an item that its early half leaves to its late half."""
    return halves(cell).count


def _cost(
    fragments: Any, staged: Any, n_tiles: int, items: int, weight: int, spread: Spread, source: Any,
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
    if spread.blocks > 1:
        # the early half runs while the sums travel
        received = source * spread.blocks
        exchange = 230 + 3 * spread.blocks + received * 27 // 1000
        if spread.grid:
            exchange = THROUGH_L2 + received // L2_BYTES
        pointwise = maximum(pointwise, exchange) + PAIR * (each - 1)
    step = BASE + product + pointwise + split * SPLIT + WARP * warps
    return step * (100 + UNSURE) // 100 if spread.grid else step


def _m_tiles(total: int, own: int, grid: bool) -> list[int]:
    """m tiles of a warp; in a grid those of whole blocks, or a whole part of a block's own."""
    divisors = _divisors(total, 16)
    return [m for m in divisors if not grid or not m % own or not own % m]


def _divisors(n: int, limit: int) -> list[int]:
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]
