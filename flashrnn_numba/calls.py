"""A call like one before is neither checked nor planned again.

What a call on a GPU costs on the host is time in which the GPU waits. All that depends on the
arrays' metadata alone (shapes, strides, dtypes, alignment, device) is worked out once and kept: the
checked task, the backend, its kernel with grid and arguments. The next call with the same metadata
looks it up, allocates its results and launches. No array of a caller is kept.

Calls with NumPy arrays go the whole way each time: there the values of `lengths` are checked too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from .arrays import back_to, kind_of, package_of, to_cupy
from .cells import Cell, get_cell
from .checks import check_call, check_cotangents, check_kinds
from .kernels import machine
from .kernels.backends import choose
from .kernels.interface import Backend, Gradients, Inputs, Task, plans
from .kernels.machine import Machine
from .kernels.recent import Recent

_calls = Recent(512)
_COTANGENTS = 16  # layouts of dstates and dlast that are kept for a call

Results = tuple[Any, Any, Any]  # states, last, what backward needs


def forget() -> None:
    """Plan all calls anew: something else that plans depend on has changed."""
    _calls.clear()


def find(
    inputs: Inputs, function: str | Cell, backend: str, clip: Any, precision: str, keep: bool
) -> tuple[Call | PlannedCall, Inputs]:
    """What to call, and with which inputs. keep -- for `backward`. Raises what `flashrnn` does."""
    kind = kind_of(inputs.Wx, "Wx")
    if kind == "numpy":
        task = check_call(inputs, function, clip, precision)
        return Call(task, choose(task, backend), keep), inputs
    package, given = None, inputs
    if kind == "dlpack":
        package = package_of(inputs.Wx)
        given = _received(inputs, function, backend, clip, precision)
    on = machine.gpu()
    metadata = _metadata(on, given)
    key = (get_cell(function), backend, precision, clip, type(clip), keep, package, metadata)
    try:
        call = _calls.get(key)
    except TypeError:  # some argument is of a kind that the checks refuse
        call = None
    if call is None:
        task = check_call(inputs, function, clip, precision)
        call = _plan(on, task, backend, given, keep, package)
        _calls.put(key, call)
    return call, given


def _plan(
    on: Machine, task: Task, backend: str, given: Inputs, keep: bool, package: str | None
) -> PlannedCall:
    ordinal = _check_device(on, on.metadata(given.Wx)[-1], **given._asdict())
    with on.within(ordinal), _held(on):
        chosen = choose(task, backend)
        if package is None:
            return PlannedCall(on, ordinal, task, chosen, given, keep)
        return ExchangedCall(package, on, ordinal, task, chosen, given, keep)


def _held(on: Machine) -> AbstractContextManager[Any]:
    """While the caller records a graph, for what it will use again. Planning may copy, too."""
    return on.holding() if on.capturing() else nullcontext()


class Call:
    """A checked call of a backend, without a plan."""

    def __init__(self, task: Task, backend: Backend, keep: bool) -> None:
        self.task, self.backend = task, backend
        self.forward: Callable[[Inputs], Results] = partial(backend.forward, task, keep=keep)

    def backward(self, inputs: Inputs, kept: Any, dstates: Any, dlast: Any) -> Gradients:
        check_cotangents(self.task, dstates, dlast)
        return self.backend.backward(self.task, inputs, kept, dstates, dlast)


class PlannedCall:
    """A call on a device, for all inputs of the same metadata."""

    def __init__(
        self,
        on: Machine,
        ordinal: int | None,
        task: Task,
        backend: Backend,
        inputs: Inputs,
        keep: bool,
    ) -> None:
        self.task = task
        self._backend, self._on, self._ordinal = backend, on, ordinal
        # whatever came in, the backend is given CuPy arrays
        self._given = replace(task, kind="cupy") if task.kind == "dlpack" else task
        self._backwards = Recent(_COTANGENTS)
        self._forward: Callable[[Inputs], Results]
        if plans(backend):
            self._forward = backend.prepare_forward(self._given, inputs, keep)
        else:
            self._forward = partial(backend.forward, self._given, keep=keep)

    def forward(self, inputs: Inputs) -> Results:
        if self._on.ordinal() == self._ordinal and not self._on.capturing():
            return self._forward(inputs)
        with self._on.within(self._ordinal), _held(self._on):
            return self._forward(inputs)

    def backward(self, inputs: Inputs, kept: Any, dstates: Any, dlast: Any) -> Gradients:
        metadata = _metadata(self._on, (dstates, dlast))
        planned = None if metadata is None else self._backwards.get(metadata)
        if planned is None:
            self._check(dstates, dlast)
            planned = self._plan_backward(inputs, dstates, dlast)
            self._backwards.put(metadata, planned)
        if self._on.ordinal() == self._ordinal and not self._on.capturing():
            return planned(inputs, kept, dstates, dlast)
        with self._on.within(self._ordinal), _held(self._on):
            return planned(inputs, kept, dstates, dlast)

    def _check(self, dstates: Any, dlast: Any) -> None:
        check_cotangents(self.task, dstates, dlast)

    def _plan_backward(self, inputs: Inputs, dstates: Any, dlast: Any) -> Callable[..., Gradients]:
        _check_device(self._on, self._ordinal, dstates=dstates, dlast=dlast)
        if not plans(self._backend):
            return partial(self._backend.backward, self._given)
        with self._on.within(self._ordinal), _held(self._on):
            return self._backend.prepare_backward(self._given, inputs, dstates, dlast)


class ExchangedCall(PlannedCall):
    """A planned call for arrays of another package, which CuPy reads where they lie."""

    def __init__(self, package: str, *planned: Any) -> None:
        super().__init__(*planned)
        self._package = package

    def forward(self, inputs: Inputs) -> Results:
        states, last, kept = super().forward(inputs)
        return back_to(states, self._package), back_to(last, self._package), kept

    def backward(self, inputs: Inputs, kept: Any, dstates: Any, dlast: Any) -> Gradients:
        check_cotangents(self.task, dstates, dlast)
        given = (None if a is None else to_cupy(a) for a in (dstates, dlast))
        gradients = super().backward(inputs, kept, *given)
        return Gradients(*(None if g is None else back_to(g, self._package) for g in gradients))

    def _check(self, dstates: Any, dlast: Any) -> None:
        """Done before they became CuPy arrays."""


def _metadata(on: Machine, arrays: Sequence[Any]) -> tuple[Any, ...] | None:
    """Also for what the checks will refuse: such a call is never kept."""
    metadata = on.metadata
    try:
        return tuple([None if a is None else metadata(a) for a in arrays])
    except AttributeError:
        return None


def _check_device(on: Machine, ordinal: int | None, **arrays: Any) -> int | None:
    for name, array in arrays.items():
        if array is not None and on.metadata(array)[-1] != ordinal:
            raise ValueError(
                f"{name} is on CUDA device {on.metadata(array)[-1]} but Wx is on {ordinal}; all "
                "arrays must be on one device"
            )
    return ordinal


def _received(
    inputs: Inputs, function: str | Cell, backend: str, clip: Any, precision: str
) -> Inputs:
    """The inputs as CuPy arrays, without a copy."""
    check_kinds(**inputs._asdict())
    try:
        return Inputs(*(None if a is None else to_cupy(a) for a in inputs))
    except Exception:
        # the reason is often one that the checks can tell better
        choose(check_call(inputs, function, clip, precision), backend)
        raise
