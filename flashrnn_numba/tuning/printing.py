"""Expressions as text for messages and names: Python over the user's names, long ones shortened."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .expressions import Expression

__all__ = ["number", "shortened", "text"]

LONGEST = 2000  # characters of an expression
SHORT = 8  # levels of what is written without a thought

_STRENGTH = {"+": 1, "-": 1, "*": 2, "//": 2, "%": 2, "**": 4}
_REGROUPED = {"+": ("+", "-"), "*": ("*",)}  # a + (b - c) needs no brackets


def text(tree: Expression) -> str:
    """`tree` as Python source with no needless brackets."""
    return _text(tree, 0, {})


def shortened(text: str, most: int = 300) -> str:
    """`text`, without its middle where it is long."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def number(value: int) -> str:
    """A literal: Python writes no decimals of more than 4300 digits."""
    return str(value) if value.bit_length() < 4096 else hex(value)


def _text(tree: Expression, outer: int, known: dict[int, str]) -> str:
    """outer -- how strongly what stands around it binds. known -- what was written before, by id:
    what is shared is written once, and no longer than LONGEST (a tree of twenty doublings has a
    million leaves)."""
    if tree.op == "var":
        return str(tree.name)  # type: ignore[attr-defined]
    if tree.op == "const":
        return number(tree.value) if tree.value >= 0 or not outer else f"({number(tree.value)})"
    if tree.depth < SHORT:
        bare = _bare(tree, known)
    else:
        bare = known.get(id(tree), "")
        if not bare:
            bare = known[id(tree)] = shortened(_bare(tree, known), LONGEST)
    return f"({bare})" if outer and _STRENGTH.get(tree.op, outer) < outer else bare


def _bare(tree: Expression, known: dict[int, str]) -> str:
    op = tree.op
    if op in ("min", "max"):
        return f"{op}({', '.join([_text(arg, 0, known) for arg in tree.args])})"
    left, right = tree.args
    strength = _STRENGTH[op]
    # ** groups to the right, all others to the left.
    first, second = (strength + 1, strength) if op == "**" else (strength, strength + 1)
    if right.op in _REGROUPED.get(op, ()):
        second = strength
    return f"{_text(left, first, known)} {op} {_text(right, second, known)}"
