"""Kernels as templates: an ordinary Python function whose constants and loops are written out.

A template is a module-level function that reads like the kernel it becomes. `specialise` rewrites
its source:

- names in `constants` become literals, and constant expressions are folded;
- `for i in unroll(N):` becomes N copies of its body;
- `a = cuda.local.array(N, type)` becomes N variables a_0, a_1, ..., starting at 0: with loops
  written out, indices are literals, and variables live in registers for certain;
- `a = names(N)` likewise, for variables of any type that are written before they are read: they
  start as nothing, which spares the compiler N lines;
- `tuple_of(a, i, N)` becomes (a_i, a_i+1, ...), N of them;
- `if` with a constant condition keeps one branch, and so does `a if CONSTANT else b`;
- integers that follow each other in a sum are added up;
- a bare call of a name in `parts`, such as `product()`, becomes the lines of that part: text, or
  the body of a function (with its parameters replaced by the arguments). Parts share the
  template's variables;
- indices of the arrays named in `unsigned` are cast to uint64: for a signed index Numba adds code
  that lets -1 mean the last element, and LLVM then no longer sees that loads are neighbours.

Why source text: Numba leaves unrolling to LLVM, which gives up on long bodies and then puts local
arrays into local memory; and a file on disk can be read, stepped through and cached.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Function:
    """A function in a file of this folder. It is read, not imported: a template's module imports
    Numba, and where the compiled kernel comes from the disk cache nobody needs that."""

    file: str
    name: str

    def definition(self) -> ast.FunctionDef:
        for node in _parse(self.file).body:
            if isinstance(node, ast.FunctionDef) and node.name == self.name:
                return _copied(node)
        raise ValueError(f"there is no function {self.name} in {self.file}")


@cache
def _parse(file: str) -> ast.Module:
    return ast.parse((FOLDER / file).read_text())


Part = str | Function


def specialise(
    function: Function,
    constants: Mapping[str, Any],
    parts: Mapping[str, Part] | None = None,
    unsigned: tuple[str, ...] = (),
) -> str:
    """The text of `function` with constants, loops and parts written out."""
    tree = _definition(function)
    inlined = {name: _part(part) for name, part in (parts or {}).items()}
    tree = ast.fix_missing_locations(_Specialise(constants, inlined, unsigned).visit(tree))
    return ast.unparse(tree) + "\n"


def _definition(function: Function) -> ast.FunctionDef:
    definition = function.definition()
    if ast.get_docstring(definition) is not None:
        del definition.body[0]
    return definition


def _part(part: Part) -> tuple[list[str], list[ast.stmt]]:
    """(parameters, statements)."""
    if isinstance(part, str):
        return [], ast.parse(part).body
    definition = _definition(part)
    return [a.arg for a in definition.args.args], definition.body


_FOLDED = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Subscript, ast.IfExp)


class _Specialise(ast.NodeTransformer):
    def __init__(
        self,
        constants: Mapping[str, Any],
        parts: Mapping[str, tuple[list[str], list[ast.stmt]]],
        unsigned: tuple[str, ...],
    ) -> None:
        self.values: dict[str, ast.expr] = {n: ast.Constant(v) for n, v in constants.items()}
        self.parts = parts
        self.unsigned = unsigned
        self.local: set[str] = set()

    def visit(self, node: ast.AST) -> Any:
        result = super().visit(node)
        return _fold(result) if isinstance(result, _FOLDED) else result

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if isinstance(node.ctx, ast.Load) and node.id in self.values:
            return _copied(self.values[node.id])
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        array = node.value.id if isinstance(node.value, ast.Name) else ""
        if array in self.local:
            return ast.Name(_element(node), node.ctx)
        if array in self.unsigned:
            node.slice = ast.Call(ast.Name("uint64", ast.Load()), [node.slice], [])
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if _name_called(node) == "tuple_of":
            return _tuple_of(*node.args)
        known = all(isinstance(a, ast.Constant) for a in node.args)
        if known and _name_called(node) in ("max", "min"):
            return ast.Constant(eval(ast.unparse(node)))
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        for argument in node.args.args:
            argument.annotation = None
        node.returns = None
        node.body = self._block(node.body)
        return node

    def visit_Expr(self, node: ast.Expr) -> Any:
        name = _name_called(node.value)
        if name not in self.parts:
            return self.generic_visit(node)
        assert isinstance(node.value, ast.Call)
        parameters, body = self.parts[name]
        arguments = [self.visit(a) for a in node.value.args]
        return self._with(dict(zip(parameters, arguments, strict=True)), body)

    def visit_Assign(self, node: ast.Assign) -> Any:
        self.generic_visit(node)
        made = ast.unparse(node.value)
        if not made.startswith(("cuda.local.array(", "names(")):
            return node
        (target,) = node.targets
        assert isinstance(target, ast.Name)
        assert isinstance(node.value, ast.Call)
        self.local.add(target.id)
        if made.startswith("names("):
            return None
        count, kind = node.value.args
        return ast.parse(
            "\n".join(
                f"{target.id}_{i} = {ast.unparse(kind)}(0)" for i in range(ast.literal_eval(count))
            )
        ).body

    def visit_If(self, node: ast.If) -> Any:
        test = self.visit(node.test)
        if isinstance(test, ast.Constant):
            return self._block(node.body if test.value else node.orelse)
        node.test = test
        node.body = self._block(node.body) or [ast.Pass()]
        node.orelse = self._block(node.orelse)
        return node

    def visit_For(self, node: ast.For) -> Any:
        if _name_called(node.iter) != "unroll":
            node.iter = self.visit(node.iter)
            node.body = self._block(node.body) or [ast.Pass()]
            return node
        assert isinstance(node.iter, ast.Call)
        assert isinstance(node.target, ast.Name)
        count = self.visit(node.iter.args[0])
        if not (isinstance(count, ast.Constant) and isinstance(count.value, int)):
            raise ValueError(f"{ast.unparse(node.iter)}: the count is not constant")
        copies: list[ast.stmt] = []
        for i in range(count.value):
            copies += self._with({node.target.id: ast.Constant(i)}, node.body)
        return copies

    def _with(self, values: dict[str, ast.expr], body: list[ast.stmt]) -> list[ast.stmt]:
        outer, self.values = self.values, {**self.values, **values}
        result = self._block(_copied(body))
        self.values = outer
        return result

    def _block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        result: list[ast.stmt] = []
        for statement in statements:
            new = self.visit(statement)
            if isinstance(new, list):
                result += new
            elif new is not None:
                result.append(new)
        return result


def _copied(tree: Any) -> Any:
    """As copy.deepcopy of a tree, at a tenth of its time: unrolling copies a lot."""
    if isinstance(tree, list):
        return [_copied(part) for part in tree]
    if not isinstance(tree, ast.AST) or not tree._fields:
        return tree
    made = tree.__new__(type(tree))
    for name, part in vars(tree).items():
        setattr(made, name, _copied(part))
    return made


def _tuple_of(array: ast.expr, first: ast.expr, count: ast.expr) -> ast.Tuple:
    assert isinstance(array, ast.Name)
    start, size = (ast.literal_eval(number) for number in (first, count))
    names = [f"{array.id}_{i}" for i in range(start, start + size)]
    return ast.Tuple([ast.Name(name, ast.Load()) for name in names], ast.Load())


def _element(node: ast.Subscript) -> str:
    """The variable of one element of a local array."""
    assert isinstance(node.value, ast.Name)
    if not isinstance(node.slice, ast.Constant):
        raise ValueError(f"{ast.unparse(node)}: the index is not constant")
    return f"{node.value.id}_{node.slice.value!r}"


def _name_called(node: ast.expr) -> str:
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return node.func.id if called else ""  # type: ignore[attr-defined]


def _fold(node: ast.AST) -> ast.AST:
    """The value of an expression of literals."""
    if isinstance(node, ast.BoolOp):
        return _fold_logic(node)
    if isinstance(node, ast.IfExp) and isinstance(node.test, ast.Constant):
        return node.body if node.test.value else node.orelse
    if (outer := _with_literal(node)) and (inner := _with_literal(outer.left)):
        node = _added_up(outer, inner)
    leaves = [n for n in ast.walk(node) if isinstance(n, ast.expr)]
    if any(isinstance(n, ast.Name | ast.Call | ast.Attribute) for n in leaves):
        return node
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        return node
    text = ast.unparse(node)
    return ast.Constant(eval(compile(text, "<constant>", "eval"), {"__builtins__": {}}))


def _fold_logic(node: ast.BoolOp) -> ast.AST:
    """`and` / `or` without the operands that are known."""
    decides = isinstance(node.op, ast.Or)
    rest = []
    for value in node.values:
        if not isinstance(value, ast.Constant):
            rest.append(value)
        elif bool(value.value) == decides:
            return ast.Constant(decides)
    if not rest:
        return ast.Constant(not decides)
    return rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)


def _with_literal(node: ast.AST) -> ast.BinOp | None:
    """The node, if it is a sum or difference with a literal integer on the right."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)):
        return None
    right = node.right
    literal = isinstance(right, ast.Constant) and type(right.value) is int
    return node if literal else None


def _added_up(outer: ast.BinOp, inner: ast.BinOp) -> ast.BinOp:
    """x + 2 + 3 as x + 5; for x that is no float, whose rounding might differ."""
    total = sum(
        ast.literal_eval(node.right) * (1 if isinstance(node.op, ast.Add) else -1)
        for node in (outer, inner)
    )
    return ast.BinOp(inner.left, ast.Add() if total >= 0 else ast.Sub(), ast.Constant(abs(total)))
