"""Hypothesis strategies: cells, shapes, memory layouts, whole problems. Needs `hypothesis`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import assume, note
from hypothesis import strategies as st

from .. import cells as language
from ..arrays import DTYPES
from ..cells import Cell, CellError, cell, list_cells
from .conditioning import well_conditioned
from .layouts import Layout, relayout
from .problem import Problem, random_problem

ARRAYS = ("Wx", "R", "b", "states", "reset", "lengths", "dstates", "dlast")
EXPONENTS = (-2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 5)
SOURCES = ("xRb", "xR", "xb", "Rb", "x", "R", "b")

# Safe at all arguments and of moderate growth: a random recurrence would leave every range else.
UNARY: dict[str, Callable[[Any], Any]] = {
    "sigmoid": language.sigmoid,
    "tanh": language.tanh,
    "relu": language.relu,
    "abs": language.abs,
    "softplus": language.softplus,
    "log_sigmoid": language.log_sigmoid,
    "exp": lambda x: language.exp(language.minimum(x, 1)),
    "log": lambda x: language.log(0.5 + language.abs(x)),
    "sqrt": lambda x: language.sqrt(0.25 + x * x),
    "clip": lambda x: language.clip(x, -0.75, 1),
    "negative": lambda x: -x,
    "guarded log": lambda x: _guarded_log(x),
    "stop_gradient": language.stop_gradient,
}


def _guarded_log(x: Any) -> Any:
    try:
        return language.where(x > 0.125, language.log(x), x - 2)
    except CellError:  # x is a constant, and not a positive one
        return x


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: language.tanh(x) * y,
    "/": lambda x, y: x / (1 + y * y),
    "maximum": language.maximum,
    "minimum": language.minimum,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
}
# what keeps a new state bounded, from a tree and the previous state
BOUNDED: dict[str, Callable[[Any, Any], Any]] = {
    "tanh": lambda x, s: language.tanh(x),
    "sigmoid": lambda x, s: language.sigmoid(x),
    "clip": lambda x, s: language.clip(x, -1, 2),
    "leaky": lambda x, s: 0.75 * s + 0.25 * language.tanh(x),
}


def dtypes() -> st.SearchStrategy[str]:
    """Names of the four dtypes."""
    return st.sampled_from(list(DTYPES))


def shapes(B: int = 4, T: int = 8, H: int = 5, D: int = 40) -> st.SearchStrategy[tuple]:
    """(B, T, H, D) up to these bounds; B and T may be 0, D is any number."""
    return st.tuples(st.integers(0, B), st.integers(0, T), st.integers(1, H), st.integers(1, D))


def layouts(broadcast: bool = True) -> st.SearchStrategy[Layout]:
    """Memory layouts: any order of the axes, sliced, reversed, repeated with stride 0."""
    return st.builds(
        Layout,
        order=st.none() | st.integers(0, 999),
        step=st.integers(1, 3),
        reverse=st.booleans(),
        broadcast=st.none() | st.integers(0, 4) if broadcast else st.none(),
    )


def trees(gates: int, states: int, stop_gradient: bool = True) -> st.SearchStrategy[tuple]:
    """Expression trees as nested tuples; `build` makes expressions of them."""
    leaves = st.one_of(
        st.tuples(st.just("gate"), st.integers(0, gates - 1)),
        st.tuples(st.just("state"), st.integers(0, states - 1)),
        st.tuples(st.just("constant"), st.sampled_from((-1.5, -1, 0, 0.25, 1, 2))),
    )
    unary = [name for name in UNARY if stop_gradient or name != "stop_gradient"]

    def extend(x: st.SearchStrategy) -> st.SearchStrategy:
        return st.one_of(
            st.tuples(st.sampled_from(unary), x),
            st.tuples(st.sampled_from(list(BINARY)), x, x),
            st.tuples(st.just("power"), x, st.sampled_from(EXPONENTS)),
            st.tuples(st.just("where"), st.sampled_from(list(COMPARISONS)), x, x, x, x),
        )

    return st.recursive(leaves, extend, max_leaves=8)


def build(tree: tuple, gates: list[Any], states: list[Any]) -> Any:
    """The expression that a tree of `trees` stands for."""
    operation, *rest = tree
    if operation == "constant":
        return rest[0]
    if operation in ("gate", "state"):
        return (gates if operation == "gate" else states)[rest[0]]
    if operation == "power":
        return (0.5 + language.abs(build(rest[0], gates, states))) ** rest[1]
    if operation == "where":
        comparison, *parts = rest
        a, b, x, y = (build(part, gates, states) for part in parts)
        return language.where(COMPARISONS[comparison](a, b), x, y)
    parts = [build(part, gates, states) for part in rest]
    return UNARY[operation](*parts) if operation in UNARY else BINARY[operation](*parts)


@st.composite
def cells(draw: Any, max_gates: int = 4, max_states: int = 3, stop_gradient: bool = True) -> Cell:
    """Random cells: any gates with any sources, any number of states, initial values, an expression
    tree for each new state. What they compute stays bounded."""
    sources = draw(st.lists(st.sampled_from(SOURCES), min_size=1, max_size=max_gates))
    S = draw(st.integers(1, max_states))
    part = trees(len(sources), S, stop_gradient)
    new = draw(st.lists(st.tuples(st.sampled_from(list(BOUNDED)), part), min_size=S, max_size=S))
    initial = draw(st.lists(st.sampled_from((0.0, 0.5, -1.0)), min_size=S, max_size=S))

    def random_cell(g: Any, s: Any) -> Any:
        gates = [getattr(g, name) for name in gate_names]
        states = [getattr(s, name) for name in state_names]
        return tuple(
            BOUNDED[bound](build(tree, gates, states), state)
            for (bound, tree), state in zip(new, states, strict=True)
        )

    gate_names = [f"g{i}" for i in range(len(sources))]
    state_names = [f"s{i}" for i in range(S)]
    made = cell(
        random_cell,
        gates=dict(zip(gate_names, sources, strict=True)),
        states=state_names,
        initial=dict(zip(state_names, initial, strict=True)),
    )
    note(f"{made!r}, initial values {initial}\n{made.source('forward')}")
    return made


def built_in() -> st.SearchStrategy[Cell]:
    """The cells of the registry."""
    return st.sampled_from([language.get_cell(name) for name in list_cells()])


all_dtypes, all_shapes, all_layouts = dtypes, shapes, layouts


@st.composite
def problems(
    draw: Any,
    cells: st.SearchStrategy[Cell] | None = None,
    dtypes: st.SearchStrategy[str] | None = None,
    shapes: st.SearchStrategy[tuple] | None = None,
    layouts: st.SearchStrategy[Layout] | None = None,
) -> Problem:
    """Well-conditioned problems: a cell (default: built in) with inputs in any layouts, initial
    states, resets, lengths and clip each given or not."""
    made = draw(_given(cells, built_in))
    dtype, shape = draw(_given(dtypes, all_dtypes)), draw(_given(shapes, all_shapes))
    given = {name: draw(st.booleans()) for name in ("states", "reset", "lengths")}
    clip = draw(st.none() | st.sampled_from((0.1, 0.5, 2.0)))
    arranged = {name: draw(_given(layouts, all_layouts)) for name in ARRAYS}
    start = draw(st.integers(0, 10**6))

    def attempt(i: int) -> Problem:
        problem = random_problem(made, dtype, shape, seed=start + i, clip=clip, **given)
        return relayout(problem, arranged)

    problem, condition = well_conditioned(attempt, draws=5)
    assume(condition <= 1)
    return problem


def _given(strategy: st.SearchStrategy | None, default: Callable[[], Any]) -> st.SearchStrategy:
    return default() if strategy is None else strategy
