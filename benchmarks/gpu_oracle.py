"""The oracle on a GPU, in float64 through CuPy: the cell's own NumPy text in CuPy's namespace."""

from __future__ import annotations

from typing import Any

from flashrnn_numba.cells import Cell

_SAFE = """
def sigmoid(x): return 1 / (1 + exp(-x))
def relu(x): return maximum(x, 0)
def softplus(x): return maximum(x, 0) + log1p(exp(-abs(x)))
def log_sigmoid(x): return -softplus(-x)
"""


def _functions(cell: Cell) -> dict[str, Any]:
    import cupy

    names = ("abs", "exp", "log", "log1p", "sqrt", "tanh", "where", "maximum", "minimum", "power")
    scope: dict[str, Any] = {name: getattr(cupy, name) for name in names}
    exec(_SAFE + cell.source("forward", "numpy") + cell.source("vjp", "numpy"), scope)
    return scope


def run(cell: Cell, Wx: Any, R: Any, b: Any, dh: Any) -> dict[str, Any]:
    """h [B, T, H, D] and the gradients of sum(h * dh) with respect to Wx, R and b, as CuPy float64.

    From initial values, without resets: what the benchmark runs.
    """
    import cupy

    scope = _functions(cell)
    Wx, R, b, dh = (a.astype(cupy.float64) for a in (Wx, R, b, dh))
    B, T, _, H, D = Wx.shape
    G, S = len(cell.gates), len(cell.states)
    s = [cupy.full((B, H, D), v, cupy.float64) for v in cell.initial.values()]
    h = cupy.empty((B, T, H, D))
    kept = []
    recurrent = list(cell.recurrent_gates)
    for t in range(T):
        g = cupy.zeros((G, B, H, D))
        g[list(cell.input_gates)] += cupy.moveaxis(Wx[:, t], 1, 0)
        g[recurrent] += _product(R, s[0])
        g[list(cell.bias_gates)] += b[:, None]
        kept.append((g, s))
        s = list(scope["forward"](g, s))
        h[:, t] = s[0]
    d = [cupy.zeros((B, H, D)) for _ in range(S)]
    dgates = cupy.empty((T, G, B, H, D))
    dR = cupy.zeros(R.shape)
    for t in reversed(range(T)):
        g, s = kept[t]
        d[0] = d[0] + dh[:, t]
        flat = scope["vjp"](g, s, d)
        for q in range(G):
            dgates[t, q] = flat[q]
        d = [cupy.zeros((B, H, D)) + x for x in flat[G:]]
        dr = dgates[t][recurrent]  # [Gr, B, H, D]
        # sum over gates and new units
        d[0] = d[0] + cupy.matmul(dr.transpose(2, 0, 1, 3), R.transpose(1, 0, 2, 3)).sum(
            1
        ).transpose(1, 0, 2)
        dR += cupy.matmul(dr.transpose(0, 2, 3, 1), s[0].transpose(1, 0, 2)[None])
    return {
        "h": h,
        "Wx": cupy.moveaxis(dgates[:, list(cell.input_gates)], (0, 1, 2), (1, 2, 0)),
        "R": dR,
        "b": dgates[:, list(cell.bias_gates)].sum((0, 2)),
    }


def _product(R: Any, s0: Any) -> Any:
    """R [Gr, H, D, D] times s0 [B, H, D]: [Gr, B, H, D]."""
    import cupy

    return cupy.matmul(R, s0.transpose(1, 2, 0)[None]).transpose(0, 3, 1, 2)


def relative_error(got: Any, expected: Any) -> float:
    import cupy

    norm = cupy.linalg.norm
    got = got.astype(cupy.float64)
    return float(norm((got - expected).ravel()) / norm(expected.ravel()))
