"""Where kernels run: on a GPU through CuPy. (The emulated twin: emulated.py.)

Backends are written once against this handful of calls, so that tests can run them without a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Protocol

import numpy as np

from ..tuning import Device
from . import cublas, launch
from .cublas import View
from .driver import announces
from .launch import Program, together
from .recent import Recent

_PER_THREAD = 2  # the handle that means another default stream in each thread
Graphs = dict[Hashable, Any]  # key -> a captured graph, or None where only the first run is done


class Machine(Protocol):
    """arrays: the module that makes arrays (cupy or numpy)."""

    arrays: Any

    def device(self) -> Device:
        """The limits to plan for."""

    def ordinal(self) -> int | None:
        """The number of the current device."""

    def within(self, ordinal: int | None) -> AbstractContextManager[Any]:
        """Another device is the current one, for a while."""

    def metadata(self, array: Any) -> tuple[Any, ...]:
        """All of an array that plans depend on: shape, strides, dtype, address modulo 16, device.
        AttributeError for what is no array of this machine."""

    def blocks_per_sm(self, program: Program) -> int | None:
        """How many blocks of a kernel a multiprocessor holds, registers included, where the machine
        can tell."""

    def prepare(
        self, program: Program, grid: Sequence[int], constants: Sequence[Any]
    ) -> Callable[..., None]:
        """`launch` for many times: the arguments that are no pointers now, arrays at the call, and
        there `begun`: what `beside` gives, or None."""

    def launch(self, program: Program, grid: Sequence[int], arguments: Sequence[Any]) -> None: ...

    def expect(self, programs: Sequence[Program]) -> None:
        """These will be needed soon."""

    def expect_some_day(self, key: Hashable, programs: Callable[[], Iterable[Program]]) -> None:
        """These may be needed; asked for once for each key and device. key -- what they depend on,
        as things that every process writes alike."""

    def prepare_product(
        self, out: View, a: View, b: View, precision: str = "auto"
    ) -> Callable[..., None]:
        """`multiply` for many times: the arrays that these are views of at the call."""

    def multiply(self, out: Any, a: Any, b: Any, precision: str = "auto") -> None:
        """out [N, p, r] = a [N, p, q] @ b [N, q, r]."""

    def filled(self, shape: tuple[int, ...], dtype: Any, byte: int) -> Any:
        """A new array, each byte of which is `byte`."""

    def mailbox(self, words: int) -> Any:
        """At least so many uint32 with all bits set, for one kernel at a time; a kernel leaves them
        as it found them."""

    def ones(self, count: int, dtype: Any) -> Any:
        """At least so many ones."""

    def replay(self, graphs: Graphs, key: Hashable, work: Callable[[], None]) -> None:
        """Do `work`: launches and products on memory that stays where it is. What was recorded
        under this key is replayed."""

    def capturing(self) -> bool:
        """Whether the caller records a graph of its own."""

    def holding(self) -> AbstractContextManager[Any]:
        """What is allocated within is never freed: a graph of the caller's uses it at each replay,
        and nobody tells when the graph is gone."""

    def stream(self) -> tuple[int, ...]:
        """The current (device, stream): what runs on another one is not ordered with it."""

    def held_stream(self) -> Any:
        """While this object lives no other stream can get the current one's name."""

    def beside(self, launch: Callable[[Any], None], work: Callable[[], None]) -> None:
        """`launch(begun)`, and `work` beside it: both after all that was asked for so far, and
        before what comes next. The launch comes first where they might want the same room."""


class HostMachine:
    """What machines without a GPU share: one device, launches that need no preparation."""

    arrays: Any = np

    def ordinal(self) -> int | None:
        return None

    def within(self, ordinal: int | None) -> AbstractContextManager[Any]:
        return nullcontext()

    def metadata(self, array: Any) -> tuple[Any, ...]:
        return array.shape, array.strides, array.dtype, array.ctypes.data & 15, None

    def blocks_per_sm(self, program: Program) -> int | None:
        return None

    def prepare(
        self, program: Program, grid: Sequence[int], constants: Sequence[Any]
    ) -> Callable[..., None]:
        def launch(*arrays: Any, begun: Any = None) -> None:
            self.launch(program, grid, together(program, arrays, constants))

        return launch

    def launch(self, program: Program, grid: Sequence[int], arguments: Sequence[Any]) -> None:
        raise NotImplementedError

    def prepare_product(
        self, out: View, a: View, b: View, precision: str = "auto"
    ) -> Callable[..., None]:
        return lambda results, left, right: self.multiply(
            out.within(results), a.within(left), b.within(right), precision
        )

    def multiply(self, out: Any, a: Any, b: Any, precision: str = "auto") -> None:
        raise NotImplementedError

    def filled(self, shape: tuple[int, ...], dtype: Any, byte: int) -> Any:
        made = self.arrays.empty(shape, dtype)
        made.view("uint8").fill(byte)
        return made

    def expect(self, programs: Sequence[Program]) -> None:
        """Nothing is compiled."""

    def expect_some_day(self, key: Hashable, programs: Callable[[], Iterable[Program]]) -> None:
        """Nor is it then."""

    def mailbox(self, words: int) -> Any:
        return self.filled((words,), "uint32", 0xFF)

    def ones(self, count: int, dtype: Any) -> Any:
        return self.arrays.ones(count, dtype)

    def replay(self, graphs: Graphs, key: Hashable, work: Callable[[], None]) -> None:
        work()

    def capturing(self) -> bool:
        return False

    def holding(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def stream(self) -> tuple[int, ...]:
        return 0, 0

    def held_stream(self) -> Any:
        return None

    def beside(self, launch: Callable[[Any], None], work: Callable[[], None]) -> None:
        launch(None)
        work()


class CupyMachine:
    """The current CuPy device and stream."""

    def __init__(self) -> None:
        import cupy

        self.arrays = cupy
        self.ordinal = cupy.cuda.device.get_device_id
        self._stream = self.held_stream = cupy.cuda.get_current_stream
        self.within = cupy.cuda.Device
        self.blocks_per_sm = launch.blocks_per_sm
        self.prepare = launch.prepare
        self.launch = launch.launch
        self.prepare_product = cublas.prepare
        self.multiply = cublas.multiply
        self._ones: dict[tuple[int, str], Any] = {}
        self._mailboxes = Recent(16)  # by stream: kernels of two streams may run at once
        self._companions = Recent(16)  # streams for work beside that of another, likewise
        self._held: list[Any] = []

    def device(self) -> Device:
        return _limits(self.ordinal())

    def expect(self, programs: Sequence[Program]) -> None:
        launch.expect(programs, self.device().compute_capability)

    def expect_some_day(self, key: Hashable, programs: Callable[[], Iterable[Program]]) -> None:
        ordinal = self.ordinal()

        def found() -> Iterator[Program]:
            with self.within(ordinal):
                yield from programs()

        device = self.device()
        launch.expect_some_day((device, key), found, device.compute_capability)

    def metadata(self, array: Any) -> tuple[Any, ...]:
        data = array.data
        return array.shape, array.strides, array.dtype, data.ptr & 15, data.device_id

    def filled(self, shape: tuple[int, ...], dtype: Any, byte: int) -> Any:
        made = self.arrays.ndarray(shape, dtype)
        if made.nbytes:
            made.data.memset_async(byte, made.nbytes)
        return made

    def mailbox(self, words: int) -> Any:
        stream = self._stream()
        if self.capturing() or stream.ptr == _PER_THREAD:
            # a graph may run beside what is launched on this stream; and who knows which thread
            # had this one's name before
            return self.filled((words,), "uint32", 0xFF)
        place = self.ordinal(), stream.ptr
        _, found = self._mailboxes.get(place) or (None, None)
        if found is None or found.size < words:
            found = self.filled((words,), "uint32", 0xFF)
            # with the stream: while this is kept no other one can get its handle
            self._mailboxes.put(place, (stream, found))
        return found

    def ones(self, count: int, dtype: Any) -> Any:
        """Written once; every stream may read them."""
        key = self.ordinal(), np.dtype(dtype).name
        found = self._ones.get(key)
        if found is None or found.size < count:
            if self.capturing():
                return self.arrays.ones(count, dtype)
            if found is not None:
                self._held.append(found)  # another stream or a graph may read it at any time
            found = self._ones[key] = self._lasting_ones(count, dtype)
        return found

    def _lasting_ones(self, count: int, dtype: Any) -> Any:
        # its own stream waits for nothing that a caller has asked for
        with self.arrays.cuda.Stream(non_blocking=True) as stream:
            made = self.arrays.ndarray(1 << max(0, count - 1).bit_length(), dtype)
            made.set(np.ones(made.shape, dtype), stream=stream)
            stream.synchronize()
        return made

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
                graphs[key] = self._capture(current, work)
            graphs[key].launch(current)

    def _capture(self, current: Any, work: Callable[[], None]) -> Any:
        """A graph that is launched on the current stream."""
        cuda = self.arrays.cuda
        stream = cuda.Stream(non_blocking=True)
        with cublas.capturing_for(current), stream:
            # thread-local: other threads may allocate meanwhile
            stream.begin_capture(cuda.runtime.streamCaptureModeThreadLocal)
            try:
                work()
            finally:
                graph = stream.end_capture()
        return graph

    def capturing(self) -> bool:
        stream = self._stream()
        # the default stream never is: that spares the question
        return bool(stream.ptr) and bool(stream.is_capturing())

    def holding(self) -> AbstractContextManager[Any]:
        cuda = self.arrays.cuda
        allocate = cuda.get_allocator()

        def held(size: int) -> Any:
            memory = allocate(size)
            self._held.append(memory)
            return memory

        return cuda.using_allocator(held)

    def stream(self) -> tuple[int, ...]:
        pointer = self._stream().ptr
        if pointer == _PER_THREAD:
            return self.ordinal(), pointer, threading.get_ident()
        return self.ordinal(), pointer

    def beside(self, launch: Callable[[Any], None], work: Callable[[], None]) -> None:
        cuda, main = self.arrays.cuda, self._stream()
        if self.capturing() or not announces(cuda.runtime.driverGetVersion()):
            launch(None)
            work()
            return
        companion = self._companion_of(main)
        before, begun, done = (cuda.Event(disable_timing=True) for _ in range(3))
        main.record(before)
        launch(begun)
        # what comes before is certain to be done then; that the launch has begun is a matter of
        # speed: a product that had taken the room would keep it
        companion.wait_event(before)
        companion.wait_event(begun)
        try:
            with companion:
                work()
        finally:
            companion.record(done)
            main.wait_event(done)

    def _companion_of(self, stream: Any) -> Any:
        _, found = self._companions.get(self.stream()) or (None, None)
        if found is None:
            found = self.arrays.cuda.Stream(non_blocking=True)
            # with the stream: while this is kept no other one can get its handle
            self._companions.put(self.stream(), (stream, found))
        return found


@cache
def _limits(ordinal: int) -> Device:
    return Device.query(ordinal)


@cache
def gpu() -> CupyMachine:
    return CupyMachine()
