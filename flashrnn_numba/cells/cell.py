"""`Cell`: gates, states and the pointwise function between them; all else follows from it."""

from __future__ import annotations

import hashlib
import inspect
import keyword
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from . import emit, numeric
from .derivative import gradients
from .expression import (
    ALLOWED,
    CellError,
    Expression,
    as_number,
    describe_line,
    fresh_graph,
    input_of,
    topological,
    user_line,
)

SOURCES = "xRb"


class _Inputs:
    """`g`, `s` or `d` in a cell's function: one attribute per gate or state."""

    def __init__(self, kind: str, names: Sequence[str]) -> None:
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_values", {name: input_of(kind, name) for name in names})

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._values:
            raise CellError(
                f"there is no {self._kind} {name!r}; there are: {', '.join(self._values)}\n"
                f"  at {user_line()}"
            )
        return self._values[name]

    def _nodes(self) -> list[Expression]:
        return list(self.__dict__["_values"].values())

    def __setattr__(self, name: str, value: Any) -> None:
        raise CellError(
            f"{self._kind} {name!r} cannot be assigned; return the new states\n  at {user_line()}"
        )


class Cell:
    """A recurrent cell: `gate_j = x_j + R_j s_0 + b_j`, then `states = function(gates, states)`.

    Made by the decorator `cell`. Attributes:

    - `gates`: mapping of gate name to its sources, a subset of "xRb"; `states`: names, the first
      one feeds R; `initial`: mapping of state name to the value it starts from.
    - `input_gates`, `recurrent_gates`, `bias_gates`: for the gate axis of Wx, R and b, the index
      into `gates` of each entry.
    - `new_states`: one expression for each state; `gate_gradients`, `state_gradients`: the
      vector-Jacobian product, in terms of gates, previous states and cotangents of the new states.
    - `key`: a digest of all of the above: equal keys mean equal code.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        gates: Mapping[str, str] | Sequence[str],
        states: Sequence[str],
        initial: Mapping[str, float] | None = None,
        vjp: Callable[..., Any] | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name or function.__name__
        self.function = function
        self.__doc__ = function.__doc__
        where = _definition(function)
        self.gates = _check_gates(gates, where)
        self.states = _check_names("states", states, where)
        self.initial = _check_initial(initial or {}, self.states, where)
        self.input_gates = self._having("x")
        self.recurrent_gates = self._having("R")
        self.bias_gates = self._having("b")
        self.has_own_vjp = vjp is not None
        with fresh_graph():
            self._define(function, vjp)

    def _define(self, function: Callable[..., Any], vjp: Callable[..., Any] | None) -> None:
        gates = list(self.gates)
        g, s = _Inputs("gate", gates), _Inputs("state", self.states)
        d = _Inputs("cotangent", self.states)
        self.new_states = self._trace(function, (g, s), {"the new states": self.states})[0]
        if vjp is not None:
            parts = {"the gate gradients": gates, "the state gradients": self.states}
            self.gate_gradients, self.state_gradients = self._trace(vjp, (g, s, d), parts)
            return
        flat = gradients(self.new_states, d._nodes(), [*g._nodes(), *s._nodes()])
        self.gate_gradients = tuple(flat[: len(gates)])
        self.state_gradients = tuple(flat[len(gates) :])

    def _having(self, source: str) -> tuple[int, ...]:
        return tuple(i for i, sources in enumerate(self.gates.values()) if source in sources)

    def _trace(
        self,
        function: Callable[..., Any],
        inputs: tuple[_Inputs, ...],
        parts: Mapping[str, Sequence],
    ) -> list[tuple[Expression, ...]]:
        """Run the function on expressions; its result as one tuple for each part."""
        where = _definition(function)
        try:
            result = function(*inputs)
        except CellError:
            raise
        except Exception as error:
            raise CellError(
                f"{function.__name__}() failed while it was traced: {error}\n"
                f"  at {_innermost(error, function)}\n  {ALLOWED}"
            ) from error
        if len(parts) > 1:
            if not (isinstance(result, tuple | list) and len(result) == len(parts)):
                raise CellError(
                    f"{function.__name__}() must return {', '.join(parts)}\n  at {where}"
                )
        else:
            result = (result if isinstance(result, tuple | list) else (result,),)
        return [
            self._check_part(what, names, part, function, inputs, where)
            for (what, names), part in zip(parts.items(), result, strict=True)
        ]

    def _check_part(
        self,
        what: str,
        names: Sequence[str],
        part: Any,
        function: Callable,
        inputs: tuple[_Inputs, ...],
        where: str,
    ) -> tuple[Expression, ...]:
        part = part if isinstance(part, tuple | list) else (part,)
        if len(part) != len(names):
            raise CellError(
                f"{function.__name__}() must return {what} in order, {len(names)} "
                f"({', '.join(names)}), got {len(part)}\n  at {where}"
            )
        values = []
        for name, value in zip(names, part, strict=True):
            if not isinstance(value, Expression | int | float | np.number):
                raise CellError(
                    f"{function.__name__}() returns {type(value).__name__} {value!r} for {name!r}, "
                    f"expected an expression\n  at {where}\n  {ALLOWED}"
                )
            own = {node for i in inputs for node in i._nodes()}
            nodes = topological([value]) if isinstance(value, Expression) else ()
            foreign = [n for n in nodes if n.operation == "input" and n not in own]
            if foreign:
                raise CellError(
                    f"{function.__name__}() uses {foreign[0]!r} of another cell or call; use only "
                    f"its own arguments\n  at {where}"
                )
            try:
                values.append(as_number(value, f"{what} ({name!r})"))
            except CellError as error:
                raise CellError(f"{str(error).splitlines()[0]}\n  at {where}") from None
        return tuple(values)

    @cached_property
    def key(self) -> str:
        content = [self.name, self.gates, self.states, self.initial]
        text = repr(content) + self.source("forward") + self.source("vjp")
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def outputs(self, which: str) -> tuple[Expression, ...]:
        """ "forward": the new states; "vjp": gate gradients, then state gradients."""
        if which == "forward":
            return self.new_states
        if which == "vjp":
            return self.gate_gradients + self.state_gradients
        raise ValueError(f"which must be 'forward' or 'vjp', got {which!r}")

    def source(self, which: str, dialect: emit.Dialect = "scalar") -> str:
        """The text of a function `forward(g, s)` or `vjp(g, s, d)` from tuples to a tuple.

        dialect "scalar" is what numba compiles for CPU and GPU, "numpy" works on whole arrays.
        """
        outputs = self.outputs(which)
        position = {("gate", n): f"g[{i}]" for i, n in enumerate(self.gates)}
        position |= {("state", n): f"s[{i}]" for i, n in enumerate(self.states)}
        position |= {("cotangent", n): f"d[{i}]" for i, n in enumerate(self.states)}
        results = [f"o{i}" for i in range(len(outputs))]
        return emit.function(
            name=which,
            parameters="g, s" if which == "forward" else "g, s, d",
            outputs=outputs,
            read=lambda kind, n: position[kind, n],
            write=lambda i, text: f"{results[i]} = {text}",
            dialect=dialect,
            after=[f"return ({', '.join(results)},)"],
        )

    @cached_property
    def _numpy_functions(self) -> dict[str, Callable[..., tuple]]:
        functions = {}
        for which in ("forward", "vjp"):
            scope = dict(vars(numeric))
            exec(compile(self.source(which, "numpy"), f"<{self.name} {which}>", "exec"), scope)
            functions[which] = scope[which]
        return functions

    def forward(self, g: Sequence[np.ndarray], s: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """New states from gate pre-activations and previous states, elementwise, with NumPy."""
        return self._run("forward", g, s)

    def vjp(
        self, g: Sequence[np.ndarray], s: Sequence[np.ndarray], d: Sequence[np.ndarray]
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Gradients of the gates and of the previous states for cotangents d of the new states."""
        flat = self._run("vjp", g, s, d)
        return flat[: len(self.gates)], flat[len(self.gates) :]

    def _run(self, which: str, *arguments: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        shape = np.broadcast_shapes(*(np.shape(a) for part in arguments for a in part))
        # a branch not taken may overflow or divide by zero; where() drops it
        with np.errstate(all="ignore"):
            results = self._numpy_functions[which](*arguments)
        return tuple(np.broadcast_to(r, shape) for r in results)

    def __repr__(self) -> str:
        gates = ", ".join(f"{n}: {sources}" for n, sources in self.gates.items())
        return f"<cell {self.name}: gates {gates}; states {', '.join(self.states)}>"


def cell(
    function: Callable[..., Any] | None = None,
    *,
    gates: Mapping[str, str] | Sequence[str],
    states: Sequence[str],
    initial: Mapping[str, float] | None = None,
    vjp: Callable[..., Any] | None = None,
    name: str | None = None,
) -> Any:
    """Decorator: make a `Cell` of its pointwise forward function `f(g, s) -> new states`.

    gates: names (each gate then is x + R s_0 + b), or a mapping of name to sources out of "xRb".
    states: names; the first state feeds R. initial: start values other than 0.
    vjp: an own gradient `vjp(g, s, d) -> (gate gradients, state gradients)` in place of the
    derived one, written in the same language. Raises CellError with file and line.
    """
    if function is not None:
        return Cell(function, gates, states, initial, vjp, name)
    return lambda f: Cell(f, gates, states, initial, vjp, name)


def _definition(function: Callable[..., Any]) -> str:
    try:
        code = inspect.unwrap(function).__code__
    except AttributeError:
        raise CellError(f"a cell is made of a Python function, got {function!r}") from None
    return describe_line(code.co_filename, code.co_firstlineno)


def _innermost(error: BaseException, function: Callable[..., Any]) -> str:
    """The last line of the user's file in the error's traceback."""
    filename = inspect.unwrap(function).__code__.co_filename
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return describe_line(last.filename, last.lineno or 0)


def _check_names(what: str, names: Iterable[str], where: str) -> tuple[str, ...]:
    names = names if isinstance(names, str) else list(names)
    if isinstance(names, str) or not all(isinstance(n, str) for n in names):
        raise CellError(f"{what} must be a sequence of names, got {names!r}\n  at {where}")
    if not names:
        raise CellError(f"{what} must name at least one, got none\n  at {where}")
    for n in names:
        if not n.isidentifier() or keyword.iskeyword(n) or n.startswith("_"):
            raise CellError(f"{what}: {n!r} is not a name Python can use\n  at {where}")
    if len(set(names)) != len(names):
        raise CellError(f"{what} must differ from each other, got {tuple(names)}\n  at {where}")
    return tuple(names)


def _check_gates(gates: Mapping[str, str] | Sequence[str], where: str) -> dict[str, str]:
    names = _check_names("gates", gates, where)
    sources = dict(gates) if isinstance(gates, Mapping) else dict.fromkeys(names, SOURCES)
    for n, source in sources.items():
        valid = isinstance(source, str) and source and len(set(source)) == len(source)
        if not valid or not set(source) <= set(SOURCES):
            raise CellError(
                f"gate {n!r} has sources {source!r}, expected some of 'x' (input), "
                f"'R' (recurrent), 'b' (bias), each once\n  at {where}"
            )
    return {n: "".join(c for c in SOURCES if c in source) for n, source in sources.items()}


def _check_initial(
    initial: Mapping[str, float], states: Sequence[str], where: str
) -> dict[str, float]:
    for n, value in initial.items():
        if n not in states:
            raise CellError(
                f"initial names {n!r}, which is no state; the states are {', '.join(states)}"
                f"\n  at {where}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise CellError(f"initial value of {n!r} must be a number, got {value!r}\n  at {where}")
    return {n: float(initial.get(n, 0.0)) for n in states}
