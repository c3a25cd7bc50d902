"""Expressions and constraints as compiled Python functions, for exact evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .printing import number

if TYPE_CHECKING:
    from .expressions import Constraint, Expression, Variable

__all__ = ["Writer", "evaluator"]

LONG = 60  # characters that are written once and named


class Writer:
    """Python source of trees; `names` maps the id of each variable to an identifier.

    What is long gets a name where it is computed first, as in `(t0 := v0 * v1, t0 + t0 // 2)[-1]`:
    what is shared is written and computed once, and brackets stay few (Python takes 200).
    """

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        self._count = 0  # of names given

    def strict(self, trees: Sequence[Expression], between: str = "", end: str = "") -> str:
        """Expressions that are all computed, with something between them and at the end."""
        named: list[str] = []
        known: dict[int, str] = {}
        text = between.join([self._text(tree, named, known) for tree in trees]) + end
        return f"({', '.join([*named, text])})[-1]" if named else f"({text})"

    def _text(self, tree: Expression, named: list[str], known: dict[int, str]) -> str:
        op = tree.op
        if op == "var":
            return self._names[id(tree)]
        if op == "const":
            return f"({number(tree.value)})" if tree.value < 0 else number(tree.value)
        text = known.get(id(tree))
        if text is not None:
            return text
        args = [self._text(arg, named, known) for arg in tree.args]
        if op in ("min", "max"):
            text = f"{op}({', '.join(args)})"
        elif op == "**" and tree.args[1].op != "const":
            text = f"_power({args[0]}, {args[1]})"
        else:
            text = f"({args[0]} {op} {args[1]})"
        if len(text) > LONG:
            named.append(f"t{self._count} := {text}")
            text = f"t{self._count}"
            self._count += 1
        known[id(tree)] = text
        return text

    def apart(self, tree: Constraint) -> str:
        """A constraint in which a division by zero makes nothing but itself false."""
        return f"_holds(lambda: {tree.source(self)})"


def _power(base: int, exponent: int) -> int:
    if exponent < 0:
        raise ZeroDivisionError("a negative power is not an integer")
    return int(base**exponent)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except ZeroDivisionError:
        return False


def evaluator(
    trees: Sequence[tuple[Expression | Constraint, Sequence[Variable]]],
) -> list[Callable[..., int]]:
    """One compiled function per (tree, variables); its arguments are the variables' values.

    Each may raise ZeroDivisionError. The names in the compiled source are ours (v0, v1, ...),
    so no text of the user's is ever executed.
    """
    parts = []
    for tree, variables in trees:
        names = {id(v): f"v{n}" for n, v in enumerate(variables)}
        parts.append(f"lambda {', '.join(names.values())}: {tree.source(Writer(names))}")
    scope = {"_power": _power, "_holds": _holds, "min": min, "max": max, "__builtins__": {}}
    return list(eval(f"[{', '.join(parts)}]", scope)) if parts else []
