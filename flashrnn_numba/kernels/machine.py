"""Where kernels run: on a GPU through CuPy. (The emulated twin: emulated.py.)

Backends are written once against this handful of calls, so that tests can run them without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

from ..tuning import Device
from .launch import Program, launch


class Machine(Protocol):
    """arrays: the module that makes arrays (cupy or numpy)."""

    arrays: Any

    def device(self) -> Device:
        """The limits to plan for."""

    def launch(self, program: Program, grid: Sequence[int], arguments: Sequence[Any]) -> None: ...

    def multiply(self, out: Any, a: Any, b: Any, precision: str = "exact") -> None:
        """out [N, p, r] = a [N, p, q] @ b [N, q, r]."""


class CupyMachine:
    """The current CuPy device and stream."""

    def __init__(self) -> None:
        import cupy

        self.arrays = cupy

    def device(self) -> Device:
        return _limits(self.arrays.cuda.Device().id)

    def launch(self, program: Program, grid: Sequence[int], arguments: Sequence[Any]) -> None:
        launch(program, grid, arguments)

    def multiply(self, out: Any, a: Any, b: Any, precision: str = "exact") -> None:
        from .cublas import multiply

        multiply(out, a, b, precision)


@cache
def _limits(ordinal: int) -> Device:
    return Device.query(ordinal, measure_clusters=False)


@cache
def gpu() -> CupyMachine:
    return CupyMachine()
