"""How a head lies on tensor cores: who owns which units, gates and batch columns. Plain Python.

Forward: one group of CTAs runs one head for one tile of batch rows: a cluster, or, where `grid`,
blocks of a cooperative launch. With mma m16n8k16, A is R
(rows: units of gates, k: previous units), B is s_0 (k: previous units, n: batch rows). A CTA owns
`units` = padded D / cluster units, with all their recurrent gates.

A's rows are ordered so that the pointwise function needs no data of another thread. A warp owns
some *octets* of 8 units. Gate r of octet o is row octet o * gates + r; row octet i is half i % 2 of
m tile i // 2. In an accumulator tile a thread with lane = 4 * group + quad holds rows `group` and
`group + 8`, columns 2 quad and 2 quad + 1: so it has all gates of unit 8 o + group, for two batch
rows, in its own registers.

Batch rows times octets make *pairs* (octet, n tile), o * n_tiles + n. Where `splits` warps share
the sum over k, each of them finishes every splits-th pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..cells import Cell
    from ..tuning import Device
    from .interface import Task

OCTET = 8  # units
N_TILE = 8  # batch rows of one mma
K_BYTES = 32  # previous units of one mma: 16 numbers of 16 bits, 8 of tf32
WARP = 32
FRAGMENT_BYTES = 512  # of a 16 x 16 tile of A in "fragment order", 16 bytes a lane
# of the mailbox of a group of CTAs that exchange through L2: at most, and for each of the CTAs, so
# that the mailboxes of all groups stay in the L2 cache
MAIL_BYTES, MAIL_SHARE = 8 << 20, 128 << 10
PASSAGE = 96 << 10  # bytes of shared memory, where fragments pass on their way to registers
MAIL_TAIL = 128  # bytes after the slots: a counter, in a line of its own
# our names -> those of ptx; float32 where TF32 is asked for
FORMATS = {"bfloat16": "bf16", "float16": "f16", "float32": "tf32"}


@dataclass(frozen=True)
class Tiling:
    """What the solver chooses for the forward kernel.

    cluster -- CTAs that share a head; n_tiles -- their batch rows / 8; octets -- of a warp;
    splits -- warps that share a sum over k; registers -- fragments of R that a warp keeps in
    registers, the others are in shared memory; chains -- independent sums of each accumulator;
    ahead -- steps for which there is room for inputs, a power of 2, at least 2;
    early -- fragments in shared memory that are loaded ahead of their use;
    spread -- 2: batch rows are every other column, and a thread computes one of its two: half the
    rows in less time (with one n tile); else 1.
    grid -- the CTAs are no cluster: they exchange s_0 through L2, in a cooperative launch.
    """

    cluster: int
    n_tiles: int
    octets: int
    splits: int
    registers: int
    chains: int
    ahead: int = 4
    early: int = 4
    spread: int = 1
    grid: bool = False

    @property
    def batch(self) -> int:
        """Batch rows of a cluster."""
        return self.n_tiles * N_TILE // self.spread


@dataclass(frozen=True)
class Geometry:
    """What follows from the tiling, the cell and D. Offsets and sizes in bytes of shared memory."""

    padded: int  # D with zeros up to whole tiles
    units: int  # of a CTA
    groups: int  # of warps, along the units
    warps: int
    m_tiles: int  # of a warp
    k_steps: int  # of a warp
    alone: bool  # no other warp of the CTA multiplies with the same part of s_0
    pairs: int  # of a group of warps
    own_pairs: int  # of a warp
    in_registers: int  # fragments of a warp
    in_shared: int
    early: int  # fragments loaded ahead of their use
    pitch: int  # from one batch row of s_0 to the next
    tile_pitch: int  # from one batch row to the next of other tiles: units of this CTA
    sums_at: int  # partial sums of split products
    ring_at: int  # inputs fetched ahead, [step][gate][row][unit]
    out_at: int  # states on their way out, [2][state][row][unit]
    barriers_at: int  # room for an mbarrier for each buffer and part of it
    fragments_at: int
    staged: int  # fragments that a warp can stage at once on their way to registers
    shared_bytes: int
    slot_bytes: int  # of a step's s_0 in a mailbox
    mail_plane: int  # batch rows side by side there
    mail_slots: int

    @property
    def threads(self) -> int:
        return self.warps * WARP

    @property
    def mail_bytes(self) -> int:
        """Of a group's mailbox."""
        return self.mail_slots * self.slot_bytes + MAIL_TAIL


def number_bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def padded_head(D: int, cluster: int, octets: int, splits: int, size: int = 2) -> int:
    """The smallest D or more that is whole octets of each warp, and whole k steps of each split.
    size -- bytes of a number."""
    step = lcm(cluster * octets * OCTET, splits * K_BYTES // size)
    return -(-D // step) * step


def parts(tiling: Tiling) -> int:
    """In how many parts s_0 arrives in a cluster: warps that share a sum over k each wait for their
    own."""
    if tiling.cluster > 1 and tiling.cluster % tiling.splits == 0:
        return tiling.splits
    return 1


def state_buffers(tiling: Tiling) -> int:
    """Of s_0 in a CTA. One is enough where nobody but the CTA's own threads writes there, after the
    barrier that ends a step."""
    return 1 if tiling.grid else 2


def mail_slots(slot_bytes: int, cluster: int) -> int:
    """Steps whose s_0 a mailbox holds: a power of 2, from 8 on (tensor_grid_exchange.py), and as
    many as there is room for: a fence takes a microsecond or two, and comes in slots / 4 steps."""
    room = min(MAIL_BYTES, MAIL_SHARE * cluster) // slot_bytes
    return max(8, min(1024, 1 << max(room, 1).bit_length() - 1))


def geometry(
    D: int, recurrent: int, inputs: int, states: int, tiling: Tiling, size: int = 2
) -> Geometry:
    """D -- units of a head; recurrent, inputs -- gates with that source; states of the cell.
    size -- bytes of a number."""
    z = tiling
    padded = padded_head(D, z.cluster, z.octets, z.splits, size)
    units = padded // z.cluster
    groups = units // (OCTET * z.octets)
    warps = groups * z.splits
    m_tiles = -(-z.octets * recurrent // 2)
    k_steps = padded * size // K_BYTES // z.splits
    pairs = z.octets * z.n_tiles
    own = -(-pairs // z.splits)
    in_registers = min(z.registers, m_tiles * k_steps)
    in_shared = m_tiles * k_steps - in_registers
    pitch = size * padded + 16  # an odd multiple of 16 bytes: ldmatrix without bank conflicts
    batch = z.batch
    sums_at = state_buffers(z) * batch * pitch
    sums = groups * pairs * (z.splits - 1) * recurrent * (2 // z.spread) * 4 * WARP
    tile_pitch = 16 * (units * size // 16 | 1)
    ring_at = sums_at + sums
    out_at = ring_at + z.ahead * inputs * batch * tile_pitch
    barriers_at = out_at + 2 * states * batch * tile_pitch
    # on their way to registers, fragments pass through the room of sums, inputs and states
    staging = warps * FRAGMENT_BYTES
    least, most = 4, 16
    if z.grid and not in_shared:
        # a CTA has its multiprocessor alone: as much room as they like
        least = most = max(least, PASSAGE // staging)
    staged = min(max((barriers_at - sums_at) // staging, least), most, max(1, in_registers))
    barriers_at = max(barriers_at, sums_at + staged * staging)
    fragments_at = barriers_at + 16 * z.splits
    total = fragments_at + warps * in_shared * FRAGMENT_BYTES
    slot_bytes = padded * batch * size
    alone = z.grid and groups == 1 and z.n_tiles == 1 and k_steps % 2 == 0
    return Geometry(
        padded=padded,
        units=units,
        groups=groups,
        warps=warps,
        m_tiles=m_tiles,
        k_steps=k_steps,
        alone=alone,
        pairs=pairs,
        own_pairs=own,
        in_registers=in_registers,
        in_shared=in_shared,
        early=min(z.early, in_shared),
        pitch=pitch,
        tile_pitch=tile_pitch,
        sums_at=sums_at,
        ring_at=ring_at,
        out_at=out_at,
        barriers_at=barriers_at,
        fragments_at=fragments_at,
        staged=staged,
        shared_bytes=total,
        slot_bytes=slot_bytes,
        mail_plane=2 if alone else batch,
        mail_slots=mail_slots(slot_bytes, z.cluster),
    )


def geometry_of(cell: Cell, dtype: str, D: int, tiling: Tiling) -> Geometry:
    gates = len(cell.recurrent_gates), len(cell.input_gates)
    return geometry(D, *gates, len(cell.states), tiling, number_bytes(dtype))


def unsuited(task: Task, device: Device) -> str | None:
    """Why tensor cores cannot do the task on this device whatever its tiling, or None."""
    as_it_is = task.dtype == "float32" and task.precision != "tf32"
    if task.dtype not in FORMATS or as_it_is:
        return (
            "tensor cores are used for bfloat16 and float16, and for float32 where "
            f"precision='tf32' is asked for, got {task.dtype}"
        )
    if device.sm < 80:
        return f"{device.name} has compute capability below 8.0"
    if not task.cell.recurrent_gates:
        return f"cell {task.cell.name!r} has no recurrent gate: there is nothing to multiply"
    return None


def too_large(task: Task, device: Device, grid: bool) -> str:
    """What to say where no tiling holds R of one head. grid -- whether CTAs without a cluster can
    share it."""
    gates = len(task.cell.recurrent_gates)
    count = device.sms if grid else device.max_cluster
    return (
        f"R of one head ({gates} x {task.D} x {task.D} {task.dtype}) does not fit into the "
        f"registers and shared memory of {count} multiprocessors of {device.name}"
    )
