"""How the tensor-core backward kernel's work is cut, and what follows for a block. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import gcd
from typing import TYPE_CHECKING, NamedTuple

from ..cells import Cell
from .tensor_layout import K_BYTES, PASSAGE

if TYPE_CHECKING:
    from ..tuning import Device
    from .interface import Task

FRAGMENT_BYTES = 512  # of a 16 x 16 tile of R, 16 bytes a lane
WARP = 32
MOST_TURNS = 8  # letters that a thread waits for at a time: 4 registers each
LARGEST_TILE = 32
INDEX = (1 << 31) - 1  # indices within a step and a batch tile have 32 bits
TILES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)  # batch rows that a tile can have


@dataclass(frozen=True)
class Tiling:
    """How the backward kernel's work is cut.

    cluster -- blocks that share a head.
    tile -- their batch rows: 1, 2, 4 or a multiple of 8.
    m_tiles -- 16 previous units each, of a warp.
    gate_parts, k_parts -- cuts of the sum over new units (by gates, and by units within a gate): so
        many warps share a sum.
    registers -- fragments of R that a warp may keep in registers; the others stay in shared memory.
    chains -- independent sums of a warp, at least: each accumulator gets its share.
    each -- neighbouring units of a thread in the pointwise part, 1 or 2.
    ahead -- steps that inputs are fetched ahead, a power of 2 from 2 on.
    half -- whether blocks send each other their partial sums in 16 bits instead of 32.
    grid -- the blocks are no cluster: they send through L2, in a cooperative launch.
    strip -- m tiles of a warp that are multiplied and sent before the next; 0: all at once.
    """

    cluster: int
    tile: int
    m_tiles: int
    gate_parts: int = 1
    k_parts: int = 1
    registers: int = 255
    chains: int = 4
    each: int = 2
    ahead: int = 4
    half: bool = False
    grid: bool = False
    strip: int = 0

    @property
    def direct(self) -> bool:
        """Whether the accumulators are the whole sums of a thread's own items."""
        return self.cluster == self.gate_parts * self.k_parts == 1


@dataclass(frozen=True)
class Layout:
    """What follows from tiling, cell and D. Offsets and sizes are bytes of shared memory."""

    units: int  # of a block, with padding
    m_groups: int  # warps along the previous units
    warps: int
    k_steps: int  # of a warp and gate
    part_gates: int  # gates of a warp
    fragments: int  # of R, of a warp
    registers: int  # of these in registers
    scratch_rows: int  # rows of fragments that pass through shared memory at a time
    n_tiles: int
    columns: int  # batch columns with a place in an n tile's partial sums
    each: int
    pairs_total: int  # pairs of units (or units) and rows of a block
    pairs: int  # of a thread
    owners: int  # threads that have room for inputs
    tile_pitch: int
    tile_at: int
    sources: int
    source_bytes: int
    sums_at: int
    sums_bytes: int
    barriers_at: int
    ring_at: int
    ring: Ring
    mail: Mail | None
    shared_bytes: int

    @property
    def threads(self) -> int:
        return self.warps * WARP


@dataclass(frozen=True)
class Ring:
    """The inputs of coming steps in shared memory: places in bytes, from a pair's first."""

    gate_chunk: int  # pre-activations that are copied at once, neighbours in memory
    other_slot: int  # of a pair's numbers of one state but s_0, of one thread
    other_at: int
    number_slot: int  # of a pair's numbers of the arrays' dtype, likewise
    s0_at: int
    d_at: int
    pair_bytes: int
    stage_bytes: int  # of one step


@dataclass(frozen=True)
class Mail:
    """Partial sums on their way through L2 (tensor_backward_mail.py)."""

    message_bytes: int  # of one block to another
    letters: int  # of 16 bytes, of a message
    rounds: int  # that a thread takes mail
    turns: int  # letters that it takes in a round
    sources: int  # quads of threads that take the same letter, of four senders each in a turn
    slot_bytes: int  # of all messages of a group of blocks

    @property
    def group_bytes(self) -> int:
        return 2 * self.slot_bytes


def mail_of(tiling: Tiling, threads: int, message_bytes: int) -> Mail:
    letters, senders = message_bytes // 16, tiling.cluster
    if 4 * letters > threads:
        raise ValueError(f"{tiling}: {threads} threads for messages of {letters} letters")
    total = -(-senders // (4 * (threads // (4 * letters))))
    rounds = -(-total // MOST_TURNS)
    turns = -(-total // rounds)
    sources = -(-senders // (4 * rounds * turns))
    return Mail(message_bytes, letters, rounds, turns, sources, senders * senders * message_bytes)


def ring(cell: Cell, each: int, wide: bool, pairs: int, threads: int, size: int) -> Ring:
    """wide -- the units of a pair are always neighbours in memory."""
    gates, states = len(cell.gates), len(cell.states)
    # two numbers of 16 bits share a word
    other_slot, number_slot = 4 * each, 4 * each if size == 4 else 4
    other_at = 4 * each * gates * threads
    s0_at = other_at + (states - 1) * other_slot * threads
    d_at = s0_at + number_slot * threads
    pair_bytes = d_at + states * number_slot * threads
    places = (other_slot, other_at, number_slot, s0_at, d_at)
    return Ring(gcd(4, gates * (each if wide else 1)), *places, pair_bytes, pairs * pair_bytes)


def _check(z: Tiling, size: int, recurrent: int, own_tiles: int, k_total: int) -> None:
    """own_tiles -- m tiles of a block's units; k_total -- k steps of a gate of them."""
    m_total = own_tiles * z.cluster
    if not recurrent:
        raise ValueError("the cell has no recurrent gate: there is nothing for tensor cores")
    if z.ahead < 2 or z.ahead & (z.ahead - 1):
        raise ValueError(f"ahead is {z.ahead}, expected a power of 2 from 2 on")
    if z.tile not in TILES:
        raise ValueError(f"tile is {z.tile}, expected one of {TILES}")
    if m_total % z.m_tiles or recurrent % z.gate_parts or k_total % z.k_parts:
        raise ValueError(
            f"{z}: expected m_tiles to divide {m_total}, gate_parts {recurrent}, k_parts {k_total}"
        )
    if z.cluster > 1 and z.gate_parts * z.k_parts > 1:
        raise ValueError(f"{z}: in a cluster every warp sums over all of the block's gates")
    if (z.half or z.grid) and z.cluster == 1:
        raise ValueError(f"{z}: half and grid are for several blocks a head")
    if z.half and size == 4:
        raise ValueError(f"{z}: sums of float32 travel in 32 bits, and not through L2")
    if z.grid and not z.half:
        raise ValueError(f"{z}: through L2 sums travel in 16 bits")
    if z.strip and (z.cluster == 1 or z.m_tiles % z.strip):
        raise ValueError(f"{z}: strip is for several blocks a head, and to divide m_tiles")
    if z.grid and z.m_tiles % own_tiles and own_tiles % z.m_tiles:
        raise ValueError(f"{z}: expected m_tiles to divide {own_tiles} of a block, or the reverse")


@cache
def layout(
    cell: Cell,
    D: int,
    tiling: Tiling,
    size: int = 2,
) -> Layout:
    """ValueError for a tiling that does not fit the head. size -- bytes of a number: 4 with
    products in TF32."""
    z, recurrent = tiling, len(cell.recurrent_gates)
    units = 16 * -(-D // (16 * z.cluster))
    m_total, k_total = units * z.cluster // 16, units * size // K_BYTES
    _check(z, size, recurrent, units // 16, k_total)
    n_tiles, columns = max(1, z.tile // 8), min(8, max(2, z.tile))
    parts = z.gate_parts * z.k_parts
    m_groups = m_total // z.m_tiles
    warps = m_groups * parts
    k_steps, part_gates = k_total // z.k_parts, recurrent // z.gate_parts
    fragments = z.m_tiles * part_gates * k_steps
    # whole rows of fragments (an m tile, a gate) are in registers or in shared memory
    registers = min(z.registers, fragments) // k_steps * k_steps
    each = z.each
    if z.direct:
        each = 2 if z.tile >= 4 else 1
        pairs = z.m_tiles * n_tiles * (2 if z.tile >= 8 else 1)
        pairs_total = pairs * warps * WARP
    else:
        pairs_total = units // 16 * n_tiles * 8 * columns * (2 // each)
        pairs = -(-pairs_total // (warps * WARP))
    owners = warps * WARP
    if z.grid:
        # a grid's blocks have few units each, and many warps to fetch and multiply
        owners = WARP * min(warps, -(-pairs_total // WARP))
    pitch = size * recurrent * units + 16
    tile_at = warps * (fragments - registers) * FRAGMENT_BYTES
    sums_at = tile_at + 2 * z.tile * pitch
    sources = 0 if z.direct else z.cluster * parts
    source_bytes = units * n_tiles * columns * (2 if z.half else 4)
    mail = mail_of(z, warps * WARP, source_bytes) if z.grid else None
    if mail:
        sources, source_bytes = mail.sources, 2 * source_bytes
    sums_bytes = sources * source_bytes
    in_cluster = z.cluster > 1 and not z.grid
    barriers_at = sums_at + (2 if in_cluster else 1) * sums_bytes
    ring_at = barriers_at + (16 if in_cluster else 0)
    inputs = ring(cell, each, each == 2 and D % 2 == 0, pairs, owners, size)
    total = ring_at + z.ahead * inputs.stage_bytes
    row_bytes = warps * k_steps * FRAGMENT_BYTES
    if z.grid:
        # a block has its multiprocessor alone: fragments pass through as much room as they like
        total = max(total, min(registers // k_steps * row_bytes, PASSAGE))
    scratch_rows = max(1, min(total // row_bytes, registers // k_steps))
    return Layout(
        units=units,
        m_groups=m_groups,
        warps=warps,
        k_steps=k_steps,
        part_gates=part_gates,
        fragments=fragments,
        registers=registers,
        scratch_rows=scratch_rows,
        n_tiles=n_tiles,
        columns=columns,
        each=each,
        pairs_total=pairs_total,
        pairs=pairs,
        owners=owners,
        tile_pitch=pitch,
        tile_at=tile_at,
        sources=sources,
        source_bytes=source_bytes,
        sums_at=sums_at,
        sums_bytes=sums_bytes,
        barriers_at=barriers_at,
        ring_at=ring_at,
        ring=inputs,
        mail=mail,
        shared_bytes=max(total, row_bytes) if registers else total,
    )


class Wave(NamedTuple):
    """One launch: its groups of blocks, the first of them, words of 64 bits of all mailboxes. Each
    group has a head and a batch tile, group % H and group // H."""

    groups: int
    first_group: int
    mail_words: int


def waves(cell: Cell, D: int, tiling: Tiling, B: int, H: int, device: Device) -> list[Wave]:
    """The launches. Blocks of a grid wait for each other: all of one must be resident, and one a
    multiprocessor is what is counted on."""
    if not tiling.grid:
        return [Wave(-(-B // tiling.tile) * H, 0, 0)]
    mail = layout(cell, D, tiling).mail
    assert mail is not None
    at_once, groups = device.sms // tiling.cluster, -(-B // tiling.tile) * H
    if not at_once:
        raise ValueError(f"{tiling}: {device.name} has {device.sms} multiprocessors")
    return [
        Wave(count, first, count * mail.group_bytes // 8)
        for first in range(0, groups, at_once)
        for count in [min(at_once, groups - first)]
    ]


def largest_tile(task: Task) -> int:
    """Batch rows that a tile may have: 32-bit indices reach its pre-activations."""
    step = len(task.cell.gates) * task.H * task.D
    return min(LARGEST_TILE, 1 + max(0, INDEX - step) // max(1, task.T * step))
