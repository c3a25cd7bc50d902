"""What the names of a kernel mean in the emulator: cuda.*, math, libdevice."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from .errors import EmulatorError
from .memory import ArrayView, current, local_array
from .scalars import Cast, Float32, UInt, math_function, round32
from .thread import FULL_WARP


class _Dim3:
    """threadIdx and its like: three attributes of the thread that asks."""

    def __init__(self, get: Any) -> None:
        self._get = get

    x = property(lambda self: self._get(current())[0])
    y = property(lambda self: self._get(current())[1])
    z = property(lambda self: self._get(current())[2])


def as_dtype(dtype: Any) -> np.dtype[Any]:
    return dtype.dtype if isinstance(dtype, Cast) else np.dtype(getattr(dtype, "name", dtype))


def _shape(shape: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in shape) if isinstance(shape, tuple | list) else (int(shape),)


def _shared_array(shape: Any, dtype: Any, alignment: Any = None) -> ArrayView:
    thread = current()
    view: ArrayView = thread.block.shared.array(thread.site(), _shape(shape), as_dtype(dtype))
    return view


def _local_array(shape: Any, dtype: Any, alignment: Any = None) -> ArrayView:
    return local_array(_shape(shape), as_dtype(dtype))


def constant_array(array: Any) -> ArrayView:
    items = np.array(array)
    items.flags.writeable = False
    return ArrayView(items, None, 0, "constant array")


# Barriers


def _syncthreads() -> None:
    thread = current()
    thread.block.barrier.join(thread)


def _vote(predicate: Any) -> list[bool]:
    thread = current()
    votes: list[bool] = thread.block.barrier.join(thread, bool(predicate))
    return votes


def _grid_sync() -> None:
    thread = current()
    if thread.machine.grid_barrier is None:
        raise EmulatorError("grid sync needs a cooperative launch: emulate(..., cooperative=True)")
    thread.machine.grid_barrier.join(thread)


def _grid(axes: int) -> Any:
    thread = current()
    shape = thread.machine.block_shape
    at = [thread.block.position[i] * shape[i] + thread.position[i] for i in range(axes)]
    return at[0] if axes == 1 else tuple(at)


def _gridsize(axes: int) -> Any:
    machine = current().machine
    sizes = [machine.grid_shape[i] * machine.block_shape[i] for i in range(axes)]
    return sizes[0] if axes == 1 else tuple(sizes)


# Warp operations


def _shuffle(name: str, source: Any) -> Any:
    def shuffle(mask: int, value: Any, n: int) -> Any:
        return current().shuffle(name, int(mask) & FULL_WARP, value, int(n), source)

    return shuffle


def _ballot(name: str, combine: Any) -> Any:
    def vote(mask: int, predicate: Any) -> Any:
        def count(lanes: list[Any]) -> list[Any]:
            return [combine(lanes)] * 32

        return current().collective(name, (bool(predicate),), count, int(mask) & FULL_WARP)

    return vote


def _bits(lanes: list[Any]) -> UInt:
    return UInt(sum(1 << lane for lane, given in enumerate(lanes) if given and given[0]))


# Atomics


def _atomic(change: Any) -> Any:
    def apply(array: ArrayView, index: Any, *values: Any) -> Any:
        thread = current()
        index, offset = array.locate(index)
        if array.memory is None:
            raise EmulatorError("an atomic needs a shared or global array")
        thread.touch(array.memory, offset, array.items.itemsize, True, atomic=True)
        old = array.items[index]
        new = change(old, *(array.dtype.type(value) for value in values))
        array.items[index] = new
        thread.after_atomic(array.memory, offset, release=False, changed=new != old)
        return Cast(array.dtype)(old)

    return apply


def _increment(old: Any, limit: Any) -> Any:
    return 0 if old >= limit else old + 1


def _decrement(old: Any, limit: Any) -> Any:
    return limit if old == 0 or old > limit else old - 1


_cas = _atomic(lambda old, expected, new: new if old == expected else old)
atomic = SimpleNamespace(
    add=_atomic(lambda old, value: old + value),
    sub=_atomic(lambda old, value: old - value),
    and_=_atomic(lambda old, value: old & value),
    or_=_atomic(lambda old, value: old | value),
    xor=_atomic(lambda old, value: old ^ value),
    max=_atomic(max),
    min=_atomic(min),
    exch=_atomic(lambda old, value: value),
    inc=_atomic(_increment),
    dec=_atomic(_decrement),
    cas=_cas,
    compare_and_swap=lambda array, old, value: _cas(array, 0, old, value),
)


def _fma(a: Any, b: Any, c: Any) -> Any:
    exact = float(a) * float(b) + float(c)
    single = all(value.__class__ is Float32 for value in (a, b, c))
    return round32(exact) if single else np.float64(exact)


def _reverse_bits(value: int) -> UInt:
    return UInt(int(f"{int(value) & FULL_WARP:032b}"[::-1], 2))


class _Cuda:
    """numba.cuda."""

    threadIdx = _Dim3(lambda thread: thread.position)  # noqa: N815 -- Numba's names
    blockIdx = _Dim3(lambda thread: thread.block.position)  # noqa: N815
    blockDim = _Dim3(lambda thread: thread.machine.block_shape)  # noqa: N815
    gridDim = _Dim3(lambda thread: thread.machine.grid_shape)  # noqa: N815
    warpsize = 32
    laneid = property(lambda self: current().lane)

    shared = SimpleNamespace(array=_shared_array)
    local = SimpleNamespace(array=_local_array)
    const = SimpleNamespace(array_like=constant_array)
    cg = SimpleNamespace(this_grid=lambda: SimpleNamespace(sync=_grid_sync))
    atomic = atomic

    grid = staticmethod(_grid)
    gridsize = staticmethod(_gridsize)
    syncthreads = staticmethod(_syncthreads)
    syncthreads_count = staticmethod(lambda predicate: sum(_vote(predicate)))
    syncthreads_and = staticmethod(lambda predicate: int(all(_vote(predicate))))
    syncthreads_or = staticmethod(lambda predicate: int(any(_vote(predicate))))
    syncwarp = staticmethod(lambda mask=FULL_WARP: current().sync_warp(int(mask) & FULL_WARP))
    threadfence = staticmethod(lambda: current().fence())
    threadfence_block = staticmethod(lambda: current().fence())
    threadfence_system = staticmethod(lambda: current().fence())
    nanosleep = staticmethod(lambda time: current().pause())

    shfl_sync = staticmethod(_shuffle("shfl_sync", lambda lane, n: n % 32))
    shfl_xor_sync = staticmethod(_shuffle("shfl_xor_sync", lambda lane, n: lane ^ n))
    shfl_down_sync = staticmethod(_shuffle("shfl_down_sync", lambda lane, n: lane + n))
    shfl_up_sync = staticmethod(_shuffle("shfl_up_sync", lambda lane, n: lane - n))
    ballot_sync = staticmethod(_ballot("ballot_sync", _bits))
    any_sync = staticmethod(_ballot("any_sync", lambda lanes: any(g and g[0] for g in lanes)))
    all_sync = staticmethod(_ballot("all_sync", lambda lanes: all(not g or g[0] for g in lanes)))

    fma = staticmethod(_fma)
    selp = staticmethod(lambda condition, yes, no: yes if condition else no)
    popc = staticmethod(lambda value: int(value).bit_count())
    clz = staticmethod(lambda value: 32 - (int(value) & FULL_WARP).bit_length())
    ffs = staticmethod(lambda value: (int(value) & -int(value)).bit_length())
    brev = staticmethod(_reverse_bits)
    cbrt = staticmethod(lambda value: round32(np.cbrt(value)))

    @property
    def libdevice(self) -> Any:
        return libdevice

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the emulator has no cuda.{name}")


class _Math:
    """math: float32 in, float32 out; never an exception."""

    def __getattr__(self, name: str) -> Any:
        constant = getattr(__import__("math"), name, None)
        if isinstance(constant, float):
            return constant
        function = math_function(name)
        self.__dict__[name] = function
        return function


class _Libdevice:
    """numba.cuda.libdevice, by the names of math: expf and fast_expf are math.exp in float32."""

    def __getattr__(self, name: str) -> Any:
        short = name.removeprefix("fast_")
        single = short.endswith("f") and short != "erf"
        short = short[:-1] if single else short
        function = math_function(short)

        def call(*values: Any) -> Any:
            return function(*(round32(value) if single else np.float64(value) for value in values))

        self.__dict__[name] = call
        return call


cuda = _Cuda()
math_names = _Math()
libdevice = _Libdevice()
