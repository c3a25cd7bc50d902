"""The oracle on a GPU, in float64 through CuPy: the cell's own NumPy text in CuPy's namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flashrnn_numba.cells import Cell

ROWS = 64  # of the batch at a time: all steps of them are in memory

_SAFE = """
def sigmoid(x): return 1 / (1 + exp(-x))
def relu(x): return maximum(x, 0)
def softplus(x): return maximum(x, 0) + log1p(exp(-abs(x)))
def log_sigmoid(x): return -softplus(-x)
"""


class Problem(NamedTuple):
    """Wx [B, T, Gx, H, D], R [Gr, H, D, D], b [Gb, H, D], dh [B, T, H, D]: the gradient of h. From
    initial values, without resets: what the benchmark runs."""

    Wx: Any
    R: Any
    b: Any
    dh: Any


Results = Mapping[str, Any]  # h [B, T, H, D], gradients Wx, R, b; any of them


def errors(
    cell: Cell, problem: Problem, found: Mapping[str, Results]
) -> dict[str, dict[str, float]]:
    """||got - oracle|| / ||oracle|| of all results of each implementation; nan where one is nan."""
    import cupy

    sums = {(who, what): [0.0, 0.0] for who, results in found.items() for what in results}

    def add(what: str, oracle: Any, rows: slice) -> None:
        for who, results in found.items():
            if what in results:
                got = results[what][rows].astype(cupy.float64)
                sums[who, what][0] += float(((got - oracle) ** 2).sum())
                sums[who, what][1] += float((oracle**2).sum())

    weights: dict[str, Any] = {}
    for rows, of_rows in _by_rows(cell, problem):
        for what in ("h", "Wx"):
            add(what, of_rows[what], rows)
        for what in ("R", "b"):
            weights[what] = weights.get(what, 0.0) + of_rows[what]
    for what, oracle in weights.items():
        add(what, oracle, slice(None))
    errors: dict[str, dict[str, float]] = {who: {} for who in found}
    for (who, what), (off, norm) in sums.items():
        errors[who][what] = (off / norm) ** 0.5 if norm else float("nan")
    return errors


def _by_rows(cell: Cell, problem: Problem) -> Iterator[tuple[slice, dict[str, Any]]]:
    scope = _functions(cell)
    for first in range(0, len(problem.Wx), ROWS):
        rows = slice(first, first + ROWS)
        yield rows, _run(cell, scope, problem._replace(Wx=problem.Wx[rows], dh=problem.dh[rows]))


def _functions(cell: Cell) -> dict[str, Any]:
    import cupy

    names = ("abs", "exp", "log", "log1p", "sqrt", "tanh", "where", "maximum", "minimum", "power")
    scope: dict[str, Any] = {name: getattr(cupy, name) for name in names}
    exec(_SAFE + cell.source("forward", "numpy") + cell.source("vjp", "numpy"), scope)
    return scope


def _run(cell: Cell, scope: dict[str, Any], problem: Problem) -> dict[str, Any]:
    """h and the gradients of sum(h * dh) with respect to Wx, R and b."""
    import cupy

    Wx, R, b, dh = (a.astype(cupy.float64) for a in problem)
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
        g, s = kept.pop()
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
