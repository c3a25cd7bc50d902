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
    """Lines of Python for item `i` (a literal where they are put in).

    early: from gate[], state[] to kept[i * count + q]; late: from kept and cotangent[] to dgate[]
    and dstate[]. count: values between them.
    """

    early: str
    late: str
    count: int


def halves(cell: Cell) -> Halves:
    outputs = cell.outputs("vjp")
    index = {("gate", n): i for i, n in enumerate(cell.gates)}
    index |= {(kind, n): i for kind in ("state", "cotangent") for i, n in enumerate(cell.states)}
    inputs: dict[str, str] = {}

    def name_input(kind: str, name: str) -> str:
        local = f"{kind}_{name}"
        inputs[local] = f"{kind}[{index[kind, name]}]"
        return local

    lines, results = emit.assignments(outputs, name_input, "scalar")
    statements = [_without_division(line) for line in lines]
    late_names = {local for local in inputs if local.startswith("cotangent_")}
    early, late = [], []
    for statement in statements:
        target, used = statement.targets[0].id, _names(statement.value)
        if used & late_names:
            late_names.add(target)
            late.append(statement)
        else:
            early.append(statement)
    needed = {n for s in late for n in _names(s.value)} | {n for r in results for n in _names_of(r)}
    defined = [*inputs, *(s.targets[0].id for s in early)]
    kept = [n for n in defined if n in needed and n not in late_names]
    used_late = {n for n in needed if n in late_names}
    count = max(1, len(kept))
    early_text = [f"{n} = {text}" for n, text in inputs.items() if n not in late_names]
    early_text += [ast.unparse(s) for s in early]
    early_text += [f"kept[i * {count} + {q}] = {n}" for q, n in enumerate(kept)]
    late_text = [f"{n} = kept[i * {count} + {q}]" for q, n in enumerate(kept)]
    late_text += [f"{n} = {inputs[n]}" for n in inputs if n in used_late]
    late_text += [ast.unparse(s) for s in late]
    gates = len(cell.gates)
    for o, result in enumerate(results):
        place = f"dgate[{o}]" if o < gates else f"dstate[{o - gates}]"
        late_text.append(f"{place} = {result}")
    return Halves("\n".join(early_text), "\n".join(late_text), count)


class _Divisions(ast.NodeTransformer):
    """a / b -> divide(a, b), whose meaning the functions' namespace decides."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div):
            return node
        return ast.Call(ast.Name("divide", ast.Load()), [node.left, node.right], [])


def _without_division(line: str) -> ast.Assign:
    (statement,) = ast.fix_missing_locations(_Divisions().visit(ast.parse(line))).body
    assert isinstance(statement, ast.Assign)
    return statement


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _names_of(text: str) -> set[str]:
    return _names(ast.parse(text))
