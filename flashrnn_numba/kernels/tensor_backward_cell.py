"""A cell's vector-Jacobian product cut in two, so that the sequential part of a step is short.

What depends on gates and previous states alone (nearly everything: the activations and their
derivatives) is known before the gradient arrives from the step after. The *early* half computes it
while the tensor cores work; the *late* half is the few products with the cotangents.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from ..cells import Cell, emit


@dataclass(frozen=True)
class Halves:
    """functions: text of two device functions, `early_half` (gates, states) -> kept values, and
    `late_half` (kept values, alive, cotangents) -> gate gradients, state gradients: zeros and the
    cotangents where the item is not alive. calls: lines that call them, from and to the kernel's
    names: early for item `e` of a pair whose inputs are `seen`, late for item `i` (literals where
    they are put in).
    """

    functions: str
    early_call: str
    late_call: str
    count: int  # kept values


def halves(cell: Cell) -> Halves:
    kinds = {"gate": list(cell.gates), "state": cell.states, "cotangent": cell.states}
    inputs = {f"{kind}_{n}": (kind, i) for kind in kinds for i, n in enumerate(kinds[kind])}
    lines, results = emit.assignments(
        cell.outputs("vjp"), lambda kind, name: f"{kind}_{name}", "scalar"
    )
    late_names = {local for local, (kind, _) in inputs.items() if kind == "cotangent"}
    early: list[ast.stmt] = []
    late: list[ast.stmt] = []
    for line in lines:
        statement = _parse(line)
        if _names(statement.value) & late_names:
            late.append(_Divisions(early, late_names).apply(statement))
            late_names.add(_target(statement))
        else:
            early.append(_Divisions(early, set()).apply(statement))
    used = {n for s in late for n in _names(s)} | {n for r in results for n in _names(ast.parse(r))}
    known = [n for n in inputs if n not in late_names] + [_target(s) for s in early]
    kept = [n for n in known if n in used]
    first = [n for n in inputs if n not in late_names]
    functions = _function("early_half", first, early, [_real(k) for k in kept] or ["real(0.0)"])
    gates = len(cell.gates)
    others = ["real(0.0)"] * gates + [f"cotangent_{name}" for name in cell.states]
    chosen = [
        f"{_real(result)} if alive else {other}"
        for result, other in zip(results, others, strict=True)
    ]
    cotangents = [n for n, (kind, _) in inputs.items() if kind == "cotangent"]
    taken = [_parse(f"{name} = half[{i}]") for i, name in enumerate(kept)]
    functions += _function("late_half", ["half", "alive", *cotangents], [*taken, *late], chosen)
    first_of = {"gate": 0, "state": gates}
    places = [first_of[kind] + i for kind, i in (inputs[name] for name in first)]
    values = ", ".join(f"seen[e * INPUTS + {place}]" for place in places)
    given = ", ".join(f"cotangent[{k}]" for k in range(len(cotangents)))
    return Halves(
        functions,
        f"half[e] = early_half({values})",
        f"whole = late_half(half[i // EACH][i % EACH], t < length[i], {given})",
        max(1, len(kept)),
    )


def _function(name: str, parameters: list[str], body: list[ast.stmt], results: list[str]) -> str:
    lines = [*(ast.unparse(s) for s in body), f"return ({', '.join(results)},)"]
    head = f"@cuda.jit(device=True)\ndef {name}({', '.join(parameters)}):\n"
    return head + "".join(f"    {line}\n" for line in lines) + "\n\n"


def _real(text: str) -> str:
    """Comparisons are kept as numbers too."""
    return f"real({text})" if text.isidentifier() else text


class _Divisions(ast.NodeTransformer):
    """a / b -> divide(a, b), whose meaning the functions' namespace decides; where only a is late,
    a * (reciprocal of b), which is one more early line."""

    def __init__(self, early: list[ast.stmt], late_names: set[str]) -> None:
        self.early, self.late_names = early, late_names

    def apply(self, statement: ast.Assign) -> ast.Assign:
        result = ast.fix_missing_locations(self.visit(statement))
        assert isinstance(result, ast.Assign)
        return result

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div):
            return node
        if self.late_names and not _names(node.right) & self.late_names:
            name = f"inverse{len(self.early)}"
            self.early.append(_parse(f"{name} = reciprocal({ast.unparse(node.right)})"))
            return ast.BinOp(node.left, ast.Mult(), ast.Name(name, ast.Load()))
        return ast.Call(ast.Name("divide", ast.Load()), [node.left, node.right], [])


def _parse(line: str) -> ast.Assign:
    (statement,) = ast.parse(line).body
    assert isinstance(statement, ast.Assign)
    return statement


def _target(statement: ast.stmt) -> str:
    assert isinstance(statement, ast.Assign)
    assert isinstance(statement.targets[0], ast.Name)
    return statement.targets[0].id


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
