"""warp_mma: the product of a resident matrix with a tile in shared memory, by one warp."""

from functools import cache
from typing import Any

import numpy as np

from . import formats
from .asm import Registers, add, asm, constant, emitted
from .tiles import FRAGMENT_BYTES, MmaType, mma_type

_LDMATRIX = {
    2: "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {$0,$1}, [$2];",
    4: "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [$4];",
}


@cache
def warp_mma(
    m_tiles: int,
    n_tiles: int,
    k_steps: int,
    registers: int,
    dtype: str,
    row_bytes: int,
    chains: int = 1,
    accumulate: bool = False,
) -> Any:
    """C[16 m_tiles, 8 n_tiles] = A B: f32 x 4 m_tiles n_tiles, order (m tile, n tile, register).

    (fragments: u32 x 4 registers, shared: u32, b: u32[, accumulators]). The first `registers`
    fragments of A come as a tuple from load_fragments (left out when there are none), the others
    stand in shared memory from the lane's address `shared` on (stage_fragments). `b` is the lane's
    address for ldmatrix: base + (lane % 8) * row_bytes + (lane // 8) * 16; lanes 16 to 31
    give no address in an odd last k step.

    chains: so many independent sums over k for each tile, added at the end. A sum is a chain of
    dependent mma; with few tiles a warp needs several to hide their latency.
    accumulate: start from a tuple of accumulators instead of zeros (for sums over several tiles).
    """
    kind = mma_type(dtype)
    total = m_tiles * k_steps
    check_operands(total, registers, row_bytes)
    chains = max(1, min(chains, k_steps))
    parameters = {"fragments": Registers("u32", 4 * registers)} if registers else {}
    parameters |= {"shared": Registers("u32"), "b": Registers("u32")}
    if accumulate:
        parameters["accumulators"] = Registers("f32", 4 * m_tiles * n_tiles)
    names = list(parameters)

    def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
        sums = _Sums(builder, m_tiles, n_tiles, chains, operands.get("accumulators"))
        for k in range(0, k_steps, 2):
            columns = [
                _emit_b(
                    builder, add(builder, operands["b"][0], 8 * n * row_bytes + 32 * k), k_steps - k
                )
                for n in range(n_tiles)
            ]
            for step in range(k, min(k + 2, k_steps)):
                for m in range(m_tiles):
                    a = _emit_a(builder, operands, m * k_steps + step, registers)
                    for n in range(n_tiles):
                        pair = columns[n][2 * (step - k) : 2 * (step - k) + 2]
                        sums.multiply_add(kind, step % chains, m, n, a, pair)
        return sums.total()

    def twin(t: Any, *given: Any) -> tuple[float, ...]:
        operands = dict(zip(names, given, strict=True))
        rows = b_rows(t, operands["b"], n_tiles, k_steps, row_bytes)
        lanes = (a_words(t, operands, total - registers), rows, operands.get("accumulators"))
        return t.collective(
            name, lanes, lambda all_lanes: _product(all_lanes, m_tiles, n_tiles, k_steps, kind)
        )

    options = f"{registers}_{row_bytes}_{chains}_{accumulate}"
    name = f"warp_mma_{dtype}_{m_tiles}x{n_tiles}x{k_steps}_{options}"
    result = Registers("f32", 4 * m_tiles * n_tiles)
    return emitted(name, parameters, result, emit, twin, section="mma")


class _Sums:
    """The accumulators while code is emitted: [chain][m][n] -> 4 values."""

    def __init__(self, builder: Any, m_tiles: int, n_tiles: int, chains: int, start: Any) -> None:
        self.builder = builder
        zero = constant("f32", 0.0)
        self.values = [
            [[[zero] * 4 for _ in range(n_tiles)] for _ in range(m_tiles)] for _ in range(chains)
        ]
        if start:
            self.values[0] = [
                [start[4 * (m * n_tiles + n) :][:4] for n in range(n_tiles)] for m in range(m_tiles)
            ]

    def multiply_add(self, kind: MmaType, chain: int, m: int, n: int, a: Any, b: Any) -> None:
        inputs = [("u32", x) for x in (*a, *b)] + [("f32", x) for x in self.values[chain][m][n]]
        self.values[chain][m][n] = asm(self.builder, kind.mma, ["f32"] * 4, inputs, "order")

    def total(self) -> list[Any]:
        flat = [[x for row in chain for tile in row for x in tile] for chain in self.values]
        sums = flat[0]
        for other in flat[1:]:
            sums = [self.builder.fadd(x, y) for x, y in zip(sums, other, strict=True)]
        return sums


def _emit_a(builder: Any, operands: Any, f: int, registers: int) -> list[Any]:
    if f < registers:
        return operands["fragments"][4 * f : 4 * f + 4]
    return emit_fragment(builder, operands["shared"][0], f - registers)


def emit_fragment(builder: Any, shared: Any, f: int) -> list[Any]:
    """Fragment number f in shared memory."""
    address = add(builder, shared, f * FRAGMENT_BYTES)
    text = "ld.shared.v4.u32 {$0,$1,$2,$3}, [$4];"
    return asm(builder, text, ["u32"] * 4, [("u32", address)], "order")


def _emit_b(builder: Any, address: Any, steps_left: int) -> list[Any]:
    count = 4 if steps_left > 1 else 2
    return asm(builder, _LDMATRIX[count], ["u32"] * count, [("u32", address)])


def check_operands(total: int, registers: int, row_bytes: int = 0) -> None:
    """total -- fragments of A."""
    if not 0 <= registers <= total:
        raise ValueError(f"registers is {registers}, expected 0 to m_tiles * k_steps = {total}")
    if row_bytes % 16:
        raise ValueError(f"row_bytes is {row_bytes}, expected a multiple of 16 for ldmatrix")


def a_words(t: Any, operands: dict[str, Any], in_shared: int) -> list[int]:
    """This lane's words of all fragments of A, those in registers first."""
    words = list(operands.get("fragments", ()))
    for f in range(in_shared):
        words += t.load("shared", operands["shared"] + f * FRAGMENT_BYTES, "<4I")
    return words


def b_rows(t: Any, b: int, n_tiles: int, k_steps: int, row_bytes: int) -> list[Any]:
    """What this lane reads of B for ldmatrix, in the order (n tile, pair of k steps)."""
    return [
        _row(t, b + 8 * n * row_bytes + 32 * k, k_steps - k)
        for n in range(n_tiles)
        for k in range(0, k_steps, 2)
    ]


def _row(t: Any, address: int, steps_left: int) -> tuple[int, ...] | None:
    """The 16 bytes that this lane's address gives to ldmatrix; None where it is not used."""
    used = t.lane < 32 if steps_left > 1 else t.lane < 16
    return t.load("shared", address, "<4I") if used else None


def _product(lanes: Any, m_tiles: int, n_tiles: int, k_steps: int, kind: MmaType) -> list[Any]:
    """The whole tile at once: one NumPy product instead of one for each mma."""
    words = np.array([lane[0] for lane in lanes], np.uint32).reshape(32, m_tiles, k_steps, 4)
    a = np.block(
        [
            [formats.fragment_a(words[:, m, k], kind.name) for k in range(k_steps)]
            for m in range(m_tiles)
        ]
    )
    pairs = -(-k_steps // 2)
    b = np.zeros((8 * n_tiles, pairs, 4, 16 // kind.itemsize), np.float32)
    for n in range(n_tiles):
        for pair in range(pairs):
            for lane in range(32):
                row = lanes[lane][1][n * pairs + pair]
                if row is not None:
                    values = formats.unpack(np.array(row, np.uint32), kind.name)
                    b[8 * n + lane % 8, pair, lane // 8] = values.reshape(-1)
    b = b.reshape(8 * n_tiles, -1)[:, : a.shape[1]]
    start: Any = np.zeros((16 * m_tiles, 8 * n_tiles), np.float32)
    if lanes[0][2] is not None:
        given = np.array([lane[2] for lane in lanes], np.float32).reshape(32, m_tiles, n_tiles, 4)
        start = np.block(
            [[formats.fragment_c(given[:, m, n]) for n in range(n_tiles)] for m in range(m_tiles)]
        )
    c = formats.multiply_add(a, b.T, start)
    tiles = [
        formats.registers_c(c[16 * m : 16 * m + 16, 8 * n : 8 * n + 8])
        for m in range(m_tiles)
        for n in range(n_tiles)
    ]
    return [tuple(lane) for lane in np.concatenate(tiles, axis=1).tolist()]
