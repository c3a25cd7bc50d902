"""The public calls; calls.py checks them and knows what was planned before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .calls import find
from .cells import Cell
from .kernels.interface import Gradients, Inputs


def flashrnn(
    Wx: Any,
    R: Any,
    b: Any,
    states: Any = None,
    function: str | Cell = "lstm",
    backend: str = "auto",
    reset: Any = None,
    lengths: Any = None,
    recurrent_gradient_clip: float | None = None,
    precision: str = "auto",
) -> tuple[Any, Any]:
    """Run a recurrent cell over a sequence.

        gate_j(t) = Wx_j(t) + R_j s_0(t-1) + b_j,    s(t) = cell(gates(t), s(t-1))

    Shapes and the meaning of each axis are FlashRNN's (Pöppel, Beck, Hochreiter 2024):

    - Wx [B, T, Gx, H, D]: input part of the gates that take input, in the cell's order.
    - R [Gr, H, D (new unit), D (previous unit)]: recurrent matrix of the gates that take s_0.
    - b [Gb, H, D]: bias of the gates that have one.
    - states [S, B, 1, H, D], or None for the cell's initial values.
    - function: name of a registered cell, or a `Cell`.
    - backend: "auto", "fused", "alternating", "cpu" or "reference".
    - reset [B, T] bool: where true, the state becomes the initial one before that step.
    - lengths [B] integers: from step lengths[i] on, row i keeps its state.
    - recurrent_gradient_clip: bounds, elementwise, the gradient that flows back from one step to
      s_0 of the step before; other states and the forward are untouched (as in FlashRNN).
    - precision: "auto" takes approximate functions where their errors stay below the rounding of
      the arrays' dtype (on tensor cores tanh.approx, 2^-11, for bfloat16); "exact" takes none;
      "tf32" lets float32 products use TF32 where a GPU has it. All keep `testing.tolerance`.

    All floating-point arrays have one dtype: float64, float32, float16 or bfloat16. Returns
    (states [S, B, T, H, D], last [S, B, 1, H, D]) of the kind and dtype that came in.

    Raises ValueError for shapes, values and unsupported combinations, TypeError for kinds of array
    and dtypes; the message names the argument.
    """
    inputs = Inputs(Wx, R, b, states, reset, lengths)
    call, inputs = find(inputs, function, backend, recurrent_gradient_clip, precision, keep=False)
    all_states, last, _ = call.forward(inputs)
    return all_states, last


def flashrnn_vjp(
    Wx: Any,
    R: Any,
    b: Any,
    states: Any = None,
    function: str | Cell = "lstm",
    backend: str = "auto",
    reset: Any = None,
    lengths: Any = None,
    recurrent_gradient_clip: float | None = None,
    precision: str = "auto",
) -> tuple[Any, Any, Callable[..., Gradients]]:
    """`flashrnn`, and the function that takes gradients back.

    Returns (states, last, vjp). `vjp(dstates, dlast=None)` takes the gradients of a loss with
    respect to states [S, B, T, H, D] and last [S, B, 1, H, D] (either may be None: zero) and
    returns `Gradients(Wx, R, b, states)`, each shaped like its input; `states` is None where no
    initial states were given. It may be called more than once. The inputs must not change between
    the two calls. On a GPU it works on the stream that is current when it is called: that must be
    the one of this call, or wait for it.
    """
    inputs = Inputs(Wx, R, b, states, reset, lengths)
    call, inputs = find(inputs, function, backend, recurrent_gradient_clip, precision, keep=True)
    all_states, last, kept = call.forward(inputs)

    def vjp(dstates: Any, dlast: Any = None) -> Gradients:
        return call.backward(inputs, kept, dstates, dlast)

    return all_states, last, vjp
