"""Between which numbers an expression lies, by the bounds of its variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .expressions import Expression, Variable
from .printing import shortened

__all__ = ["POWER_BITS", "PowerGuard", "Span", "check_power", "span_of"]

Span = tuple[int, int]  # the smallest and the largest that a number can be

POWER_BITS = 1 << 16  # the longest power that we are ready to compute


def span_of(op: str, spans: Sequence[Span]) -> Span:
    """Where `op` of numbers in `spans` can lie; whoever asks has bounded the powers."""
    if op in ("min", "max"):
        pick = min if op == "min" else max
        return pick(low for low, _ in spans), pick(high for _, high in spans)
    (low, high), (least, most) = spans
    if op == "+":
        return low + least, high + most
    if op == "-":
        return low - most, high - least
    if op == "*":
        corners = [x * y for x in (low, high) for y in (least, most)]
        return min(corners), max(corners)
    if op == "//":
        return _quotient((low, high), (least, most))
    if op == "%":
        return (0, max(0, most - 1)) if least >= 0 else _both(max(-least, most))
    assert op == "**"
    size = max(-low, high)
    return _both(size ** max(0, most) if size > 1 else 1)


def _quotient(number: Span, divisor: Span) -> Span:
    """A table divides by 1 where it should by 0."""
    if number[0] >= 0 and divisor[0] >= 0:
        return 0, number[1] // max(1, divisor[0])
    return _both(max(-number[0], number[1]) + 1)  # -1 // 5 is -1


def _both(size: int) -> Span:
    return -size, size


def check_power(bits: int, tree: Expression) -> None:
    """ValueError if the power `tree` can be longer than we are ready to compute."""
    if bits > POWER_BITS:
        raise ValueError(
            f"`{shortened(str(tree))}` can have {bits} bits, expected at most {POWER_BITS}: "
            "give the base or the exponent a smaller domain"
        )


class PowerGuard:
    """Checks the powers in expressions before anything is computed.

    bounds -- the span of a variable.
    """

    def __init__(self, bounds: Callable[[Variable], Span]) -> None:
        self._bounds = bounds
        self._known: dict[int, Span] = {}

    def span(self, tree: Expression) -> Span:
        """Between which numbers `tree` lies. ValueError if a power in it is too long."""
        if isinstance(tree, Variable):
            return self._bounds(tree)
        if tree.op == "const":
            return tree.value, tree.value
        if id(tree) not in self._known:
            spans = [self.span(arg) for arg in tree.args]
            if tree.op == "**":
                (low, high), (_, most) = spans
                size = max(-low, high)
                check_power(size.bit_length() * max(0, most) if size > 1 else 0, tree)
            self._known[id(tree)] = span_of(tree.op, spans)
        return self._known[id(tree)]
