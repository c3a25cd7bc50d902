"""Whole register tiles of a warp: fragments of a resident matrix, the product, its accumulators.

Each function here makes a building block for given tile sizes. Tiles travel as flat tuples, so they
are SSA values of the compiler and never touch local memory; the unrolling is a Python loop below.

    load = load_fragments(m_tiles, k_steps, dtype, count=registers)
    stage = stage_fragments(m_tiles, k_steps, dtype, first=registers)     # the rest, into shared
    mma = warp_mma(m_tiles, n_tiles, k_steps, registers, dtype, row_bytes)
    store = store_accumulators(m_tiles, n_tiles, row_bytes)

A is 16 m_tiles rows by k_steps steps of 32 bytes (16 values of bf16 / f16, 8 of tf32). Fragment
f = m * k_steps + k; a fragment in shared memory takes 512 bytes, 16 a lane ("fragment order").
With lane = 4 * group + quad, a lane's base address of an m tile is that of row `group`, byte
4 * quad. `bases` holds one per m tile, so that tiles may lie anywhere (one gate each, say).

B stands in shared memory as rows of k: row n is column n of B, `row_bytes` apart. For ldmatrix
without bank conflicts row_bytes is 16 modulo 128 (or any odd multiple of 16).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from . import formats
from .asm import KINDS, Registers, add, asm, constant, emitted

FRAGMENT_BYTES = 512
_QUADRANTS = ((0, 0), (1, 0), (0, 1), (1, 1))  # registers of an A fragment: (row half, k half)


@dataclass(frozen=True)
class MmaType:
    """An input format of the tensor cores, accumulated in float32."""

    name: str
    itemsize: int
    shape: str

    @property
    def k(self) -> int:
        """Values of one k step."""
        return 32 // self.itemsize

    @property
    def mma(self) -> str:
        return (
            f"mma.sync.aligned.{self.shape}.row.col.f32.{self.name}.{self.name}.f32 "
            "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
        )


MMA_TYPES = {
    "bf16": MmaType("bf16", 2, "m16n8k16"),
    "f16": MmaType("f16", 2, "m16n8k16"),
    "tf32": MmaType("tf32", 4, "m16n8k8"),
}


def mma_type(dtype: str) -> MmaType:
    if dtype not in MMA_TYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(MMA_TYPES)}")
    return MMA_TYPES[dtype]


@cache
def load_fragments(
    m_tiles: int, k_steps: int, dtype: str, first: int = 0, count: int | None = None
) -> Any:
    """(bases: u64 x m_tiles, half_pitch: i64) -> u32 x 4 count: A fragments from global memory.

    Rows contiguous along k and aligned to 4 bytes; half_pitch is the distance in bytes of the rows
    group and group + 8. The memory must not be written during the launch (ld.global.nc).
    """
    count = m_tiles * k_steps - first if count is None else count
    _check_range(m_tiles, k_steps, first, count)
    kind = mma_type(dtype)

    def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
        fragments = range(first, first + count)
        return [x for f in fragments for x in _emit_words(builder, operands, kind, k_steps, f)]

    def twin(t: Any, bases: Any, half_pitch: int) -> tuple[int, ...]:
        fragments = range(first, first + count)
        return tuple(x for f in fragments for x in _words(t, bases, half_pitch, kind, k_steps, f))

    parameters = {"bases": Registers("u64", m_tiles), "half_pitch": Registers("i64")}
    name = f"load_fragments_{dtype}_{m_tiles}x{k_steps}_{first}_{count}"
    result = Registers("u32", 4 * count)
    return emitted(name, parameters, result, emit, twin, section="ld.global.nc")


@cache
def stage_fragments(m_tiles: int, k_steps: int, dtype: str, first: int = 0) -> Any:
    """(bases, half_pitch, shared: u32): fragments from `first` on, global -> shared memory.

    `shared` is the lane's address in fragment order: the warp's base + 16 * lane. Only the warp
    that staged them reads them, each lane its own 16 bytes: no barrier is needed.
    """
    _check_range(m_tiles, k_steps, first, m_tiles * k_steps - first)
    kind = mma_type(dtype)
    fragments = range(first, m_tiles * k_steps)

    def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
        for f in fragments:
            words = _emit_words(builder, operands, kind, k_steps, f)
            target = add(builder, operands["shared"][0], (f - first) * FRAGMENT_BYTES)
            _emit_store_words(builder, target, words)
        return []

    def twin(t: Any, bases: Any, half_pitch: int, shared: int) -> None:
        for f in fragments:
            words = _words(t, bases, half_pitch, kind, k_steps, f)
            t.store("shared", shared + (f - first) * FRAGMENT_BYTES, "<4I", words)

    parameters = {
        "bases": Registers("u64", m_tiles),
        "half_pitch": Registers("i64"),
        "shared": Registers("u32"),
    }
    name = f"stage_fragments_{dtype}_{m_tiles}x{k_steps}_{first}"
    return emitted(name, parameters, None, emit, twin, section="ld.global.nc")


@cache
def gather_fragments(
    m_tiles: int, k_steps: int, dtype: str, first: int = 0, count: int | None = None
) -> Any:
    """load_fragments for any strides and ragged edges: value by value, zeros outside.

    (bases: u64 x m_tiles, half_pitch: i64, k_pitch: i64, rows: i32 x m_tiles, k_left: i32). A
    lane's base is the address of row `group`, k = quad * (4 / itemsize); k_pitch is the distance in
    bytes of neighbours along k (so a transposed matrix loads as well); rows and k_left count the
    valid rows and values from that element on, and may be negative.
    """
    count = m_tiles * k_steps - first if count is None else count
    _check_range(m_tiles, k_steps, first, count)
    kind = mma_type(dtype)
    fragments = range(first, first + count)
    name = f"gather_fragments_{dtype}_{m_tiles}x{k_steps}_{first}_{count}"
    result = Registers("u32", 4 * count)

    def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
        return [x for f in fragments for x in _emit_gather(builder, operands, kind, k_steps, f)]

    def twin(t: Any, *given: Any) -> tuple[int, ...]:
        return tuple(x for f in fragments for x in _gather(t, given, kind, k_steps, f))

    return emitted(name, _gather_parameters(m_tiles), result, emit, twin, section="ld.global.nc")


@cache
def stage_gathered(m_tiles: int, k_steps: int, dtype: str, first: int = 0) -> Any:
    """gather_fragments from `first` on, into shared memory: its operands, then `shared`."""
    _check_range(m_tiles, k_steps, first, m_tiles * k_steps - first)
    kind = mma_type(dtype)
    fragments = range(first, m_tiles * k_steps)

    def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
        for f in fragments:
            words = _emit_gather(builder, operands, kind, k_steps, f)
            target = add(builder, operands["shared"][0], (f - first) * FRAGMENT_BYTES)
            _emit_store_words(builder, target, words)
        return []

    def twin(t: Any, *given: Any) -> None:
        for f in fragments:
            words = _gather(t, given[:-1], kind, k_steps, f)
            t.store("shared", given[-1] + (f - first) * FRAGMENT_BYTES, "<4I", words)

    parameters = _gather_parameters(m_tiles) | {"shared": Registers("u32")}
    name = f"stage_gathered_{dtype}_{m_tiles}x{k_steps}_{first}"
    return emitted(name, parameters, None, emit, twin, section="ld.global.nc")


@cache
def addresses(count: int) -> Any:
    """(base: u64, pitch: i64) -> u64 x count: base, base + pitch, ...: equidistant `bases`."""

    def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
        values = [operands["base"][0]]
        for _ in range(count - 1):
            values.append(builder.add(values[-1], operands["pitch"][0]))
        return values

    return emitted(
        f"addresses_{count}",
        {"base": Registers("u64"), "pitch": Registers("i64")},
        Registers("u64", count),
        emit,
        lambda t, base, pitch: tuple(base + i * pitch for i in range(count)),
        section="add",
    )


@cache
def read_fragments(count: int) -> Any:
    """(shared: u32) -> u32 x 4 count: fragments from shared memory in fragment order."""

    def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
        words = []
        for f in range(count):
            address = add(builder, operands["shared"][0], f * FRAGMENT_BYTES)
            text = "ld.shared.v4.u32 {$0,$1,$2,$3}, [$4];"
            words += asm(builder, text, ["u32"] * 4, [("u32", address)])
        return words

    def twin(t: Any, shared: int) -> tuple[int, ...]:
        places = range(shared, shared + count * FRAGMENT_BYTES, FRAGMENT_BYTES)
        return tuple(word for place in places for word in t.load("shared", place, "<4I"))

    parameters, result = {"shared": Registers("u32")}, Registers("u32", 4 * count)
    return emitted(f"read_fragments_{count}", parameters, result, emit, twin, section="ld")


@cache
def store_accumulators(m_tiles: int, n_tiles: int, row_bytes: int) -> Any:
    """(address: u32, accumulators: f32 x 4 m_tiles n_tiles): to shared float32 [row][column].

    `address` is the lane's: base + group * row_bytes + 8 * quad. row_bytes is a multiple of 8.
    """
    if row_bytes % 8:
        raise ValueError(f"row_bytes is {row_bytes}, expected a multiple of 8")
    places = [
        ((16 * m + 8 * half) * row_bytes + 32 * n)
        for m in range(m_tiles)
        for n in range(n_tiles)
        for half in range(2)
    ]

    def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
        values = operands["accumulators"]
        for i, place in enumerate(places):
            target = add(builder, operands["address"][0], place)
            pair = [("f32", values[2 * i]), ("f32", values[2 * i + 1])]
            asm(builder, "st.shared.v2.f32 [$0], {$1,$2};", [], [("u32", target), *pair])
        return []

    def twin(t: Any, address: int, accumulators: Any) -> None:
        for i, place in enumerate(places):
            t.store("shared", address + place, "<2f", accumulators[2 * i : 2 * i + 2])

    parameters = {
        "address": Registers("u32"),
        "accumulators": Registers("f32", 4 * m_tiles * n_tiles),
    }
    name = f"store_accumulators_{m_tiles}x{n_tiles}_{row_bytes}"
    return emitted(name, parameters, None, emit, twin, section="st")


# Fragment by fragment: first the code, then its twin.


def _check_range(m_tiles: int, k_steps: int, first: int, count: int) -> None:
    total = m_tiles * k_steps
    if m_tiles < 1 or k_steps < 1 or first < 0 or count < 1 or first + count > total:
        raise ValueError(
            f"fragments {first} to {first + count} of m_tiles={m_tiles} x k_steps={k_steps}: "
            f"expected a range of at least one within 0 to {total}"
        )


def _gather_parameters(m_tiles: int) -> dict[str, Registers]:
    return {
        "bases": Registers("u64", m_tiles),
        "half_pitch": Registers("i64"),
        "k_pitch": Registers("i64"),
        "rows": Registers("i32", m_tiles),
        "k_left": Registers("i32"),
    }


def _emit_words(builder: Any, operands: Any, kind: MmaType, k_steps: int, f: int) -> list[Any]:
    m, k = divmod(f, k_steps)
    words = []
    for row_half, k_half in _QUADRANTS:
        address = add(builder, operands["bases"][m], 32 * k + 16 * k_half)
        if row_half:
            address = builder.add(address, operands["half_pitch"][0])
        words += asm(builder, "ld.global.nc.u32 $0, [$1];", ["u32"], [("u64", address)], "order")
    return _emit_round(builder, kind, words)


def _words(t: Any, bases: Any, half_pitch: int, kind: MmaType, k_steps: int, f: int) -> list[int]:
    m, k = divmod(f, k_steps)
    words = []
    for row_half, k_half in _QUADRANTS:
        address = bases[m] + 32 * k + 16 * k_half + row_half * half_pitch
        words += t.load("global_nc", address, "<I")
    return _round(kind, words)


def _emit_gather(builder: Any, operands: Any, kind: MmaType, k_steps: int, f: int) -> list[Any]:
    m, k = divmod(f, k_steps)
    per = 4 // kind.itemsize
    words = []
    for row_half, k_half in _QUADRANTS:
        inside = builder.icmp_signed(">", operands["rows"][m], constant("i32", 8 * row_half))
        values = []
        for i in range(per):
            offset = kind.k * k + 4 * per * k_half + i
            valid = builder.icmp_signed(">", operands["k_left"][0], constant("i32", offset))
            valid = builder.zext(builder.and_(inside, valid), KINDS["u32"].llvm_type)
            address = builder.mul(operands["k_pitch"][0], constant("i64", offset))
            address = builder.add(operands["bases"][m], address)
            if row_half:
                address = builder.add(address, operands["half_pitch"][0])
            values += _emit_guarded_load(builder, kind, address, valid)
        words += (
            values
            if per == 1
            else asm(builder, "mov.b32 $0, {$1,$2};", ["u32"], [("u16", v) for v in values], "none")
        )
    return _emit_round(builder, kind, words)


def _emit_guarded_load(builder: Any, kind: MmaType, address: Any, valid: Any) -> list[Any]:
    register, bits = ("u16", 16) if kind.itemsize == 2 else ("u32", 32)
    text = (
        "{ .reg .pred p; setp.ne.u32 p, $2, 0; "
        f"mov.b{bits} $0, 0; @p ld.global.nc.u{bits} $0, [$1]; }}"
    )
    return asm(builder, text, ["&" + register], [("u64", address), ("u32", valid)], "order")


def _gather(t: Any, given: Any, kind: MmaType, k_steps: int, f: int) -> list[int]:
    bases, half_pitch, k_pitch, rows, k_left = given
    m, k = divmod(f, k_steps)
    per = 4 // kind.itemsize
    layout = "<H" if kind.itemsize == 2 else "<I"
    words = []
    for row_half, k_half in _QUADRANTS:
        word = 0
        for i in range(per):
            offset = kind.k * k + 4 * per * k_half + i
            if rows[m] > 8 * row_half and k_left > offset:
                address = bases[m] + offset * k_pitch + row_half * half_pitch
                word |= t.load("global_nc", address, layout)[0] << (16 * i)
        words.append(word)
    return _round(kind, words)


def _emit_round(builder: Any, kind: MmaType, words: list[Any]) -> list[Any]:
    """tf32 wants its values rounded; the 16-bit formats are what they are."""
    if kind.name != "tf32":
        return words
    text = "{ .reg .f32 v; mov.b32 v, $1; cvt.rna.tf32.f32 $0, v; }"
    return [asm(builder, text, ["u32"], [("u32", word)], "none")[0] for word in words]


def _round(kind: MmaType, words: list[int]) -> list[int]:
    if kind.name != "tf32":
        return words
    return formats.f32_to_tf32(np.array(words, np.uint32).view(np.float32)).tolist()


def _emit_store_words(builder: Any, address: Any, words: list[Any]) -> None:
    text = "st.shared.v4.u32 [$0], {$1,$2,$3,$4};"
    asm(builder, text, [], [("u32", address), *(("u32", word) for word in words)])
