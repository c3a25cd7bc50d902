"""Where kernels run: on a GPU through CuPy. (The emulated twin: emulated.py.)

Backends are written once against this handful of calls, so that tests can run them without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any, Protocol

from ..tuning import Device
from .launch import Program, launch

Graphs = dict[Hashable, Any]  # key -> a captured graph, or None where only the first run is done


class Machine(Protocol):
    """arrays: the module that makes arrays (cupy or numpy)."""

    arrays: Any

    def device(self) -> Device:
        """The limits to plan for."""

    def launch(self, program: Program, grid: Sequence[int], arguments: Sequence[Any]) -> None: ...

    def multiply(self, out: Any, a: Any, b: Any, precision: str = "exact") -> None:
        """out [N, p, r] = a [N, p, q] @ b [N, q, r]."""

    def replay(self, graphs: Graphs, key: Hashable, work: Callable[[], None]) -> None:
        """Do `work`: launches and products on memory that stays where it is. What was recorded
        under this key is replayed."""

    def capturing(self) -> bool:
        """Whether the caller records a graph of its own."""

    def stream(self) -> tuple[int, int]:
        """The current (device, stream): what runs on another one is not ordered with it."""


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

    def replay(self, graphs: Graphs, key: Hashable, work: Callable[[], None]) -> None:
        """The first time as it is, so that everything is compiled and loaded; the second time it
        is captured into a CUDA graph."""
        cuda = self.arrays.cuda
        current = cuda.get_current_stream()
        if self.capturing():
            # what is launched here becomes part of the caller's graph
            work()
        elif key not in graphs:
            work()
            graphs[key] = None
        else:
            if graphs[key] is None:
                graphs[key] = self._capture(work)
            graphs[key].launch(current)

    def _capture(self, work: Callable[[], None]) -> Any:
        cuda = self.arrays.cuda
        stream = cuda.Stream(non_blocking=True)
        with stream:
            # thread-local: other threads may allocate meanwhile
            stream.begin_capture(cuda.runtime.streamCaptureModeThreadLocal)
            try:
                work()
            finally:
                graph = stream.end_capture()
        return graph

    def capturing(self) -> bool:
        return bool(self.arrays.cuda.get_current_stream().is_capturing())

    def stream(self) -> tuple[int, int]:
        cuda = self.arrays.cuda
        return cuda.Device().id, int(cuda.get_current_stream().ptr)


@cache
def _limits(ordinal: int) -> Device:
    return Device.query(ordinal)


@cache
def gpu() -> CupyMachine:
    return CupyMachine()
