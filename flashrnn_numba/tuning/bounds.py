"""Constraints between one variable and numbers: cut from its domain before anything else is done.

Text states every domain so (`A >= 1; A <= 64; B == [8, 16]`), and a domain that is small from the
start makes for a better model than one that shrinks later.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from .expressions import Comparison, Constraint, Member, Variable

__all__ = ["restricted"]

HOLES = 1 << 14  # a domain of more values is not spelled out to take a single one away

Domain = Sequence[int]  # ascending: a range or a tuple

_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def restricted(
    variables: Sequence[Variable], parts: Sequence[Constraint]
) -> tuple[dict[int, Domain], list[Constraint]] | None:
    """The domains by the variables' ids, and the constraints that are left; None if a domain is
    empty."""
    domains: dict[int, Domain] = {id(v): v.domain for v in variables}
    rest = []
    for part in parts:
        found = _cut(part, domains)
        if found is None:
            rest.append(part)
            continue
        key, domain = found
        if not domain:
            return None
        domains[key] = domain
    return domains, rest


def _cut(part: Constraint, domains: dict[int, Domain]) -> tuple[int, Domain] | None:
    """(variable's id, new domain), or None if `part` is another kind of constraint."""
    if isinstance(part, Comparison):
        left, right, op = part.left, part.right, part.op
        if left.op == "const":
            left, right, op = right, left, _TURNED[op]
        if left.op == "var" and right.op == "const":
            domain = _compared(domains[id(left)], op, right.value)
            return None if domain is None else (id(left), domain)
    elif isinstance(part, Member) and part.expression.op == "var":
        domain = domains[id(part.expression)]
        members = domain if isinstance(domain, range) else frozenset(domain)
        return id(part.expression), tuple([v for v in part.values if v in members])
    return None


def _compared(domain: Domain, op: str, value: int) -> Domain | None:
    if op in ("<", "<="):
        return domain[: (bisect_left if op == "<" else bisect_right)(domain, value)]
    if op in (">", ">="):
        return domain[(bisect_right if op == ">" else bisect_left)(domain, value) :]
    if op == "==":
        return (value,) if value in domain else ()
    return tuple([v for v in domain if v != value]) if len(domain) <= HOLES else None
