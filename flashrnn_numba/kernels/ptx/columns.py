"""warp_mma in pieces: B comes into registers once, then the m tiles of A follow, some at a time.

What is done with the sums of the first m tiles then runs beside the product of the next ones, and
few accumulators are alive at once.
"""

from functools import cache
from typing import Any

import numpy as np

from . import formats
from .asm import Registers, add, emitted
from .product import _emit_a, _emit_b, _Sums, a_words, check_operands
from .tiles import mma_type
from .warp import _ldmatrix


@cache
def load_columns(n_tiles: int, k_steps: int, row_bytes: int) -> Any:
    """(b: u32) -> u32 x 2 n_tiles k_steps, order (n tile, k step, register): B from shared memory,
    [column][k] in rows of row_bytes. `b` is the lane's address as for warp_mma."""
    check_operands(0, 0, row_bytes)
    places = [(8 * n * row_bytes + 32 * k, k) for n in range(n_tiles) for k in range(0, k_steps, 2)]

    def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
        words = []
        for place, k in places:
            words += _emit_b(builder, add(builder, operands["b"][0], place), k_steps - k)
        return words

    def twin(t: Any, b: int) -> tuple[int, ...]:
        words: tuple[int, ...] = ()
        for place, k in places:
            words += _ldmatrix(t, "load_columns", b + place, 4 if k_steps - k > 1 else 2, False)
        return words

    name = f"load_columns_{n_tiles}x{k_steps}_{row_bytes}"
    result = Registers("u32", 2 * n_tiles * k_steps)
    return emitted(name, {"b": Registers("u32")}, result, emit, twin, section="ldmatrix")


@cache
def columns_mma(
    m_tiles: int, n_tiles: int, k_steps: int, registers: int, dtype: str, chains: int = 1
) -> Any:
    """C[16 m_tiles, 8 n_tiles] = A B: f32 x 4 m_tiles n_tiles, order (m tile, n tile, register).

    (fragments: u32 x 4 registers, shared: u32, columns: u32 x 2 n_tiles k_steps); all but columns,
    which come from load_columns, as in warp_mma.
    """
    kind = mma_type(dtype)
    total = m_tiles * k_steps
    check_operands(total, registers)
    chains = max(1, min(chains, k_steps))
    parameters = {"fragments": Registers("u32", 4 * registers)} if registers else {}
    parameters |= {
        "shared": Registers("u32"),
        "columns": Registers("u32", 2 * n_tiles * k_steps),
    }
    names = list(parameters)

    def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
        sums = _Sums(builder, m_tiles, n_tiles, chains, None)
        for step in range(k_steps):
            for m in range(m_tiles):
                a = _emit_a(builder, operands, m * k_steps + step, registers)
                for n in range(n_tiles):
                    first = 2 * (n * k_steps + step)
                    pair = operands["columns"][first : first + 2]
                    sums.multiply_add(kind, step % chains, m, n, a, pair)
        return sums.total()

    def twin(t: Any, *given: Any) -> tuple[float, ...]:
        operands = dict(zip(names, given, strict=True))
        lanes = (a_words(t, operands, total - registers), operands["columns"])
        return t.collective(
            name, lanes, lambda rows: _product(rows, m_tiles, n_tiles, k_steps, kind.name)
        )

    name = f"columns_mma_{dtype}_{m_tiles}x{n_tiles}x{k_steps}_{registers}_{chains}"
    result = Registers("f32", 4 * m_tiles * n_tiles)
    return emitted(name, parameters, result, emit, twin, section="mma")


def _product(lanes: Any, m_tiles: int, n_tiles: int, k_steps: int, dtype: str) -> list[Any]:
    words = np.array([lane[0] for lane in lanes], np.uint32).reshape(32, m_tiles, k_steps, 4)
    pairs = np.array([lane[1] for lane in lanes], np.uint32).reshape(32, n_tiles, k_steps, 2)
    a = [
        np.hstack([formats.fragment_a(words[:, m, k], dtype) for k in range(k_steps)])
        for m in range(m_tiles)
    ]
    b = [
        np.vstack([formats.fragment_b(pairs[:, n, k], dtype) for k in range(k_steps)])
        for n in range(n_tiles)
    ]
    tiles = [
        formats.registers_c(formats.multiply_add(rows, columns, 0.0)) for rows in a for columns in b
    ]
    return [tuple(lane) for lane in np.concatenate(tiles, axis=1).tolist()]
