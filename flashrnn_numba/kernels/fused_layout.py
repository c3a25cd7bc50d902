"""How the fused kernels' work is cut (`Tiling`), and what shared memory that takes (`layout`).

The arithmetic works on integers and on the tuner's expressions alike, so the tuner counts what the
kernel uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..cells import Cell
from .formats import FORMATS

if TYPE_CHECKING:
    from ..tuning import Device
    from .interface import Task

Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class Tiling:
    """How the fused kernel's work is cut.

    heads, rows -- of a block, which keeps them for all time steps; a launch may give it fewer rows.
    row_tile, unit_tile -- rows and units of a thread in the product: R is read from shared memory
        once for row_tile rows, the state once for unit_tile units.
    split -- threads that share one sum.
    threads -- of a block; in the pointwise phase each takes rows * heads * D / threads units.
    """

    heads: int
    rows: int
    row_tile: int
    unit_tile: int
    split: int
    threads: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a positive int, got {value!r}")
        if self.rows % self.row_tile:
            raise ValueError(f"rows ({self.rows}) is no multiple of row_tile ({self.row_tile})")


@dataclass(frozen=True)
class Layout:
    """Sizes that follow from problem and tiling; the names are those of fused_names.py."""

    D: int
    columns: Any
    outputs: Any
    per_thread: int
    groups: int
    product_threads: int
    lines: int
    depth: int
    chunks: int
    pitch: int
    left_pitch: int
    left_at: int
    sums_at: int
    shared_bytes: int


def layout(cell: Cell, dtype: str, D: int, direction: Direction, tiling: Any) -> Layout:
    """Where everything lies in shared memory, and how many bytes that takes.

    tiling -- a Tiling, or an object with its attributes as expressions.
    """
    z, storage = tiling, FORMATS[dtype]
    recurrent = len(cell.recurrent_gates)
    lines, depth = (recurrent, D) if direction == "forward" else (min(1, recurrent), recurrent * D)
    columns = z.heads * D
    outputs = z.rows * columns
    groups = -(-D // z.unit_tile)
    vectors = z.split * -(-depth // (storage.vector * z.split))
    # odd numbers of 16-byte vectors: neighbouring lines then begin in different banks
    pitch = _odd(vectors) * storage.words
    per_vector = 16 // storage.real_bytes
    left_pitch = _odd(vectors * (storage.vector // per_vector)) * per_vector
    left_at = lines * columns * pitch * storage.word_bytes // storage.real_bytes
    sums_at = left_at + z.rows * z.heads * left_pitch
    sums = z.split * lines * outputs
    return Layout(
        D=D,
        columns=columns,
        outputs=outputs,
        per_thread=-(-outputs // z.threads),
        groups=groups,
        product_threads=z.heads * groups * (z.rows // z.row_tile) * z.split,
        lines=lines,
        depth=depth,
        chunks=vectors // z.split,
        pitch=pitch,
        left_pitch=left_pitch,
        left_at=left_at,
        sums_at=sums_at,
        shared_bytes=(sums_at + sums) * storage.real_bytes,
    )


def _odd(n: Any) -> Any:
    return n + 1 - n % 2


def grid_of(
    task: Task, tiling: Tiling, shared_bytes: int, device: Device, per_sm: int | None = None
) -> tuple[int, int, int]:
    """(blocks along the batch, blocks along the heads, rows a block): rows are spread over as many
    blocks as run at once before a block takes more of them.

    per_sm -- blocks of a multiprocessor; None: as shared memory and threads allow.
    """
    heads = -(-task.H // tiling.heads)
    if per_sm is None:
        per_sm = min(
            device.shared_per_sm // (shared_bytes + device.shared_reserved),
            device.threads_per_sm // tiling.threads,
        )
    at_once = max(1, device.sms * max(1, per_sm) // heads)
    rows = min(tiling.rows, max(1, -(-task.B // at_once)))
    return -(-task.B // rows), heads, rows
