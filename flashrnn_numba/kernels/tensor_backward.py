"""The tensor-core backward kernel: from a cell, a head dimension and a tiling to a program.

    program = backward_program(cell, "bfloat16", D, tiling)
    machine.launch(program, grid(tiling, B, H), arguments)

tensor_backward_kernel.py says how the kernel works and what its arguments are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..cells import Cell
from .fused_names import OPTIONS
from .fused_source import places
from .generated import digest_of
from .launch import Program
from .template import Function, Part, specialise
from .tensor_backward_cell import halves
from .tensor_layout import TYPES

FRAGMENT_BYTES = 512  # of a 16 x 16 tile of R, 16 bytes a lane
WARP = 32
D_WORDS = 128  # beside OPTIONS: dstates can be read two neighbouring units at a time
TILES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)  # batch rows that a tile can have
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Tiling:
    """How the backward kernel's work is cut.

    cluster -- blocks that share a head.
    tile -- batch rows of a cluster: 1, 2, 4 or a multiple of 8.
    m_tiles -- 16 previous units each, of a warp.
    gate_parts, k_parts -- cuts of the sum over new units (by gates, and by units within a gate): so
        many warps share a sum.
    registers -- fragments of R that a warp may keep in registers; the others stay in shared memory.
    chains -- independent sums of a warp, at least: each accumulator gets its share.
    each -- neighbouring units of a thread in the pointwise part, 1 or 2.
    ahead -- steps that inputs are fetched ahead, a power of 2 from 2 on.
    half -- whether blocks send each other their partial sums in 16 bits instead of 32.
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
    tile_pitch: int
    tile_at: int
    sources: int
    source_bytes: int
    sums_at: int
    sums_bytes: int
    barriers_at: int
    ring_at: int
    ring: Ring
    shared_bytes: int

    @property
    def threads(self) -> int:
        return self.warps * WARP


@dataclass(frozen=True)
class Ring:
    """The inputs of coming steps in shared memory: places in bytes, from a pair's first."""

    gate_bytes: int  # of one pre-activation
    other_bytes: int  # of one state but s_0
    gate_slot: int  # of a pair's pre-activations of one gate, of one thread
    other_slot: int
    other_at: int
    s0_at: int
    d_at: int
    pair_bytes: int
    stage_bytes: int  # of one step


def ring(cell: Cell, each: int, pairs: int, threads: int, gates: str, others: str) -> Ring:
    gate_bytes, other_bytes = (4 if kind == "float32" else 2 for kind in (gates, others))
    # two numbers of 16 bits share a word
    gate_slot, other_slot = (4 * each if n == 4 else 4 for n in (gate_bytes, other_bytes))
    states = len(cell.states)
    other_at = len(cell.gates) * gate_slot * threads
    s0_at = other_at + (states - 1) * other_slot * threads
    d_at = s0_at + 4 * threads
    pair_bytes = d_at + states * 4 * threads
    places = (gate_slot, other_slot, other_at, s0_at, d_at, pair_bytes, pairs * pair_bytes)
    return Ring(gate_bytes, other_bytes, *places)


@cache
def layout(
    cell: Cell, D: int, tiling: Tiling, gates: str = "float32", others: str = "float32"
) -> Layout:
    """ValueError for a tiling that does not fit the head."""
    z, recurrent = tiling, len(cell.recurrent_gates)
    if z.ahead < 2 or z.ahead & (z.ahead - 1):
        raise ValueError(f"ahead is {z.ahead}, expected a power of 2 from 2 on")
    units = 16 * -(-D // (16 * z.cluster))
    k_tiles, m_total = units // 16, units * z.cluster // 16
    if not recurrent:
        raise ValueError("the cell has no recurrent gate: there is nothing for tensor cores")
    if z.tile not in TILES:
        raise ValueError(f"tile is {z.tile}, expected one of {TILES}")
    if m_total % z.m_tiles or recurrent % z.gate_parts or k_tiles % z.k_parts:
        raise ValueError(
            f"{z}: expected m_tiles to divide {m_total}, gate_parts {recurrent}, k_parts {k_tiles}"
        )
    if z.cluster > 1 and z.gate_parts * z.k_parts > 1:
        raise ValueError(f"{z}: in a cluster every warp sums over all of the block's gates")
    if z.half and z.cluster == 1:
        raise ValueError(f"{z}: half is for clusters")
    n_tiles, columns = max(1, z.tile // 8), min(8, max(2, z.tile))
    parts = z.gate_parts * z.k_parts
    m_groups = m_total // z.m_tiles
    warps = m_groups * parts
    k_steps, part_gates = k_tiles // z.k_parts, recurrent // z.gate_parts
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
    pitch = 2 * recurrent * units + 16
    tile_at = warps * (fragments - registers) * FRAGMENT_BYTES
    sums_at = tile_at + 2 * z.tile * pitch
    sources = 0 if z.direct else z.cluster * parts
    source_bytes = units * n_tiles * columns * (2 if z.half else 4)
    sums_bytes = sources * source_bytes
    barriers_at = sums_at + (2 if z.cluster > 1 else 1) * sums_bytes
    ring_at = barriers_at + (16 if z.cluster > 1 else 0)
    inputs = ring(cell, each, pairs, warps * WARP, gates, others)
    total = ring_at + z.ahead * inputs.stage_bytes
    row_bytes = warps * k_steps * FRAGMENT_BYTES
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
        tile_pitch=pitch,
        tile_at=tile_at,
        sources=sources,
        source_bytes=source_bytes,
        sums_at=sums_at,
        sums_bytes=sums_bytes,
        barriers_at=barriers_at,
        ring_at=ring_at,
        ring=inputs,
        shared_bytes=max(total, row_bytes) if registers else total,
    )


def grid(tiling: Tiling, B: int, H: int) -> tuple[int, int]:
    """Blocks of a launch."""
    return (tiling.cluster * -(-B // tiling.tile), H)


ARGUMENTS = (
    ("R", "uint16*"), ("r_strides", "int64x4"),
    ("initial", "uint16*"), ("initial_strides", "int64x5"),
    ("reset", "uint8*"), ("reset_strides", "int64x2"), ("lengths", "int64*"),
    ("states", "uint16*"), ("others", "{kept}*"), ("gates", "{gates}*"),
    ("dstates", "uint16*"), ("d_strides", "int64x5"),
    ("dlast", "uint16*"), ("dlast_strides", "int64x5"),
    ("dgates", "uint16*"), ("previous", "uint16*"), ("dinitial", "uint16*"),
    ("clip", "float32"), ("B", "int64"), ("T", "int64"), ("H", "int64"), ("options", "int64"),
)  # fmt: skip


@cache
def backward_program(
    cell: Cell,
    dtype: str,
    D: int,
    tiling: Tiling,
    gates: str = "float32",
    others: str = "float32",
    resets: bool = False,
) -> Program:
    """gates, others -- how the forward kept pre-activations and the states but s_0: in float32, or
    in the arrays' dtype. resets -- whether `reset` is given."""
    formats = {"float32": "float32", dtype: "uint16"}
    z = layout(cell, D, tiling, gates, others)
    arguments = tuple(
        text.format(kept=formats[others], gates=formats[gates]) for _, text in ARGUMENTS
    )
    return Program(
        name="tensor_backward",
        text=source(cell, dtype, D, tiling, gates, others, resets),
        arguments=arguments,
        threads=z.threads,
        shared_bytes=z.shared_bytes,
        plan=f"tensor-core backward of {cell.name}, D = {D}, {tiling}",
        cluster=tiling.cluster,
    )


# the templates' parts, by file
PARTS = {
    "parts": (
        "load_rows", "own_pairs", "own_accumulators", "own_sums", "point_at_last_step",
        "open_carry", "start_value", "fetch", "fetch_pair", "copy_number", "store_half",
        "start_numbers", "ask_reset", "early", "read_pair", "early_pair", "read_number",
        "store_previous", "pack_gates", "store_operand", "store_gates",
    ),
    "sums": (
        "product", "bring_home", "take_accumulators", "send_sums", "store_sums", "add_sums",
        "open_exchange",
    ),
}  # fmt: skip

HEADER = '''"""{title}: generated by flashrnn_numba."""
# made of {digest}

import math

from numba import cuda, float32, int32, int64, uint16, uint32, uint64

from flashrnn_numba.kernels import ptx
from flashrnn_numba.kernels.tensor_backward_math import FUNCTIONS

globals().update(FUNCTIONS)
FULL = 0xFFFFFFFF
QUADS = {quads}
widen, narrow = ptx.{mma}_to_f32, ptx.f32_to_{mma}
unpack, pack = ptx.{mma}x2_to_f32x2, ptx.f32x2_to_{mma}x2
stage = ptx.stage_gathered(1, {row}, "{mma}")
{reads}
mma = ptx.warp_mma({m_tiles}, {n_tiles}, {k_steps}, {registers}, "{mma}", {pitch}, {chains})


@cuda.jit(device=True)
def swizzle(octet_row):
    """Which quads of a row octet change places, so that partial sums are read without bank
    conflicts."""
    return int32({swizzle} & (QUADS - 1))


'''


def source(
    cell: Cell, dtype: str, D: int, tiling: Tiling, gates: str, others: str, resets: bool
) -> str:
    """The module's text: one function, `tensor_backward`."""
    z = layout(cell, D, tiling, gates, others)
    two = halves(cell)
    parts: dict[str, Part] = {
        name: Function(f"tensor_backward_{file}.py", name) for file in PARTS for name in PARTS[file]
    }
    parts |= {"cell_early": two.early_call, "cell_late": two.late_call}
    parts["load_fragments"] = load_fragments(z)
    wide = z.each == 2 and D % 2 == 0
    inputs = z.ring
    values = OPTIONS | {
        "D": D,
        "GATES": len(cell.gates),
        "STATES": len(cell.states),
        "RECURRENT": len(cell.recurrent_gates),
        "FROM_R": places(cell.recurrent_gates, range(len(cell.gates))),
        "INITIAL": tuple(cell.initial.values()),
        "CLUSTER": tiling.cluster,
        "TILE": tiling.tile,
        "M_TILES": tiling.m_tiles,
        "GATE_PARTS": tiling.gate_parts,
        "PART_GATES": z.part_gates,
        "M_GROUPS": z.m_groups,
        "UNITS": z.units,
        "K_UNITS": 16 * z.k_steps,
        "REGISTERS": z.registers,
        "STAGED": z.fragments - z.registers,
        "N_TILES": z.n_tiles,
        "COLUMNS": z.columns,
        "QUADS": z.columns // 2,
        "CHUNK": 8 if tiling.half else 16,
        "ALL_ACTIVE": tiling.tile > 1 and z.pairs_total % z.threads == 0,
        "EACH": z.each,
        "WIDE": wide,
        "DIRECT": tiling.direct,
        "PAIRS_PER_TILE": z.pairs // tiling.m_tiles if tiling.direct else 0,
        "PAIRS": z.pairs,
        "ITEMS": z.pairs * z.each,
        "PAIRS_TOTAL": z.pairs_total,
        "THREADS": z.threads,
        "KEPT": two.count,
        "GATE_BYTES": inputs.gate_bytes,
        "OTHER_BYTES": inputs.other_bytes,
        "GATE_SLOT": inputs.gate_slot,
        "OTHER_SLOT": inputs.other_slot,
        "OTHER_AT": inputs.other_at,
        "S0_AT": inputs.s0_at,
        "D_AT": inputs.d_at,
        "WORD_BYTES": 4 * z.threads,
        "PAIR_BYTES": inputs.pair_bytes,
        "STAGE_BYTES": inputs.stage_bytes,
        "RING_AT": z.ring_at,
        "D_WORDS": D_WORDS,
        "STAGED_AT": 0,
        "SCRATCH_BYTES": z.scratch_rows * z.k_steps * FRAGMENT_BYTES,
        "K_STEPS": z.k_steps,
        "TILE_AT": z.tile_at,
        "TILE_PITCH": z.tile_pitch,
        "TILE_BYTES": tiling.tile * z.tile_pitch,
        "SUMS_AT": z.sums_at,
        "SUMS_BYTES": z.sums_bytes,
        "SOURCES": z.sources,
        "SOURCE_BYTES": z.source_bytes,
        "BARRIERS_AT": z.barriers_at,
        "AHEAD": tiling.ahead,
        "RESETS": resets,
        "INFINITY": float("inf"),
    }
    text = specialise(Function("tensor_backward_kernel.py", "tensor_backward"), values, parts)
    text = text.replace("ELEMENT", "uint32" if wide else "uint16")
    title = f"Tensor-core backward of cell {cell.name!r}, {dtype}, D = {D}, {tiling}"
    return _header(title, TYPES[dtype], z, tiling) + two.functions + text


def _header(title: str, mma: str, z: Layout, tiling: Tiling) -> str:
    rows, chunk = z.registers // z.k_steps, z.scratch_rows
    sizes = {min(chunk, rows - first) for first in range(0, rows, chunk)}
    reads = [f"read{n} = ptx.read_fragments({n * z.k_steps})" for n in sorted(sizes)]
    return HEADER.format(
        title=title,
        digest=_digest(),
        mma=mma,
        quads=z.columns // 2,
        swizzle="octet_row >> 2 << 1" if tiling.half else "octet_row * QUADS >> 3",
        row=z.k_steps,
        reads="\n".join(reads),
        m_tiles=tiling.m_tiles,
        n_tiles=z.n_tiles,
        k_steps=z.part_gates * z.k_steps,
        registers=z.registers,
        pitch=z.tile_pitch,
        chains=max(1, tiling.chains // (tiling.m_tiles * z.n_tiles)),
    )


def load_fragments(z: Layout) -> str:
    """Lines that bring R in: through shared memory into registers, then what stays there."""
    rows, chunk = z.registers // z.k_steps, z.scratch_rows
    lines = []
    for i, first in enumerate(range(0, rows, chunk)):
        count = min(chunk, rows - first)
        lines.append(f"load_rows({first}, {count}, scratch_at)")
        lines.append(f"part{i} = read{count}(scratch_at)")
    if rows:
        lines.append("fragments = " + " + ".join(f"part{i}" for i in range(-(-rows // chunk))))
        lines.append("cuda.syncthreads()")
    if z.fragments > z.registers:
        lines.append(f"load_rows({rows}, {z.fragments // z.k_steps - rows}, staged_at)")
    return "\n".join(lines)


@cache
def _digest() -> str:
    files = [*sorted((_FOLDER / "ptx").glob("*.py")), _FOLDER / "tensor_backward_math.py"]
    return digest_of(*(str(file) for file in files))
