"""The tensor-core forward kernel's tiling as an integer program: two of them, one for CTAs that are
a cluster (or one alone), one for CTAs that exchange s_0 through L2.

Shared memory is the kernel's own (kernels/tensor_layout.py; a test holds the two together).
Registers are an estimate from above, so that ptxas finds no reason to spill. The cost is cycles of
a time step times waves of clusters, from the latencies in docs/notes/tensor_forward.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from ...cells import Cell
from ...cells.expression import topological
from ...kernels.tensor_layout import (
    FRAGMENT_BYTES,
    Tiling,
    grid_exchange,
    number_bytes,
    padded_head,
)
from .. import expressions
from ..hardware import Device
from ..problem import Problem
from .common import batch_class, evaluate

AHEAD = 4  # with less, the latency of the inputs shows (768 x 1: 1.94 ms with 4, 2.33 with 2)
EARLY = 2
CLUSTERS = (1, 2, 4, 8, 16)
# Exchange by st.async: cycles of an empty one, and cycles for 100 bytes that each CTA gives.
EXCHANGE = {1: (50, 0), 2: (460, 10), 4: (500, 20), 8: (540, 42), 16: (720, 92)}
# Through L2 (docs/notes/tensor_forward.md): what nothing would take, and a CTA's intake.
GRID_LATENCY = 2100  # cycles
GRID_INTAKE = 7  # cycles for 100 bytes
GRID_REGISTERS = 32  # of a thread: addresses, and room for the schedule
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
STEP, WARP = 180, 80  # cycles of a step: latencies that are always there; of each warp in turn
HMMA = 18  # cycles from one mma to the next that needs its result


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


def minimum(a: Any, b: Any) -> Any:
    """Of numbers or of expressions."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return expressions.minimum(a, b)


def maximum(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return expressions.maximum(a, b)


def choose_tiling(cell: Cell, dtype: str, B: int, H: int, D: int, device: Device) -> Tiling | None:
    """The best tiling, or None where nothing holds R of one head."""
    return _choose(cell, number_bytes(dtype), batch_class(B), H, D, device, grid_exchange())


@lru_cache(maxsize=1024)
def _choose(
    cell: Cell, size: int, B: int, H: int, D: int, device: Device, grid: bool
) -> Tiling | None:
    for through_l2 in (False, True) if grid else (False,):
        if groups_of_ctas(D, device, through_l2):
            problem, cost = model(cell, B, H, D, device, through_l2, size)
            solution = problem.solve(minimize=cost)
            if solution is not None:
                return tiling_of(cell, solution)
    return None


def tiling_of(cell: Cell, solution: dict[str, int]) -> Tiling:
    """What the kernel is given for a solution of the model."""
    s = solved_sizes(cell, solution)
    names = ("cluster", "n_tiles", "octets", "splits", "chains", "spread")
    return Tiling(
        **{name: solution[name] for name in names},
        registers=s.in_registers,
        ahead=AHEAD,
        early=EARLY if s.in_shared else 0,
        grid=bool(solution["grid"]),
    )


def solved_sizes(cell: Cell, solution: dict[str, int]) -> SimpleNamespace:
    """The model's sizes at a solution, as numbers."""
    found = sizes(Counts.of(cell), SimpleNamespace(**solution))
    return SimpleNamespace(**{name: evaluate(value) for name, value in vars(found).items()})


def groups_of_ctas(D: int, device: Device, grid: bool) -> dict[int, tuple[int, int, int]]:
    """For each number of CTAs that may share a head: how many such groups run at once, and an
    exchange's latency and slope in cycles (for 100 bytes that each CTA gives)."""
    if not grid:
        clusters = {c: device.resident_clusters(c) for c in CLUSTERS if c <= device.max_cluster}
        return {c: (n, *EXCHANGE[c]) for c, n in clusters.items() if n}
    counts = {-(-D // units) for units in GRID_UNITS}
    return {
        n: (device.sms // n, GRID_LATENCY, GRID_INTAKE * n) for n in counts if 2 <= n <= device.sms
    }


def model(
    cell: Cell, B: int, H: int, D: int, device: Device, grid: bool = False, size: int = 2
) -> tuple[Problem, Any]:
    """(the problem, its cost in cycles) for the class of the batch size; size -- bytes of a number:
    4 with products in TF32."""
    B = batch_class(B)
    p, counts = Problem(), Counts.of(cell)
    groups = groups_of_ctas(D, device, grid)
    octets, splits = (1, 2, 3, 4), (1, 2, 4, 8) if grid else (1, 2, 4)
    heads = {padded_head(D, c, o, s, size) for c in groups for o in octets for s in splits}
    at_once, latencies, slopes = (sorted(set(n)) for n in zip(*groups.values(), strict=True))
    z = SimpleNamespace(
        grid=p.variable("grid", [int(grid)]),
        size=p.variable("size", [size]),
        cluster=p.variable("cluster", sorted(groups)),
        n_tiles=p.variable("n_tiles", (1, 2, 4)),
        octets=p.variable("octets", octets),
        splits=p.variable("splits", splits),
        spread=p.variable("spread", (1, 2)),
        chains=p.variable("chains", (1, 2)),
        padded=p.variable("padded", sorted(heads)),
        at_once=p.variable("at_once", at_once),
        latency=p.variable("latency", latencies),
        slope=p.variable("slope", slopes),
        buffers=p.variable("buffers", (1, 2)),
        # CTAs that wait for each other must all run at once: they are counted at one an SM
        pack=p.variable("pack", (0,) if grid else (0, 1)),
    )
    for c, (count, latency, slope) in groups.items():
        known = (z.at_once == count) & (z.latency == latency) & (z.slope == slope)
        p.require((z.cluster != c) | known, name=f"{c} CTAs a head")
    p.require(z.padded % (z.cluster * z.octets * 8) == 0, name="whole octets a warp")
    p.require(z.padded % (z.splits * (32 // size)) == 0, name="whole k steps a split")
    p.require((z.spread == 1) | (z.n_tiles == 1), name="spread columns with one n tile")
    # sums have two buffers where parts of s_0 are waited for one by one (tensor_layout.parts)
    alone, parts = z.splits == 1, z.splits > 1
    if not grid:
        alone = alone | (z.cluster == 1) | (z.cluster % z.splits != 0)
        parts = parts & (z.cluster > 1) & (z.cluster % z.splits == 0)
    p.require(alone & (z.buffers == 1) | parts & (z.buffers == 2), name="buffers of sums")
    s = sizes(counts, z)
    p.require((z.chains == 1) | (s.m_tiles * z.n_tiles <= 2), name="chains")
    p.require(s.groups >= 1, name="a warp at least")
    p.require(s.warps <= 16, name="warps of a block")
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
    return p, cost(counts, B, H, z, s)


def sizes(counts: Counts, z: Any) -> SimpleNamespace:
    """tensor_layout.geometry for numbers and for variables; z has `padded` and `buffers` too."""
    units = z.padded // z.cluster
    groups = units // (8 * z.octets)
    warps = groups * z.splits
    m_tiles = -(-z.octets * counts.recurrent // 2)
    k_steps = z.padded * z.size // (32 * z.splits)
    pairs = z.octets * z.n_tiles
    own = -(-pairs // z.splits)
    fragments = m_tiles * k_steps
    batch = 8 * z.n_tiles // z.spread
    polls = z.grid * -(-k_steps * batch // (16 * maximum(groups, 1)))  # of 16 bytes
    needed = _registers(counts, z, m_tiles, own, polls)
    left = _register_limit(warps) - needed
    in_registers = minimum(fragments, left // 4)
    in_shared = fragments - in_registers
    chunks = units * z.size // 16
    tile = batch * 16 * (chunks + 1 - chunks % 2)
    sums = z.buffers * groups * pairs * (z.splits - 1) * counts.recurrent * 256
    room = sums + (AHEAD * counts.inputs + 2 * counts.states) * tile
    room = maximum(room, minimum(4, maximum(1, in_registers)) * FRAGMENT_BYTES * warps)
    barriers = 16 * (1 + (z.buffers - 1) * (z.splits - 1))
    state_buffers = 2 - z.grid * minimum(z.splits - 1, 1)
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
        shared_bytes=shared,
    )


def _register_limit(warps: Any) -> Any:
    """What ptxas may give a thread, in steps of 8; it counts warps in fours."""
    return minimum(255, 512 // -(-warps // 4) // 8 * 8)


def _registers(counts: Counts, z: Any, m_tiles: Any, own: Any, polls: Any) -> Any:
    """Of a thread, without its fragments of R."""
    columns = 2 // z.spread
    pair = counts.states * columns + counts.inputs + counts.biases + 3
    accumulators = 4 * m_tiles * z.n_tiles * z.chains
    # partial sums come back into registers
    combined = minimum((z.splits - 1) * 8, 24)
    # what further pairs need; with several n tiles also words of s_0, of two pairs of k steps
    crowd = 3 * counts.states * (own - 1) + minimum(z.n_tiles - 1, 1) * (20 * own - 8)
    fixed = 40 + crowd + 4 * EARLY + GRID_REGISTERS * z.grid
    # what is fetched is in shared memory before the product begins
    return fixed + own * pair + maximum(accumulators + combined, 4 * polls)


def cost(counts: Counts, B: int, H: int, z: Any, s: Any) -> Any:
    """Cycles of a step, times waves of clusters."""
    per_scheduler = -(-s.warps // 4)
    # shared memory gives 128 bytes a cycle; measured, a fifth is lost
    loads = 5 * s.warps * s.in_shared + 5 * s.warps * s.k_steps * z.n_tiles // 2
    issue = 8 * per_scheduler * s.m_tiles * s.k_steps * z.n_tiles
    chain = HMMA * s.k_steps // z.chains
    product = maximum(maximum(loads, issue), chain)
    combine = (z.splits - 1) * (20 + 3 * s.groups * s.pairs * counts.recurrent)
    pointwise = per_scheduler * s.own * 2 // z.spread * counts.cycles
    pointwise = pointwise + s.own * counts.cycles  # its latency
    tiles = -(-B // s.batch)
    rows = minimum(s.batch, -(-B // maximum(1, z.at_once // H)))
    exchange = z.latency + z.slope * rows * s.units * z.size // 100
    waves = -(-(tiles * H) // z.at_once)
    step = STEP + WARP * per_scheduler + product + minimum(combine, 400) + pointwise + exchange
    # a second block on an SM costs half as much again
    return step * (2 * waves - z.pack * (waves - 1)) // 2
