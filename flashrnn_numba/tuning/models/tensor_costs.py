"""What a time step of the tensor-core kernels costs: every constant that is fitted, in one place.

Fitted to the tilings timed on an H200 (benchmarks/results/ranking-h200.json): the times of chosen
tilings come out within 9 %. Clusters and grids are comparable, so that the cheaper can be taken.
Other cards have the same cycles, but for tensor cores that are slower than those (`Pace`).
All functions take numbers, and expressions of the solver's variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from types import SimpleNamespace
from typing import Any, NamedTuple

from .. import expressions
from ..expressions import Expression
from ..hardware import Device
from .floors import FITTED_GHZ, products_per_clock

# Percent that a grid must be cheaper than a cluster to be taken: its CTAs need the whole device at
# once, and other kernels that run beside it make it wait.
GRID_MARGIN = 3
# A launch takes 10 us, here shared out over 1024 steps. Groups that do not run at once wait for
# the next one in a grid; clusters wait within one launch.
LAUNCH_NS = 10


KINDS = ("tensor", "cluster", "grid")  # one CTA a head, a cluster, CTAs that exchange through L2


class Spread(NamedTuple):
    """The CTAs that share a head: a cluster or, with `grid`, CTAs of a cooperative launch."""

    blocks: int
    grid: bool = False

    @property
    def kind(self) -> str:
        return "grid" if self.grid else "cluster" if self.blocks > 1 else "tensor"


def minimum(*values: Any) -> Any:
    """Of numbers or of expressions."""
    return expressions.minimum(*values) if _open(values) else min(values)


def maximum(*values: Any) -> Any:
    return expressions.maximum(*values) if _open(values) else max(values)


def _open(values: tuple[Any, ...]) -> bool:
    return any(isinstance(value, Expression) for value in values)


@dataclass(frozen=True)
class Pace:
    """What the costs need to know of a card.

    mma -- tenths of a cycle that one of the four tensor cores of an SM takes at least for an mma
        (16 x 16 x 8): at the card's peak. What was fitted includes this, and is about half of an
        H200's peak, which mma.sync does not reach. So it is cards with half of an H200's products a
        clock or fewer that are slower (A100: a little; L40S, RTX 4090).
    cycle -- how long one is, relative to an H200's.
    """

    mma: int
    cycle: float

    @staticmethod
    def of(device: Device) -> Pace:
        peak = products_per_clock(device, "bfloat16")
        # the datasheets' clocks are not quite the highest: an SM has a power of 2
        whole = 2 ** round(log2(peak)) if peak else 0
        mma = 10 * 4 * 16 * 16 * 8 // whole if whole else 0
        return Pace(mma, FITTED_GHZ / device.clock_ghz)


# -- forward, cycles -----------------------------------------------------------------------------

STEP, WARP = 233, 22  # of each step; of each warp of a scheduler, in turn
# tenths of a cycle: shared memory gives 128 bytes a cycle at best
FRAGMENT = 77  # of R, from shared memory
COLUMNS = 5  # s_0 for one k step and n tile of a warp
MMA_WARP = 98  # an mma of a warp alone, tenths
MMA, K_STEP = 86, 94  # to issue an mma; more, for each k step of a chain
CHAINED = 298  # from one mma to the next that needs its result
STREAM = 203  # an mma whose fragment comes from shared memory, for its warp
K_LATENCY = 87  # a k step of s_0 from shared memory, for its warp
COMBINE = 130  # for warps that share sums: their barrier
COMBINE_PART, COMBINE_TENTHS = 2, 4  # of each further part; tenths, of each of its numbers
POINTWISE = 51  # percent of the cell's cycles
# Exchange by st.async, beyond what is done meanwhile: cycles of an empty one, and cycles for 100
# bytes that each CTA gives.
EXCHANGE = {1: (50, 0), 2: (200, 10), 4: (238, 20), 8: (181, 90), 16: (0, 277)}
L2_LATENCY = 987  # until the first word of another CTA is there
L2_INTAKE = 3  # for 100 bytes into a CTA
ALONE = 250  # less, where no shared memory and no barrier lie between L2 and the product
POLL = 17  # there: of each 16 bytes that a lane asks for, again and again
# ns: a shorter step waits for inputs that were asked for 4 steps ahead, a quarter of what is
# missing. 8 are enough for all; but where nobody waits they cost: what comes early is in the way
LATE, ENOUGH = 450, 8


def forward(counts: Any, B: int, H: int, z: Any, s: Any, at_once: int, pace: Pace) -> Any:
    """Cycles of a step of all waves together. z -- the tiling, s -- its sizes (tensor.sizes);
    at_once -- groups of CTAs."""
    mma, own, streamed, chained = (max(n, pace.mma) for n in (MMA, MMA_WARP, STREAM, CHAINED))
    per_scheduler = -(-s.warps // 4)
    columns = (1 - z.alone) * s.warps * s.k_steps * z.n_tiles
    loads = FRAGMENT * s.warps * s.in_shared + COLUMNS * columns
    issue = mma * per_scheduler * s.m_tiles * s.k_steps * z.n_tiles
    issue = issue + K_STEP * s.k_steps // z.chains
    resident = s.m_tiles * s.k_steps - s.in_shared
    warp = own * resident * z.n_tiles + streamed * s.in_shared * z.n_tiles
    warp = warp + K_LATENCY * s.k_steps * (1 - z.alone)
    chain = maximum(warp, chained * s.k_steps // z.chains)
    product = maximum(loads, issue, chain) // 10
    numbers = s.groups * s.pairs * counts.recurrent
    combine = (z.splits - 1) * (COMBINE_PART + COMBINE_TENTHS * numbers // 10)
    combine = combine + COMBINE * minimum(z.splits - 1, 1)
    items = per_scheduler * s.own * 2 // z.spread + s.own  # with the latency of one
    pointwise = POINTWISE * items * counts.cycles // 100
    tiles = -(-B // s.batch)
    rows = minimum(s.batch, -(-B // max(1, at_once // H)))
    waves = -(-(tiles * H) // at_once)
    step = STEP + WARP * per_scheduler + product + combine + pointwise
    step = step + exchange(z, s, rows)
    if z.grid:
        return (step + 2 * LAUNCH_NS) * waves * (100 + GRID_MARGIN) // 100
    # a second block on an SM costs half as much again
    step = step * (2 * waves - z.pack * (waves - 1)) // 2
    # (of all waves, because blocks that are small enough are on an SM together)
    short = maximum(0, round(LATE * FITTED_GHZ / pace.cycle) - step)
    return step + short * (ENOUGH - z.ahead) // (2 * ENOUGH) + z.ahead // ENOUGH


def exchange(z: Any, s: Any, rows: Any) -> Any:
    """Cycles until s_0 of so many rows is everywhere."""
    given = (s.batch if z.grid else rows) * s.units * z.size
    if z.grid:
        latency = L2_LATENCY - (ALONE - POLL * s.polls) * z.alone
        return latency + L2_INTAKE * z.cluster * given // 100
    latency, slope = EXCHANGE[z.cluster]
    return latency + slope * given // 100


# -- backward, nanoseconds of an H200: on other cards `Pace.cycle` times as many -----------------

BASE = 59  # the late half, latency of the barrier, loop
BARRIER = 14  # for each warp that meets at the barrier
LATENCY = 86  # ldmatrix and a chain of mma
PRODUCT = 74  # hundredths, of a fragment and n tile on all four tensor cores of an SM
ONE_WARP = 538  # the same where one warp keeps one of the four busy
STAGED = 217  # hundredths, of a fragment that comes from shared memory
SPLIT = 52  # sums through shared memory, with a barrier
EARLY_HALF = ((138, 136), (-521, 347))  # for so many items a lane: the larger of two lines
EARLY_VALUES = 19  # that an LSTM's early half leaves to the late one: the lines are an LSTM's
IDLE = 126  # in a cluster, where half of the threads have two units and the others none
SENT, SENT_BLOCK, SENT_BYTES = 161, 4, 16  # an exchange in a cluster; a block; 1000 bytes
THROUGH_L2 = 800  # what everybody gives everybody in a grid, however little
TURN = 5  # of each letter that a thread waits for
L2_BYTES = 21  # a ns, into one multiprocessor
STRIP = 53  # of each further strip of m tiles
MEMORY = 1200  # until inputs are there: more than `ahead` steps of less
SHARED_SM = 38  # percent, for each further block on an SM


def backward(spread: Spread, z: SimpleNamespace, pace: Pace) -> Any:
    """Nanoseconds of a step of one wave. z -- fragments and staged ones of a block, its n_tiles,
    items, warps, values of the early half (weight), bytes that one block sends another (source);
    items of a thread (lanes); whether sums are split, threads idle; strips, turns, ahead."""
    one_warp = max(ONE_WARP, int(10 * pace.mma / FITTED_GHZ))
    every = max(PRODUCT, int(10 * pace.mma / FITTED_GHZ / 4))
    product = maximum(every * z.fragments, one_warp * z.fragments // z.warps) * z.n_tiles
    product = (product + STAGED * z.staged) // 100 + LATENCY
    lanes = maximum(z.items // 128, 1, z.lanes)
    early = maximum(*(a + b * lanes for a, b in EARLY_HALF)) * z.weight // EARLY_VALUES
    if spread.blocks > 1:
        # the early half runs while the sums travel
        early = maximum(early, _sending(spread, z)) + IDLE * z.idle
    step = BASE + product + early + SPLIT * z.split + BARRIER * z.warps
    if spread.grid:
        step = step + STRIP * (z.strips - 1)
    step = maximum(step, round(MEMORY / pace.cycle) // z.ahead)
    return (step + LAUNCH_NS) * (100 + GRID_MARGIN) // 100 if spread.grid else step


def _sending(spread: Spread, z: SimpleNamespace) -> Any:
    received = z.source * spread.blocks
    if spread.grid:
        return THROUGH_L2 + TURN * z.turns + received // L2_BYTES
    return SENT + SENT_BLOCK * spread.blocks + received * SENT_BYTES // 1000


def in_turns(step: int, groups: int, at_once: int, blocks_per_sm: int) -> tuple[int, int]:
    """(ns of a step, waves) of so many heads and batch tiles."""
    return step * (100 + SHARED_SM * (blocks_per_sm - 1)) // 100, -(-groups // at_once)
