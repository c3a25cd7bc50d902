"""streamed_mma: warp_mma for a resident matrix that is larger than a warp's registers.

The fragments of A that stand in shared memory are spread evenly over the product, stand there in
the order in which they are used, and are loaded `ahead` uses before: while one is under way, the
tensor core works on others. The first `ahead` of them come as an operand (read_fragments), so that
they can be loaded before B is there.

Order of use: k step by k step; within a k step first the m tiles in registers, then the others.
"""

from functools import cache
from typing import Any

import numpy as np

from .asm import Registers, add, asm, emitted
from .columns import _product as _of_columns
from .product import _LDMATRIX, _product, _row, _Sums
from .tiles import FRAGMENT_BYTES, mma_type


def resident_tiles(m_tiles: int, k_steps: int, registers: int) -> list[int]:
    """For each k step the number of m tiles whose fragment is in registers."""
    each, more = divmod(registers, k_steps)
    return [each + (k < more) for k in range(k_steps)]


@cache
def streamed_mma(
    m_tiles: int,
    n_tiles: int,
    k_steps: int,
    registers: int,
    ahead: int,
    dtype: str,
    row_bytes: int,
    chains: int = 1,
) -> Any:
    """C[16 m_tiles, 8 n_tiles] = A B: f32 x 4 m_tiles n_tiles, order (m tile, n tile, register).

    (fragments: u32 x 4 registers, early: u32 x 4 ahead, shared: u32, b: u32). Operands that would
    be empty are left out. `shared` is the lane's address of the first fragment in shared memory;
    `b`, `chains` and the formats as in warp_mma. With row_bytes 0, B is in registers instead:
    columns: u32 x 2 n_tiles k_steps, order (n tile, k step, register).
    """
    kind = mma_type(dtype)
    total = m_tiles * k_steps
    streamed = total - registers
    if not 0 <= registers <= total:
        raise ValueError(f"registers is {registers}, expected 0 to m_tiles * k_steps = {total}")
    if not 0 <= ahead <= streamed:
        raise ValueError(f"ahead is {ahead}, expected 0 to {streamed} fragments in shared memory")
    if row_bytes % 16:
        raise ValueError(f"row_bytes is {row_bytes}, expected a multiple of 16 for ldmatrix")
    chains = max(1, min(chains, k_steps))
    resident = resident_tiles(m_tiles, k_steps, registers)
    parameters = {"fragments": Registers("u32", 4 * registers)} if registers else {}
    parameters |= {"early": Registers("u32", 4 * ahead)} if ahead else {}
    parameters |= {"shared": Registers("u32")}
    if row_bytes:
        parameters |= {"b": Registers("u32")}
    else:
        parameters |= {"columns": Registers("u32", 2 * n_tiles * k_steps)}
    names = list(parameters)

    def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
        sums = _Sums(builder, m_tiles, n_tiles, chains, None)
        here = list(operands.get("fragments", ()))
        coming = list(operands.get("early", ()))
        asked = ahead

        def ask() -> None:
            nonlocal asked
            if asked < streamed:
                address = add(builder, operands["shared"][0], asked * FRAGMENT_BYTES)
                text = "ld.shared.v4.u32 {$0,$1,$2,$3}, [$4];"
                coming.extend(asm(builder, text, ["u32"] * 4, [("u32", address)], "order"))
                asked += 1

        def columns(k: int) -> list[list[Any]]:
            count = 4 if k_steps - k > 1 else 2
            if not row_bytes:
                starts = [2 * (n * k_steps + k) for n in range(n_tiles)]
                return [operands["columns"][at : at + count] for at in starts]
            return [
                asm(
                    builder,
                    _LDMATRIX[count],
                    ["u32"] * count,
                    [("u32", add(builder, operands["b"][0], 8 * n * row_bytes + 32 * k))],
                )
                for n in range(n_tiles)
            ]

        following = columns(0)
        for k in range(k_steps):
            if k % 2 == 0:
                words = following
                if k + 2 < k_steps and n_tiles == 1:
                    following = columns(k + 2)
            for m in range(m_tiles):
                if m < resident[k]:
                    a, here = here[:4], here[4:]
                else:
                    ask()
                    a, coming[:4] = coming[:4], []
                for n in range(n_tiles):
                    pair = words[n][2 * (k % 2) : 2 * (k % 2) + 2]
                    sums.multiply_add(kind, k % chains, m, n, a, pair)
            if k % 2 and k + 1 < k_steps and n_tiles > 1:
                following = columns(k + 1)
        return sums.total()

    def twin(t: Any, *given: Any) -> tuple[float, ...]:
        operands = dict(zip(names, given, strict=True))
        here, coming = list(operands.get("fragments", ())), list(operands.get("early", ()))
        for i in range(ahead, streamed):
            coming += t.load("shared", operands["shared"] + i * FRAGMENT_BYTES, "<4I")
        words = np.zeros((m_tiles, k_steps, 4), np.uint32)
        for k in range(k_steps):
            for m in range(m_tiles):
                source = here if m < resident[k] else coming
                words[m, k] = source[:4]
                del source[:4]
        if not row_bytes:
            own = (words.reshape(-1).tolist(), operands["columns"])
            return t.collective(
                name, own, lambda rows: _of_columns(rows, m_tiles, n_tiles, k_steps, kind.name)
            )
        rows = [
            _row(t, operands["b"] + 8 * n * row_bytes + 32 * k, k_steps - k)
            for n in range(n_tiles)
            for k in range(0, k_steps, 2)
        ]
        lanes = (words.reshape(-1).tolist(), rows, None)
        return t.collective(
            name, lanes, lambda all_lanes: _product(all_lanes, m_tiles, n_tiles, k_steps, kind)
        )

    options = f"{registers}_{ahead}_{row_bytes}_{chains}"
    name = f"streamed_mma_{dtype}_{m_tiles}x{n_tiles}x{k_steps}_{options}"
    result = Registers("f32", 4 * m_tiles * n_tiles)
    return emitted(name, parameters, result, emit, twin, section="mma")
