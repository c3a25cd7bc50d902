"""Checks of a call's arguments, before anything is computed or launched."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from .arrays import DTYPES, dtype_name, kind_of
from .cells import Cell, get_cell
from .kernels.interface import Inputs, Task, check_precision


def check_call(
    inputs: Inputs,
    function: str | Cell,
    recurrent_gradient_clip: float | None,
    precision: str = "auto",
) -> Task:
    """What to compute, or TypeError / ValueError naming the argument."""
    Wx, R, b, states, reset, lengths = inputs
    cell = get_cell(function)
    kind = check_kinds(**inputs._asdict())
    dtype = _check_dtypes(Wx=Wx, R=R, b=b, states=states)
    _rank("Wx", Wx, "[B, T, Gx, H, D]")
    B, T, _, H, D = Wx.shape
    expected = [cell.input_gates, cell.recurrent_gates, cell.bias_gates]
    gx, gr, gb = (tuple(list(cell.gates)[i] for i in part) for part in expected)
    _axis("Wx", Wx, 2, "gates with input", len(gx), f"cell {cell.name!r} has {_names(gx)}")
    for axis, what, size in ((3, "heads H", H), (4, "head dimension D", D)):
        if size < 1:
            raise ValueError(f"Wx has {what} = {size} (axis {axis}), expected at least 1")
    _shape("R", R, "[Gr, H, D, D]", (len(gr), H, D, D), f"recurrent gates: {_names(gr)}")
    _shape("b", b, "[Gb, H, D]", (len(gb), H, D), f"gates with bias: {_names(gb)}")
    if states is not None:
        S = len(cell.states)
        hint = f"states: {_names(cell.states)}"
        _shape("states", states, "[S, B, 1, H, D]", (S, B, 1, H, D), hint)
    if reset is not None:
        if dtype_name(reset) != "bool":
            raise TypeError(f"reset must be of dtype bool, got {dtype_name(reset)}")
        _shape("reset", reset, "[B, T]", (B, T), "one flag for each row and step")
    if lengths is not None:
        _check_lengths(lengths, B, T)
    clip = _check_clip(recurrent_gradient_clip)
    check_precision(precision)
    return Task(cell, B, T, H, D, dtype, kind, clip, precision)


def check_cotangents(task: Task, dstates: Any, dlast: Any) -> None:
    """dstates [S, B, T, H, D] and dlast [S, B, 1, H, D], in the dtype and kind of the inputs."""
    S = len(task.cell.states)
    for name, array, steps, layout in (
        ("dstates", dstates, task.T, "[S, B, T, H, D]"),
        ("dlast", dlast, 1, "[S, B, 1, H, D]"),
    ):
        if array is None:
            continue
        kind = kind_of(array, name)
        if kind != task.kind:
            raise TypeError(f"{name} is a {kind} array, but the inputs were {task.kind} arrays")
        if dtype_name(array) != task.dtype:
            raise TypeError(f"{name} has dtype {dtype_name(array)}, the inputs had {task.dtype}")
        _shape(name, array, layout, (S, task.B, steps, task.H, task.D), "as the states returned")


def _names(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def check_kinds(**arrays: Any) -> str:
    """The kind of all arrays; those of the inputs that may be None are left out."""
    kinds = {n: kind_of(a, n) for n, a in arrays.items() if a is not None or n in ("Wx", "R", "b")}
    for name, kind in kinds.items():
        if kind != kinds["Wx"]:
            raise TypeError(
                f"{name} is a {kind} array but Wx is a {kinds['Wx']} array; all arrays must be of "
                "one kind, on one device"
            )
    return kinds["Wx"]


def _check_dtypes(**arrays: Any) -> str:
    dtypes = {n: dtype_name(a) for n, a in arrays.items() if a is not None}
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise TypeError(f"{name} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
    for name, dtype in dtypes.items():
        if dtype != dtypes["Wx"]:
            raise TypeError(
                f"{name} has dtype {dtype} but Wx has {dtypes['Wx']}; all must be the same "
                f"(convert with {name}.astype)"
            )
    return dtypes["Wx"]


def _rank(name: str, array: Any, layout: str) -> None:
    rank = layout.count(",") + 1
    if array.ndim != rank:
        raise ValueError(
            f"{name} must have {rank} axes {layout}, got {array.ndim}: shape {tuple(array.shape)}"
        )


def _axis(name: str, array: Any, axis: int, what: str, size: int, hint: str) -> None:
    if array.shape[axis] != size:
        raise ValueError(
            f"{name} has {array.shape[axis]} {what} (axis {axis}), expected {size}: {hint}"
        )


def _shape(name: str, array: Any, layout: str, expected: tuple[int, ...], hint: str) -> None:
    _rank(name, array, layout)
    if tuple(array.shape) != expected:
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}, expected {layout} = {expected} to fit Wx "
            f"({hint})"
        )


def _check_lengths(lengths: Any, B: int, T: int) -> None:
    if np.dtype(dtype_name(lengths)).kind not in "iu":
        raise TypeError(f"lengths must be of an integer dtype, got {dtype_name(lengths)}")
    _shape("lengths", lengths, "[B]", (B,), "one length for each row")
    # on a GPU the values are not looked at (that would synchronise); kernels clamp them to 0..T
    if isinstance(lengths, np.ndarray):
        wrong = np.flatnonzero((lengths < 0) | (lengths > T))
        if len(wrong):
            i = wrong[0]
            raise ValueError(f"lengths[{i}] is {lengths[i]}, expected 0 to T = {T}")


def _check_clip(clip: Any) -> float | None:
    if clip is None:
        return None
    if isinstance(clip, bool) or not isinstance(clip, Real | np.number):
        raise TypeError(
            f"recurrent_gradient_clip must be a positive number or None, got {type(clip).__name__}"
        )
    if not float(clip) > 0 or math.isinf(float(clip)):
        raise ValueError(
            f"recurrent_gradient_clip must be positive and finite, got {clip}; None for no clipping"
        )
    return float(clip)
