"""The tensor-core forward kernel's tiling: integer programs, one for each number of CTAs that are a
cluster (or one alone) or exchange s_0 through L2. The cheapest of all is taken.

Shared memory is the kernel's own (kernels/tensor_layout.py; a test holds the two together).
Registers are an estimate from above, so that ptxas finds no reason to spill. The cost is cycles of
a time step of all waves together (tensor_costs.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from operator import or_
from types import SimpleNamespace
from typing import Any

from ...cells import Cell
from ...cells.expression import topological
from ...kernels.interface import Task
from ...kernels.tensor_layout import (
    FRAGMENT_BYTES,
    PASSAGE,
    Tiling,
    number_bytes,
    padded_head,
)
from ..hardware import Device
from ..problem import Problem
from . import tensor_costs as costs
from .common import Solution, Statement, batch_class, cheapest, evaluate
from .tensor_costs import KINDS, Spread, maximum, minimum

# With 2, inputs come late in any step (768 x 1: 2.33 ms with 2, 1.94 with 4), with 4 in short ones
# (Elman 64 x 12: 0.22 with 4, 0.17 with 8)
AHEAD = (4, costs.ENOUGH)
EARLY = 2
CLUSTERS = (1, 2, 4, 8, 16)
N_TILES = (1, 2, 4)
REGISTERS = 255, 65536  # of a thread, of a block
MOST_WARPS = 16
GRID_UNITS = (8, 16, 24, 32, 48, 64)  # of a CTA
SPECIAL = {
    "sigmoid": 2,
    "tanh": 1,
    "exp": 1,
    "log": 2,
    "softplus": 2,
    "log_sigmoid": 2,
    "divide": 2,
}


@dataclass(frozen=True)
class Counts:
    """What the model needs to know of a cell."""

    recurrent: int
    inputs: int
    biases: int
    states: int
    cycles: int  # issue slots of a warp for one item of each lane

    @staticmethod
    def of(cell: Cell) -> Counts:
        nodes = [
            n for n in topological(cell.new_states) if n.operation not in ("input", "constant")
        ]
        special = sum(SPECIAL.get(node.operation, 0) for node in nodes)
        return Counts(
            len(cell.recurrent_gates),
            len(cell.input_gates),
            len(cell.bias_gates),
            len(cell.states),
            8 * special + len(nodes),
        )


def choose_tiling(cell: Cell, dtype: str, B: int, H: int, D: int, device: Device) -> Tiling | None:
    """The best tiling, or None where nothing holds R of one head."""
    return _choose(cell, number_bytes(dtype), batch_class(B), H, D, device)


@lru_cache(maxsize=1024)
def _choose(cell: Cell, size: int, B: int, H: int, D: int, device: Device) -> Tiling | None:
    found = cheapest(statements(cell, B, H, D, device, size))
    return tiling_of(cell, found[0][1]) if found else None


def statements(
    cell: Cell,
    B: int,
    H: int,
    D: int,
    device: Device,
    size: int = 2,
    kinds: Container[str] = KINDS,
) -> tuple[Statement, ...]:
    """One for each way to spread a head over CTAs. Where none of them holds R, the one of the most
    CTAs remains, to tell why."""
    spreads = [s for s in ways(D, device) if s.kind in kinds]
    able = [s for s in spreads if could_hold(cell, D, size, s, device)]
    largest = sorted(spreads)[-1:]
    return tuple(statement(cell, B, H, D, device, s, size) for s in able or largest)


def statement(
    cell: Cell, B: int, H: int, D: int, device: Device, spread: Spread, size: int = 2
) -> Statement:
    B = batch_class(B)
    fixed = {"grid": int(spread.grid), "size": size, "cluster": spread.blocks}
    return Statement(
        partial(model, cell, B, H, D, device, spread, size),
        fixed | {"ragged": ragged(D, size), "older": older(device)},
        least=at_least(cell, B, H, D, device, spread, size),
        alike=(spread, size, ragged(D, size), *padded_heads(D, spread, size)),
    )


def ragged(D: int, size: int) -> int:
    """1 where numbers are moved one by one, not 16 bytes at a time."""
    return int(D * size % 16 != 0)


def older(device: Device) -> int:
    """1 for cards before Hopper, where ptxas takes more registers for four n tiles in a grid."""
    return int(device.sm < 90)


def ways(D: int, device: Device) -> list[Spread]:
    """All clusters, and all grids, that may share a head."""
    clusters = [c for c in CLUSTERS if c <= device.max_cluster and device.resident_clusters(c)]
    counts = {-(-D // units) for units in GRID_UNITS}
    grids = sorted(n for n in counts if 2 <= n <= device.sms)
    return [*(Spread(c) for c in clusters), *(Spread(n, True) for n in grids)]


def groups_at_once(spread: Spread, device: Device) -> int:
    """Of CTAs that share a head, at one CTA an SM."""
    return device.sms // spread.blocks if spread.grid else device.resident_clusters(spread.blocks)


def groups_of_launch(tiling: Tiling, device: Device) -> int:
    """How many heads or batch tiles the device works on at a time, at one CTA an SM."""
    return groups_at_once(Spread(tiling.cluster, tiling.grid), device)


def rows_of_group(task: Task, tiling: Tiling, device: Device) -> int:
    """Batch rows of a group of CTAs: as few as all groups that run at once allow, because the fewer
    rows the less there is to exchange."""
    if tiling.cluster == 1:
        return tiling.batch
    at_once = max(1, groups_of_launch(tiling, device) // task.H)
    return max(1, min(tiling.batch, -(-task.B // at_once)))


def could_hold(cell: Cell, D: int, size: int, spread: Spread, device: Device) -> bool:
    """Whether a CTA's share of R is no more than its shared memory and the registers that are left
    beside what a thread cannot do without. Most ways to spread a large head need not be looked
    at."""
    gates = len(cell.recurrent_gates)
    # as in _registers: one pair, one accumulator
    fixed = 40 + 4 * EARLY + 4 + len(cell.states) + len(cell.input_gates) + len(cell.bias_gates)
    units = -(-D // (8 * spread.blocks)) * 8
    room = max(128 * n * (_register_limit(n, device) - fixed) for n in range(1, MOST_WARPS + 1))
    return gates * units * D * size <= device.shared_per_block + max(0, room)


def at_least(cell: Cell, B: int, H: int, D: int, device: Device, spread: Spread, size: int) -> int:
    """A bound of the cost from below: the product spread evenly over as many warps as there may be,
    and the exchange, for each number of batch rows and of warps."""
    counts, units = Counts.of(cell), -(-D // spread.blocks)
    at_once = groups_at_once(spread, device)
    found, pace = [], costs.Pace.of(device)
    for n_tiles, wide, warps in itertools.product(N_TILES, (1, 2), (4, 8, 12, 16)):
        z = SimpleNamespace(
            **{"grid": spread.grid, "size": size, "cluster": spread.blocks, "padded": D},
            **{"n_tiles": n_tiles, "spread": wide, "splits": 1, "chains": 2, "pack": 1, "alone": 1},
            ahead=max(AHEAD),
        )
        fragments = counts.recurrent * units * D * size // FRAGMENT_BYTES
        s = SimpleNamespace(
            **{"warps": warps, "in_shared": 0, "groups": 1, "pairs": 1, "own": 1, "polls": 1},
            **{"m_tiles": fragments // warps, "k_steps": 1, "units": units},
            batch=8 * n_tiles // wide,
        )
        found.append(costs.forward(counts, B, H, z, s, at_once, pace))
    return min(found)


def tiling_of(cell: Cell, solution: Solution, device: Device | None = None) -> Tiling:
    """What the kernel is given for a solution of the model."""
    s = solved_sizes(cell, solution, device)
    names = ("cluster", "n_tiles", "octets", "splits", "chains", "spread", "ahead")
    return Tiling(
        **{name: solution[name] for name in names},
        registers=s.in_registers,
        early=EARLY if s.in_shared else 0,
        grid=bool(solution["grid"]),
    )


def step_ns(cell: Cell, B: int, H: int, D: int, device: Device, solution: Solution) -> float:
    """Of all waves together."""
    spread = Spread(solution["cluster"], bool(solution["grid"]))
    z, s = SimpleNamespace(**solution), solved_sizes(cell, solution, device)
    shape, at_once = (Counts.of(cell), batch_class(B), H), groups_at_once(spread, device)
    return int(costs.forward(*shape, z, s, at_once, costs.Pace.of(device))) / device.clock_ghz


def solved_sizes(cell: Cell, solution: Solution, device: Device | None = None) -> SimpleNamespace:
    """The model's sizes at a solution, as numbers."""
    found = sizes(Counts.of(cell), SimpleNamespace(**solution), device)
    return SimpleNamespace(**{name: evaluate(value) for name, value in vars(found).items()})


def model(
    cell: Cell, B: int, H: int, D: int, device: Device, spread: Spread, size: int = 2
) -> tuple[Problem, Any]:
    """(the problem, its cost in cycles) for the class of the batch size; size -- bytes of a number:
    4 with products in TF32."""
    p, counts, c, grid = Problem(), Counts.of(cell), spread.blocks, spread.grid
    octets, splits = _cuts(spread)
    z = SimpleNamespace(
        grid=int(grid),
        size=size,
        ragged=ragged(D, size),
        older=older(device),
        cluster=c,
        n_tiles=p.variable("n_tiles", N_TILES),
        octets=p.variable("octets", octets),
        splits=p.variable("splits", splits),
        spread=p.variable("spread", (1, 2)),
        chains=p.variable("chains", (1, 2)),
        # steps that exchange through L2 are never short
        ahead=p.variable("ahead", AHEAD[:1] if grid else AHEAD),
        padded=p.variable("padded", padded_heads(D, spread, size)),
        # no other warp of the CTA multiplies with the same part of s_0 (tensor_layout.geometry)
        alone=p.variable("alone", (0, 1) if grid else (0,)),
        # CTAs that wait for each other must all run at once: they are counted at one an SM
        pack=p.variable("pack", (0,) if grid else (0, 1)),
    )
    p.require(z.padded % (c * z.octets * 8) == 0, name="whole octets a warp")
    p.require(z.padded % (z.splits * (32 // size)) == 0, name="whole k steps a split")
    # the kernel pads to the next such size, also where the model would rather have a larger one
    next_one = (
        (z.octets == o) & (z.splits == s) & (z.padded == padded_head(D, c, o, s, size))
        for o, s in itertools.product(*_cuts(spread))
    )
    p.require(reduce(or_, next_one), name="no more padding than that")
    p.require((z.spread == 1) | (z.n_tiles == 1), name="spread columns with one n tile")
    s = sizes(counts, z, device)
    if grid:
        own_part = (s.groups == 1) & (z.n_tiles == 1) & (s.k_steps % 2 == 0)
        shared_part = (s.groups > 1) | (z.n_tiles > 1) | (s.k_steps % 2 == 1)
        p.require((z.alone == 1) & own_part | (z.alone == 0) & shared_part, name="takers of s_0")
    p.require((z.chains == 1) | (s.m_tiles * z.n_tiles <= 2), name="chains")
    p.require(s.groups >= 1, name="a warp at least")
    p.require(s.warps <= MOST_WARPS, name="warps of a block")
    p.require(s.in_registers >= 0, name="registers of a thread", unit="registers")
    p.require(
        s.shared_bytes <= device.shared_per_block, name="shared memory of a block", unit="bytes"
    )
    # two blocks an SM: neither takes more than half of it
    p.require((z.pack == 0) | (s.in_shared == 0), name="two blocks an SM: R in registers")
    p.require(
        (z.pack == 0) | (s.registers * s.warps * 64 <= device.registers_per_sm),
        name="two blocks an SM: registers",
        unit="registers",
    )
    p.require(
        (z.pack == 0) | (2 * (s.shared_bytes + device.shared_reserved) <= device.shared_per_sm),
        name="two blocks an SM: shared memory",
        unit="bytes",
    )
    at_once = groups_at_once(spread, device)
    return p, costs.forward(counts, batch_class(B), H, z, s, at_once, costs.Pace.of(device))


def padded_heads(D: int, spread: Spread, size: int) -> list[int]:
    """What D is padded to, by one cut of the work or another."""
    octets, splits = _cuts(spread)
    return sorted({padded_head(D, spread.blocks, o, s, size) for o in octets for s in splits})


def _cuts(spread: Spread) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(octets of a warp, splits) to choose from."""
    return (1, 2, 3, 4), (1, 2, 4, 8) if spread.grid else (1, 2, 4)


def sizes(counts: Counts, z: Any, device: Device | None = None) -> SimpleNamespace:
    """tensor_layout.geometry for numbers and for variables; z has `padded` too. device -- for its
    registers; None: as many as all cards have so far."""
    units = z.padded // z.cluster
    groups = units // (8 * z.octets)
    warps = groups * z.splits
    m_tiles = -(-z.octets * counts.recurrent // 2)
    k_steps = z.padded * z.size // (32 * z.splits)
    pairs = z.octets * z.n_tiles
    own = -(-pairs // z.splits)
    fragments = m_tiles * k_steps
    batch = 8 * z.n_tiles // z.spread
    polls = -(-k_steps * batch // (16 * maximum(groups, 1)))  # of 16 bytes
    polls = z.grid * (z.alone * (k_steps // 2) + (1 - z.alone) * polls)
    needed = _registers(counts, z, m_tiles, own, polls)
    needed = needed + z.older * z.grid * (z.n_tiles // 4) * (4 + 12 * (1 // z.splits))
    left = _register_limit(warps, device) - needed
    # fragments that stream take more beside s_0 that goes straight into registers, or many states
    streams = minimum(maximum(4 * fragments - left, 0), 1)
    left = left - streams * (8 * z.alone if counts.states <= 2 else 12 * (1 - z.grid))
    in_registers = minimum(fragments, left // 4)
    in_shared = fragments - in_registers
    chunks = units * z.size // 16
    tile = batch * 16 * (chunks + 1 - chunks % 2)
    sums = groups * pairs * (z.splits - 1) * counts.recurrent * (2 // z.spread) * 128
    room = sums + (z.ahead * counts.inputs + 2 * counts.states) * tile
    staging = FRAGMENT_BYTES * warps
    staged = maximum(4, z.grid * maximum(0, 1 - in_shared) * (PASSAGE // staging))
    room = maximum(room, minimum(staged, maximum(1, in_registers)) * staging)
    barriers = 16 * z.splits
    state_buffers = 2 - z.grid
    shared = state_buffers * batch * (z.size * z.padded + 16) + room + barriers
    shared = shared + warps * in_shared * FRAGMENT_BYTES
    return SimpleNamespace(
        units=units,
        groups=groups,
        warps=warps,
        m_tiles=m_tiles,
        k_steps=k_steps,
        pairs=pairs,
        own=own,
        in_registers=in_registers,
        registers=needed + 4 * in_registers,
        in_shared=in_shared,
        batch=batch,
        polls=polls,
        shared_bytes=shared,
    )


def _register_limit(warps: Any, device: Device | None) -> Any:
    """What ptxas may give a thread, in steps of 8; it counts warps in fours."""
    thread, block = REGISTERS
    if device is not None:
        thread, block = device.registers_per_thread, device.registers_per_block
    return minimum(thread, block // 128 // -(-warps // 4) // 8 * 8)


def _registers(counts: Counts, z: Any, m_tiles: Any, own: Any, polls: Any) -> Any:
    """Of a thread, without its fragments of R."""
    columns = 2 // z.spread
    pair = counts.states * columns + counts.inputs + counts.biases + 3
    accumulators = 4 * m_tiles * z.n_tiles * z.chains
    # partial sums come back into registers
    combined = minimum((z.splits - 1) * 8, 24)
    # what further pairs need; with several n tiles also words of s_0, of two pairs of k steps
    crowd = 3 * counts.states * (own - 1) + minimum(z.n_tiles - 1, 1) * (20 * own - 8)
    # through L2: addresses; who takes s_0 alone computes few of them
    more = max(counts.states - 2, 0)
    through_l2 = (1 - z.alone) * (32 - 16 * minimum(z.n_tiles - 1, 1) + 10 * more)
    columns_too = maximum(2 * polls - 6, 0) + 12 * more
    through_l2 = through_l2 + z.alone * columns_too + 16 * z.n_tiles * z.ragged
    # elsewhere: what ptxas keeps of many states, of sums in two chains, of further octets
    in_cluster = 14 * more + 12 * (z.chains - 1) + 4 * (z.octets - 1)
    fixed = 40 + crowd + 4 * EARLY + z.grid * through_l2 + (1 - z.grid) * in_cluster
    # what is fetched is in shared memory before the product begins, or takes part in it
    working = accumulators + maximum(combined, 4 * polls * z.alone)
    return fixed + own * pair + maximum(working, 4 * polls)
