"""A cell's forward expressions evaluated node by node: independent of the source text that the
backends run, in any precision, with stop_gradient frozen and every branch on record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..cells import Cell
from ..cells.expression import CONDITIONS, Expression, topological


class Evaluation(NamedTuple):
    outputs: list[np.ndarray]
    frozen: dict[Expression, np.ndarray]  # values of the stop_gradient nodes
    branches: list[np.ndarray]  # which side of each kink or jump the points are on


def inputs_of(cell: Cell) -> list[tuple[str, str]]:
    """("gate", name) of all gates, then ("state", name) of all states."""
    return [("gate", name) for name in cell.gates] + [("state", name) for name in cell.states]


def evaluate(
    cell: Cell,
    values: Sequence[np.ndarray],
    frozen: Mapping[Expression, np.ndarray] | None = None,
) -> Evaluation:
    """The new states at `values` (gates, then states). frozen: values of stop_gradient nodes, which
    otherwise take those of their arguments."""
    given = dict(zip(inputs_of(cell), values, strict=True))
    known: dict[Expression, np.ndarray] = {}
    stopped: dict[Expression, np.ndarray] = {}
    branches: list[np.ndarray] = []
    real = np.result_type(*values)
    for node in topological(cell.new_states):
        arguments = [known[a] for a in node.arguments]
        if node.operation == "constant":
            known[node] = np.asarray(node.value, real)
        elif node.operation == "input":
            known[node] = given[node.value]
        elif node.operation == "stop_gradient":
            stopped[node] = known[node] = frozen[node] if frozen else arguments[0]
        elif node.operation == "power":
            known[node] = np.power(arguments[0], real.type(node.value))
        else:
            known[node] = _FUNCTIONS[node.operation](*arguments)
            if node.operation in _BRANCHES:
                branches.append(_BRANCHES[node.operation](*arguments))
    return Evaluation([known[y] for y in cell.new_states], stopped, branches)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(x / 2)) / 2


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, np.zeros_like(x))


_CONDITIONS: dict[str, Callable[..., Any]] = dict(CONDITIONS)
_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "negative": np.negative,
    "multiply": np.multiply,
    "divide": np.divide,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "softplus": _softplus,
    "log_sigmoid": lambda x: -_softplus(-x),
    "maximum": np.maximum,
    "minimum": np.minimum,
    "where": np.where,
    **_CONDITIONS,
}
_BRANCHES: dict[str, Callable[..., np.ndarray]] = {
    "relu": np.sign,
    "abs": np.sign,
    "maximum": lambda a, b: np.sign(a - b),
    "minimum": lambda a, b: np.sign(a - b),
    **_CONDITIONS,
}
