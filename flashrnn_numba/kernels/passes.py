"""One pass of a fused kernel over a sequence, planned: what is left to do at each call.

    states, last, kept = Forward(machine, task, inputs, keep, launch)(inputs)
    gradients = Backward(machine, task, inputs, dstates, dlast, stages)(inputs, kept, ...)

Both kernels of a direction (portable, tensor cores) take the same arrays in the same order. A pass
holds none of the arrays that it was planned with, and may be called with any others of the same
metadata (machine.Machine.metadata).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..arrays import compute_dtype
from . import gpu
from .fused_names import HAS_DLAST, HAS_DSTATES
from .gpu import strides
from .interface import Gradients, Inputs, Task
from .machine import Machine
from .weight_gradients import Sum, WeightGradients

Launch = Callable[..., None]  # takes the arrays, None for a null pointer


class Kept(NamedTuple):
    """What backward needs: pre-activations [B, T, H, D, G], of which a thread moves all of a unit
    at once ([B, T, G, H, D] in alternating kernels); states as returned; all states but s_0 in
    compute precision [S - 1, B, T, H, D] (a part of `states` where that is their dtype)."""

    gates: Any
    states: Any
    exact: Any


class Stage(NamedTuple):
    """A part of a backward pass. Once it has run all gradients of these batch rows are there, from
    the first one on."""

    launch: Launch
    rows: int


class Forward:
    """launch -- takes Wx, R, b, initial states, reset, lengths, and what the kernel writes: states,
    last, exact and gates of `Kept` (None unless kept)."""

    def __init__(self, on: Machine, task: Task, inputs: Inputs, keep: bool, launch: Launch) -> None:
        B, T, H, D, S = task.B, task.T, task.H, task.D, len(task.cell.states)
        self._machine, self._launch, self._keep = on, launch, keep
        self._array, self._dtype = on.arrays.ndarray, inputs.Wx.dtype
        self._real = compute_dtype(task.dtype)
        self._same = self._dtype == self._real
        self._as_given = gpu.readable_as_given(on, inputs)
        self._states, self._last = (S, B, T, H, D), (S, B, 1, H, D)
        self._exact, self._gates = (S - 1, B, T, H, D), (B, T, H, D, len(task.cell.gates))

    def __call__(self, inputs: Inputs) -> tuple[Any, Any, Kept | None]:
        array = self._array
        states, last = array(self._states, self._dtype), array(self._last, self._dtype)
        given = inputs if self._as_given else gpu.prepared(self._machine, inputs)
        if not self._keep:
            self._launch(*given, states, last, None, None)
            return states, last, None
        exact = states[1:] if self._same else array(self._exact, self._real)
        gates = array(self._gates, self._real)
        self._launch(*given, states, last, exact, gates)
        return states, last, Kept(gates, states, exact)


class Backward:
    """stages -- one, or two where the second leaves room on the device: the weight gradients of
    the first one's rows are computed beside it. Each takes R, initial states, reset, lengths;
    states, exact and gates of `Kept`; dstates, dlast; and what the kernel writes: dgates, s_0(t-1),
    the initial states' gradient, the bias's gradient of each batch row [B, Gb, H, D] in compute
    precision.
    copied -- dstates must be made contiguous for this kernel."""

    def __init__(
        self,
        on: Machine,
        task: Task,
        inputs: Inputs,
        dstates: Any,
        dlast: Any,
        stages: Sequence[Stage],
        copied: bool = False,
    ) -> None:
        B, T, H, D, S = task.B, task.T, task.H, task.D, len(task.cell.states)
        self._machine, self._launches = on, [stage.launch for stage in stages]
        self._array, self._dtype = on.arrays.ndarray, inputs.Wx.dtype
        given = (gpu.readable(on, dstates) is dstates, gpu.readable(on, dlast) is dlast)
        self._as_given = all(given) and gpu.readable_as_given(on, inputs)
        self._copied = copied
        self._dgates, self._previous = (B, T, len(task.cell.gates), H, D), (B, T, H, D)
        self._dinitial = (S, B, 1, H, D)
        self._dbias_rows = (B, len(task.cell.bias_gates), H, D)
        self._real = compute_dtype(task.dtype)
        self._weights = WeightGradients(on, task, self._dtype, [s.rows for s in stages[:-1]])
        self._bias = Sum(on, self._dbias_rows, self._real, self._dtype)

    def __call__(self, inputs: Inputs, kept: Any, dstates: Any, dlast: Any) -> Gradients:
        array, dtype = self._array, self._dtype
        if not self._as_given:
            inputs = gpu.prepared(self._machine, inputs)
            dstates = gpu.readable(self._machine, dstates)
            dlast = gpu.readable(self._machine, dlast)
        if self._copied:
            dstates = self._machine.arrays.ascontiguousarray(dstates)
        dgates, previous = array(self._dgates, dtype), array(self._previous, dtype)
        dinitial = array(self._dinitial, dtype)
        dbias_rows = array(self._dbias_rows, self._real)
        _, R, _, initial, reset, lengths = inputs
        gates, states, exact = kept
        arrays = (
            *(R, initial, reset, lengths, states, exact, gates, dstates, dlast),
            *(dgates, previous, dinitial, dbias_rows),
        )
        dR = self._through(arrays, dgates, previous)
        dWx, db = self._weights.inputs(dgates), self._bias(dbias_rows)
        return Gradients(dWx, dR, db, None if initial is None else dinitial)

    def _through(self, arrays: tuple[Any, ...], dgates: Any, previous: Any) -> Any:
        """All stages, and dR."""
        weights, (first, *second) = self._weights, self._launches
        sums = weights.begin()
        first(*arrays)
        if second:
            self._machine.beside(
                lambda begun: second[0](*arrays, begun=begun),
                lambda: weights.add(0, sums, dgates, previous),
            )
        weights.add(len(second), sums, dgates, previous)
        return weights.total(sums)


def forward_strides(given: Inputs) -> list[tuple[int, ...]]:
    """The forward kernels' first constants."""
    axes = (5, 4, 3, 5, 2)
    return [strides(array, count) for array, count in zip(given[:5], axes, strict=True)]


def backward_strides(given: Inputs, dstates: Any, dlast: Any) -> list[tuple[int, ...]]:
    """The backward kernels' first constants."""
    arrays, axes = (given.R, given.states, given.reset, dstates, dlast), (4, 5, 2, 5, 5)
    return [strides(array, count) for array, count in zip(arrays, axes, strict=True)]


def backward_options(inputs: Inputs, dstates: Any, dlast: Any) -> int:
    """Bits of the backward kernels' argument `options`: which optional inputs there are."""
    options = gpu.start_options(inputs)
    options |= HAS_DSTATES if dstates is not None else 0
    return options | (HAS_DLAST if dlast is not None else 0)
