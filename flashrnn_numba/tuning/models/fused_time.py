"""How long a time step of the portable fused kernel takes, in cycles.

Everything works on integers and on the planner's expressions alike: the cost of a tiling and the
time that a plan tells are the same arithmetic. The constants were fitted to 161 measured times of
tilings on H200s (LSTM, float32, 64 x 12 and 96 x 8, B 16); docs/notes/fused.md says how well they
do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...cells import Cell
from ...kernels.formats import FORMATS
from ...kernels.fused_layout import Direction
from ..expressions import maximum, minimum
from ..hardware import REGISTER_UNIT, SUBPARTITIONS, WARP, Device
from .floors import plain_products_per_clock

# cycles, in eighths where so named
PRODUCT = 5  # quarters: of a product's cycle, where all is at hand
CHUNK = 10  # of a warp for each turn of the product's loop, beside loads and products
LOAD = 34  # eighths: what a warp waits for each of its loads from shared memory
WAVEFRONT = 5  # eighths: what 128 bytes from shared memory cost all warps; some are hidden
STORE = 4  # of one partial sum of a thread
BESIDE = 5  # eighths of a block's product: what it adds to the step of another on its SM
STEP = 250  # estimate: barriers, and the way from one phase to the next
GATE = {"forward": 195, "backward": 435}  # of the cell at one unit, by gate: mostly latency
FEW = 27_000  # shared by a block's threads: that fewer take longer was measured, not explained
SLOTS = 16  # estimate: warps of an SM from which on the cell's instructions fill the latency


@dataclass(frozen=True)
class Share:
    """What a launch gives a multiprocessor.

    rows -- of a block; beside -- blocks of the busiest multiprocessor at once; waves -- how often.
    """

    rows: Any
    beside: Any
    waves: Any


def blocks_per_sm(device: Device, threads: Any, registers: Any, shared_bytes: Any) -> Any:
    """`Device.blocks_per_sm`, for expressions too."""
    warps = -(-threads // WARP)
    units = -(-registers * WARP // REGISTER_UNIT)
    by_partition = device.registers_per_sm // SUBPARTITIONS // REGISTER_UNIT // units
    need = shared_bytes + device.shared_reserved
    shared = -(-need // device.shared_unit) * device.shared_unit
    fit = minimum(
        device.blocks_per_sm_limit,
        device.warps_per_sm // warps,
        by_partition * SUBPARTITIONS // warps,
        device.shared_per_sm // shared,
    )
    return maximum(1, fit)  # a block that runs at all


def share(device: Device, z: Any, per_sm: Any, B: int, H: int) -> Share:
    """As kernels/fused.py's grid_of has it: more blocks before more rows."""
    heads = -(-max(1, H) // z.heads)
    at_once = maximum(1, device.sms * per_sm // heads)
    rows = minimum(z.rows, maximum(1, -(-B // at_once)))
    blocks = -(-B // rows) * heads
    beside = maximum(1, minimum(per_sm, -(-blocks // device.sms)))
    return Share(rows, beside, -(-blocks // (device.sms * per_sm)))


def product(cell: Cell, dtype: str, device: Device, z: Any, s: Any, own: Share) -> Any:
    """Cycles of the product: a warp alone, or the warps of the fullest scheduler in turn, and all
    of them at the shared memory.

    A block's rows are run-time: where it has fewer than row_tile, products with rows that are not
    there take as long, and where it has fewer than a thread's row group, whole warps do nothing.
    """
    form = FORMATS[dtype]
    numbers = form.vector
    lines = z.unit_tile * s.lines
    left = z.row_tile * numbers * form.real_bytes // 16
    pace = max(1, 128 // max(1, int(plain_products_per_clock(device, dtype))))
    work = z.row_tile * lines * numbers * pace * PRODUCT // 4 + lines * numbers * (
        form.per_word - 1
    )
    issue = work + lines + left + CHUNK
    warps, fullest = _warps(z, s, own.rows)
    others = 8 + BESIDE * (own.beside - 1)  # eighths of one block's work
    alone = 8 * issue + LOAD * (lines + left)
    shared = warps * (4 * lines + left) * WAVEFRONT * others // 8
    chunk = maximum(alone, fullest * issue * others) + shared
    return s.chunks * chunk // 8 + STORE * z.row_tile * lines


def _warps(z: Any, s: Any, rows: Any) -> tuple[Any, Any]:
    """(warps with work in the product, those of the fullest of an SM's four schedulers).

    Each k-split's threads are `stride` apart and begin with those of the first rows: with rows for
    a few of them only, warps that work may all lie on one scheduler or two.
    """
    lanes = z.heads * s.groups
    stride = lanes * (z.rows // z.row_tile)
    busy = -(-rows // z.row_tile) * lanes
    first = -(-busy // WARP)
    # k-splits begin anywhere in a warp, at multiples of `step`: on average so many 32nds of a warp
    step = _common(stride, WARP)
    further = -(-busy // step) * step + WARP - step
    every = -(-stride * z.split // WARP)
    warps = minimum(every, first + (z.split - 1) * further // WARP)
    # every how many schedulers one k-split follows another: 1, 2 or 4
    apart = _common(stride, 4 * WARP) // step
    met = minimum(z.split * -(-first // 4), -(-z.split * apart // 4) * -(-first // apart))
    return warps, maximum(-(-warps // 4), met * (1 - 1 // apart))


def _common(number: Any, power: int) -> Any:
    """The greatest common divisor with a power of 2."""
    total: Any = 1
    divisor = 2
    while divisor <= power:
        total += (1 - minimum(1, number % divisor)) * (divisor // 2)
        divisor *= 2
    return total


def pointwise(cell: Cell, dtype: str, direction: Direction, z: Any, s: Any, own: Share) -> Any:
    """Cycles of the cell at all units of a block, and of the barriers."""
    once = GATE[direction] * len(cell.gates) * (FORMATS[dtype].real_bytes // 4)
    outputs = own.rows * s.columns
    turns = -(-outputs // z.threads)
    warps = -(-outputs // WARP) * own.beside
    # a barrier waits for every warp, also for those without work
    barriers = STEP + z.threads // WARP + FEW // z.threads
    return barriers + maximum(once * turns, once * warps // SLOTS)
