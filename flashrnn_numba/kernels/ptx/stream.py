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

from .asm import Registers, add, emitted
from .columns import _product as _of_columns
from .product import _emit_b, _product, _Sums, b_rows, check_operands, emit_fragment
from .tiles import FRAGMENT_BYTES, mma_type


def resident_tiles(m_tiles: int, k_steps: int, registers: int) -> list[int]:
    """For each k step the number of m tiles whose fragment is in registers."""
    each, more = divmod(registers, k_steps)
    return [each + (k < more) for k in range(k_steps)]


class _Fragments:
    """Those of A in their order, while code is emitted."""

    def __init__(
        self, builder: Any, operands: dict[str, Any], resident: list[int], ahead: int, streamed: int
    ) -> None:
        self._builder, self._shared = builder, operands["shared"][0]
        self._here = list(operands.get("fragments", ()))
        self._coming = list(operands.get("early", ()))
        self._resident, self._asked, self._streamed = resident, ahead, streamed

    def take(self, k: int, m: int) -> list[Any]:
        if m >= self._resident[k]:
            self._ask()
        source = self._here if m < self._resident[k] else self._coming
        taken, source[:4] = source[:4], []
        return taken

    def _ask(self) -> None:
        if self._asked < self._streamed:
            self._coming += emit_fragment(self._builder, self._shared, self._asked)
            self._asked += 1


def _words(
    t: Any, operands: dict[str, Any], m_tiles: int, resident: list[int], asked: range
) -> list[int]:
    """This lane's words of all fragments of A, in the order (m tile, k step)."""
    here, coming = list(operands.get("fragments", ())), list(operands.get("early", ()))
    for i in asked:
        coming += t.load("shared", operands["shared"] + i * FRAGMENT_BYTES, "<4I")
    words = np.zeros((m_tiles, len(resident), 4), np.uint32)
    for k, in_registers in enumerate(resident):
        for m in range(m_tiles):
            source = here if m < in_registers else coming
            words[m, k], source[:4] = source[:4], []
    return words.reshape(-1).tolist()


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
    streamed = m_tiles * k_steps - registers
    check_operands(m_tiles * k_steps, registers, row_bytes)
    if not 0 <= ahead <= streamed:
        raise ValueError(f"ahead is {ahead}, expected 0 to {streamed} fragments in shared memory")
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
        fragments = _Fragments(builder, operands, resident, ahead, streamed)

        def columns(k: int) -> list[list[Any]]:
            if not row_bytes:
                starts = [2 * (n * k_steps + k) for n in range(n_tiles)]
                return [operands["columns"][at : at + 4][: 2 * (k_steps - k)] for at in starts]
            places = [8 * n * row_bytes + 32 * k for n in range(n_tiles)]
            b = operands["b"][0]
            return [_emit_b(builder, add(builder, b, place), k_steps - k) for place in places]

        following = columns(0)
        for k in range(k_steps):
            if k % 2 == 0:
                words = following
                if k + 2 < k_steps and n_tiles == 1:
                    following = columns(k + 2)
            for m in range(m_tiles):
                a = fragments.take(k, m)
                for n in range(n_tiles):
                    pair = words[n][2 * (k % 2) : 2 * (k % 2) + 2]
                    sums.multiply_add(kind, k % chains, m, n, a, pair)
            if k % 2 and k + 1 < k_steps and n_tiles > 1:
                following = columns(k + 1)
        return sums.total()

    def twin(t: Any, *given: Any) -> tuple[float, ...]:
        operands = dict(zip(names, given, strict=True))
        words = _words(t, operands, m_tiles, resident, range(ahead, streamed))
        if not row_bytes:
            own = (words, operands["columns"])
            return t.collective(
                name, own, lambda rows: _of_columns(rows, m_tiles, n_tiles, k_steps, kind.name)
            )
        lanes = (words, b_rows(t, operands["b"], n_tiles, k_steps, row_bytes), None)
        return t.collective(
            name, lanes, lambda all_lanes: _product(all_lanes, m_tiles, n_tiles, k_steps, kind)
        )

    options = f"{registers}_{ahead}_{row_bytes}_{chains}"
    name = f"streamed_mma_{dtype}_{m_tiles}x{n_tiles}x{k_steps}_{options}"
    result = Registers("f32", 4 * m_tiles * n_tiles)
    return emitted(name, parameters, result, emit, twin, section="mma")
