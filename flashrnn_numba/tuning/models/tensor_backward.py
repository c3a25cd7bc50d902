"""The tensor-core backward kernel's tiling: integer programs, one for each cluster and batch tile.

Shared memory is counted as the kernel's own layout does (a test compares the two). Registers are an
estimate from above: ptxas must not spill. Costs are an H200's nanoseconds of a step
(tensor_costs.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

from ...cells import Cell
from ...kernels.tensor_backward_cell import halves
from ...kernels.tensor_backward_layout import (
    LARGEST_TILE,
    MOST_TURNS,
    PASSAGE,
    TILES,
    Tiling,
    layout,
)
from ...kernels.tensor_layout import FORMATS, number_bytes
from ..hardware import Device
from ..problem import Problem
from . import tensor_costs as costs
from .common import Solution, Statement, cheapest
from .tensor_costs import KINDS, Spread, maximum, minimum

CLUSTERS = (1, 2, 4, 8, 16)
MAX_THREADS = 512
MOST_OWN_TILES = 6  # of 16 units, of a block of a grid
MOST_ACCUMULATORS = 8  # tiles of sums that a warp computes before it sends them, in a grid
MAIL = 12  # registers: where partial sums go and come from
# registers through L2: fragments that ptxas loads from shared memory early; of strips, and of each
# beyond four
AHEAD_OF_USE, STRIPS, MANY_STRIPS = 28, 12, 12
LONE = 36  # registers with a lone gate and several pairs, before Hopper
SM_100 = 24  # registers that ptxas takes more there than for the cards before, at least
MAX_ITEMS = 4  # of a thread: more make long code, and take long to compile
FRAGMENT = 512  # bytes


@dataclass(frozen=True)
class Choice:
    """A tiling, and what it should take: ns of a step, and how often blocks come in turn."""

    tiling: Tiling
    step: int
    waves: int


def spreads(D: int, device: Device, size: int = 2) -> list[Spread]:
    """All clusters and grids that a head can be spread over. A grid's blocks have one
    multiprocessor each, and may be a few more than needed, so that warps can share the m tiles
    evenly. Sums travel through L2 in 16 bits, so that products in TF32 (size 4) stay in clusters.
    """
    tiles = -(-D // 16)
    most = min(device.max_cluster, tiles)
    found = {Spread(n): None for n in CLUSTERS if n <= most}
    for own, multiple in itertools.product(range(1, MOST_OWN_TILES + 1), (1, 4, 8)):
        needed = -(-tiles // own)
        n = -(-needed // multiple) * multiple
        if 1 < n <= device.sms and -(-tiles // n) == own and size == 2:
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
) -> Choice | None:
    """The best tiling for B rows, or None where no tiling fits."""
    if dtype not in FORMATS or device.compute_capability < (8, 0) or not cell.recurrent_gates:
        return None
    return _choose(cell, number_bytes(dtype), B, H, D, device, largest_tile)


@lru_cache(maxsize=1024)
def _choose(
    cell: Cell, size: int, B: int, H: int, D: int, device: Device, largest_tile: int
) -> Choice | None:
    found = cheapest(statements(cell, B, H, D, device, size, largest_tile))
    if not found:
        return None
    cost, solution = found[0]
    tiling = tiling_of(D, solution)
    z = layout(cell, D, tiling, size=size)
    spread = Spread(tiling.cluster, tiling.grid)
    waves = -(
        -(H * -(-B // tiling.tile)) // groups_at_once(spread, device, z.threads, z.shared_bytes)
    )
    return Choice(tiling, cost // waves, waves)


def statements(
    cell: Cell,
    B: int,
    H: int,
    D: int,
    device: Device,
    size: int = 2,
    largest_tile: int = LARGEST_TILE,
    kinds: Container[str] = KINDS,
) -> tuple[Statement, ...]:
    """One for each spread and batch tile. Where no spread holds R, those of the most blocks remain,
    to tell why."""
    tiles = [n for n in TILES if n <= largest_tile and (n == 1 or n < 2 * B)]
    every = [s for s in spreads(D, device, size) if s.kind in kinds]
    able = [s for s in every if could_hold(cell, size, s, D, device)]
    shape = cell, B, H, D, device
    return tuple(
        statement(*shape, spread, tile, size)
        for spread in able or sorted(every)[-1:]
        for tile in tiles
    )


def statement(
    cell: Cell, B: int, H: int, D: int, device: Device, spread: Spread, tile: int, size: int = 2
) -> Statement:
    fixed = {"cluster": spread.blocks, "tile": tile, "grid": int(spread.grid), "size": size}
    groups = H * -(-B // tile)

    def total(own: Solution) -> int | None:
        """Nanoseconds of a step of all waves."""
        z = layout(cell, D, tiling_of(D, fixed | own), size=size)
        at_once = groups_at_once(spread, device, z.threads, z.shared_bytes)
        step = step_ns(cell, D, device, fixed | own)
        return _in_turns(step, groups, at_once, spread, device)

    return Statement(
        partial(model, cell, D, device, spread, tile, size),
        fixed,
        total,
        _at_least(cell, groups, D, device, spread, tile, size),
        alike=(spread, tile, size, -(-D // (16 * spread.blocks))),
    )


def step_ns(cell: Cell, D: int, device: Device, solution: Solution) -> int:
    """Of one wave, as on an H200."""
    spread, z = Spread(solution["cluster"], bool(solution["grid"])), SimpleNamespace(**solution)
    block = Block.of(cell, D, spread, z.tile, z.size)
    s = sizes(cell, spread, z.tile, z.size, block, z)
    return int(costs.backward(spread, _work(block, z.tile, z, s), costs.Pace.of(device)))


def _in_turns(step: int, groups: int, at_once: int, spread: Spread, device: Device) -> int | None:
    if not at_once:
        return None
    blocks_per_sm = -(-min(groups, at_once) * spread.blocks // device.sms)
    ns, waves = costs.in_turns(step, groups, at_once, blocks_per_sm)
    return ns * waves


def _at_least(
    cell: Cell, groups: int, D: int, device: Device, spread: Spread, tile: int, size: int
) -> int:
    """A bound of the cost from below: no fragment in shared memory, all threads at work, and no
    more blocks on an SM than their registers allow."""
    block = Block.of(cell, D, spread, tile, size)
    fragments = block.m_total * block.k_total * len(cell.recurrent_gates)
    found, pace = [], costs.Pace.of(device)
    one = groups_at_once(spread, device, 32, device.shared_per_block) or 1
    for warps in _possible_warps(block.m_total, spread.blocks):
        z = SimpleNamespace(
            **{"fragments": fragments, "staged": 0, "warps": warps, "n_tiles": block.n_tiles},
            **{"items": block.units * tile, "lanes": 1, "weight": block.weight},
            **{"source": block.source, "split": 0, "idle": 0, "strips": 1, "turns": 1, "ahead": 4},
        )
        z.lanes = block.units * block.n_tiles * block.columns // (32 * warps)
        step = costs.backward(spread, z, pace)
        at_most = groups_at_once(spread, device, 32 * warps, 0)
        counts = range(one, at_most + 1, one)
        every = [_in_turns(step, groups, at_once, spread, device) for at_once in counts]
        found += [value for value in every if value]
    return min(found, default=0)


def could_hold(cell: Cell, size: int, spread: Spread, D: int, device: Device) -> bool:
    """Whether there are warps that share its m tiles evenly, and a block's share of R is no more
    than its shared memory and registers: most ways to spread a large head need not be looked at."""
    own, gates = -(-D // (16 * spread.blocks)), len(cell.recurrent_gates)
    total = own * spread.blocks
    if all(32 * (total // m) > MAX_THREADS for m in _m_tiles(total, own, spread.grid)):
        return False
    fragments = gates * own * total * size // 2
    shared = device.shared_per_block - 2 * (16 * size * gates * own + 16)
    return fragments * FRAGMENT <= shared + _room(cell, spread.grid, device)


@lru_cache(maxsize=256)
def _room(cell: Cell, grid: bool, device: Device) -> int:
    """Bytes of registers that are left of a block's beside what a thread cannot do without: as in
    `registers`, with one pair of one unit and two batch rows."""
    fixed = 16 + _kept(cell) + 2 * len(cell.states) + len(cell.gates) + 10 + 46 + MAIL * grid
    counts = range(32, MAX_THREADS + 1, 32)
    return max(0, *(4 * n * (device.registers_allowed(n) - fixed) for n in counts))


def tiling_of(D: int, solution: Solution) -> Tiling:
    z = SimpleNamespace(**solution)
    k_steps = -(-D // (16 * z.cluster)) * z.size // 2 // z.k_parts
    return Tiling(
        cluster=z.cluster,
        tile=z.tile,
        m_tiles=z.m_tiles,
        gate_parts=z.gate_parts,
        k_parts=z.k_parts,
        registers=z.resident_rows * k_steps,
        each=z.each,
        ahead=z.ahead,
        half=z.cluster > 1 and z.size == 2,
        grid=bool(z.grid),
        strip=0 if z.strip == z.m_tiles else z.strip,
    )


@dataclass(frozen=True)
class Block:
    """What a spread and a batch tile leave to a block, whatever else is chosen."""

    own_tiles: int  # m tiles of its own units
    units: int
    padded: bool  # the head's units do not fill all blocks
    m_total: int
    k_total: int
    n_tiles: int
    columns: int
    number: int  # bytes of a sum
    source: int  # bytes that it sends another
    weight: int  # values that an item's early half deals with

    @staticmethod
    def of(cell: Cell, D: int, spread: Spread, tile: int, size: int) -> Block:
        own = -(-D // (16 * spread.blocks))
        number = 2 if spread.blocks > 1 and size == 2 else 4
        n_tiles, columns = max(1, tile // 8), min(8, max(2, tile))
        source = 16 * own * n_tiles * columns * number
        weight = _kept(cell) + len(cell.gates) + 2 * len(cell.states)
        cut = own * spread.blocks, own * size // 2, n_tiles, columns
        padded = 16 * own * spread.blocks != D
        return Block(own, 16 * own, padded, *cut, number, source, weight)


def model(
    cell: Cell, D: int, device: Device, spread: Spread, tile: int, size: int = 2
) -> tuple[Problem, Any]:
    """(the problem, its cost in ns of a step) of one spread and batch tile. size -- bytes of a
    number: 4 with products in TF32."""
    J, grid, alone = len(cell.recurrent_gates), spread.grid, spread.blocks == 1
    block, p = Block.of(cell, D, spread, tile, size), Problem()
    z = SimpleNamespace(
        m_tiles=p.variable("m_tiles", _m_tiles(block.m_total, block.own_tiles, grid)),
        gate_parts=p.variable("gate_parts", _divisors(J, 8) if alone else [1]),
        k_parts=p.variable("k_parts", _divisors(block.k_total, 4) if alone else [1]),
        each=p.variable("each", [1, 2], prefer="largest"),
        ahead=p.variable("ahead", [2, 4], prefer="largest"),
        resident_rows=p.variable("resident_rows", range(0, 16 * J + 1), prefer="largest"),
        strip=p.variable("strip", range(1, 17), prefer="largest"),
    )
    s = sizes(cell, spread, tile, size, block, z)
    if alone:
        # the accumulators decide how many units a thread has
        p.require((s.parts > 1) | (z.each == (2 if tile >= 4 else 1)), name="units of a thread")
    if grid:
        p.require(s.threads >= 4 * s.letters, name="threads for a message", unit="threads")
        p.require(z.m_tiles % z.strip == 0, name="whole strips")
        sums = z.strip * block.n_tiles <= MOST_ACCUMULATORS
        p.require(sums | (z.strip == 1), name="sums of a strip")
    else:
        p.require(z.strip == z.m_tiles, name="whole strips")
    p.require(s.pairs * z.each <= MAX_ITEMS, name="units and rows of a thread", unit="items")
    p.require(z.resident_rows <= s.rows, name="fragments in registers", unit="rows")
    p.require(s.threads <= MAX_THREADS, name="threads", unit="threads")
    p.require(
        s.shared_bytes <= device.shared_per_block, name="shared memory of a block", unit="bytes"
    )
    need = registers(cell, device, spread, block, z, s)
    cuts = itertools.product(*(v.domain for v in (z.m_tiles, z.gate_parts, z.k_parts)))
    for n in sorted({block.m_total // m * gate * k * 32 for m, gate, k in cuts}):
        if n > MAX_THREADS:
            continue
        p.require(
            (s.threads != n) | (need <= device.registers_allowed(n)),
            name=f"registers a thread at {n} threads",
            unit="registers",
        )
    return p, costs.backward(spread, _work(block, tile, z, s), costs.Pace.of(device))


def sizes(
    cell: Cell, spread: Spread, tile: int, size: int, block: Block, z: Any
) -> SimpleNamespace:
    """What follows from a tiling, for numbers and for variables."""
    J, G, S = len(cell.recurrent_gates), len(cell.gates), len(cell.states)
    alone, source, units = spread.blocks == 1, block.source, block.units
    parts = z.gate_parts * z.k_parts
    warps = block.m_total // z.m_tiles * parts
    threads = warps * 32
    rows = z.m_tiles * (J // z.gate_parts)  # rows of fragments: an m tile and a gate
    k_steps = block.k_total // z.k_parts
    staged = (rows - z.resident_rows) * k_steps
    split = minimum(parts - 1, 1) if alone else 1  # 0: sums stay in the accumulators
    total = units // 16 * block.n_tiles * 8 * block.columns * (2 // z.each)
    pairs = -(-total // threads)
    owners: Any = threads
    turns: Any = 0
    waited: Any = 0
    letters = source // 16
    if spread.grid:
        # a thread takes these letters, some at a time
        turns = -(-spread.blocks // (4 * maximum(threads // (4 * letters), 1)))
        rounds = -(-turns // MOST_TURNS)
        turns = -(-turns // rounds)
        waited = rounds * turns
        sums = -(-spread.blocks // (4 * rounds * turns)) * source * 2
        owners = minimum(threads, -(-total // 32) * 32)
    else:
        sums = split * parts * spread.blocks * source * (1 if alone else 2)
    number = 4 if size == 2 else 4 * z.each  # a pair's: two of 16 bits share a word
    ring = pairs * owners * (4 * z.each * (G + S - 1) + number * (1 + S)) * z.ahead
    shared = warps * staged * FRAGMENT + 2 * tile * (size * J * units + 16) + sums + ring
    shared = shared + (0 if alone or spread.grid else 16)
    row = warps * k_steps * FRAGMENT
    passage = maximum(minimum(z.resident_rows * row, PASSAGE), row) if spread.grid else row
    return SimpleNamespace(
        parts=parts,
        warps=warps,
        threads=threads,
        rows=rows,
        k_steps=k_steps,
        staged=staged,
        split=split if alone else 0,
        total=total,
        pairs=pairs,
        letters=letters,
        turns=turns,
        waited=waited,
        shared_bytes=maximum(shared, passage),
    )


def registers(
    cell: Cell, device: Device, spread: Spread, block: Block, z: Any, s: SimpleNamespace
) -> Any:
    """Of a thread: an estimate from above."""
    J, G, S = len(cell.recurrent_gates), len(cell.gates), len(cell.states)
    grid, n_tiles, k_steps = spread.grid, block.n_tiles, s.k_steps
    sending = maximum(16, 4 * z.strip * n_tiles) + 6 * (n_tiles - 1) * (J > 1) * (1 - grid)
    if grid:
        # B and the sums of a strip, or letters; where to and from
        sending = maximum(sending + 2 * n_tiles * J * k_steps, 4 * s.turns + 4) + MAIL
        sending = sending + AHEAD_OF_USE * minimum(s.staged, 1)
        strips = z.m_tiles // z.strip
        sending = sending + STRIPS * minimum(strips - 1, 1) + MANY_STRIPS * maximum(strips - 4, 0)
    need = 4 * z.resident_rows * k_steps + sending
    need = need + s.pairs * (z.each * (_kept(cell) + 2 * S + G) + 10) + 46
    if S > 2 and block.padded:
        need = need + 12  # many states and units of padding, beside resets
    if block.number == 2 and not grid and block.columns == 8:
        need = need + 2 * (G - J)  # gates that R does not feed, beside resets
    if device.sm >= 100:
        # ptxas reads B of more k steps ahead there, and streamed fragments of a lone gate
        early = SM_100 + 8 * k_steps * n_tiles + 12 * (J == 1) * minimum(s.staged, 1)
        need = need + (SM_100 if grid else early)
    elif device.sm < 90:
        # ptxas spilled a register of 255 with eight sums to send (LSTM 768 x 1 on an A100), and two
        # with a lone gate and two pairs a thread (Elman 320 x 1, B 128)
        need = need + (
            4 * (z.strip // 8) if grid else 4 + LONE * (J == 1) * minimum(s.pairs - 1, 1)
        )
    return need


def registers_needed(cell: Cell, D: int, device: Device, solution: Solution) -> int:
    """The same, of a solution."""
    spread, z = Spread(solution["cluster"], bool(solution["grid"])), SimpleNamespace(**solution)
    block = Block.of(cell, D, spread, z.tile, z.size)
    return registers(cell, device, spread, block, z, sizes(cell, spread, z.tile, z.size, block, z))


def _work(block: Block, tile: int, z: Any, s: SimpleNamespace) -> SimpleNamespace:
    """What the cost is made of."""
    return SimpleNamespace(
        fragments=s.rows * s.k_steps * s.warps,
        staged=s.staged * s.warps,
        n_tiles=block.n_tiles,
        items=block.units * tile,
        lanes=s.pairs * z.each,
        weight=block.weight,
        source=block.source,
        split=s.split,
        warps=s.warps,
        idle=minimum(s.threads // (2 * s.total), 1) * (z.each - 1),
        strips=z.m_tiles // z.strip,
        turns=s.waited,
        ahead=z.ahead,
    )


@lru_cache(maxsize=64)
def _kept(cell: Cell) -> int:
    """Values of an item that its early half leaves to its late half."""
    return halves(cell).count


def _m_tiles(total: int, own: int, grid: bool) -> list[int]:
    """m tiles of a warp; in a grid those of whole blocks, or a whole part of a block's own."""
    divisors = _divisors(total, 16)
    return [m for m in divisors if not grid or not m % own or not own % m]


def _possible_warps(m_total: int, blocks: int) -> list[int]:
    """Of a block; where one block has a head, they may also share sums."""
    most = MAX_THREADS // 32
    if blocks == 1:
        return list(range(1, most + 1))
    return [n for n in _divisors(m_total, most) if m_total // n <= 16]


def _divisors(n: int, limit: int) -> list[int]:
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]
