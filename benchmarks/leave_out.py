"""Tensor-core kernels with a stage left out, to see what the stage costs. For profile.py.

    without(program, "product")  # a Program, or None where the kernel has nothing of the stage

The program's text is rewritten by the names of the calls in it, within the loop over time and the
functions that it calls: so the kernels carry nothing for it, and a new cell or tiling needs
nothing. A variant computes nonsense, but it ends, and it touches only the memory that the kernel
touches:

- exchange: what goes to other blocks and what waits for it, so that nobody waits for what is not
  sent;
- barriers: those of the block. Where blocks exchange, this is left out too: a warp that runs ahead
  of the others would let an mbarrier complete unseen, and they would wait for ever. To be compared
  with `exchange` then;
- product: tensor cores and what they read. The sums become numbers made of one word of B, which the
  compiler cannot know;
- pointwise: the cell's exp, tanh, division and their like become one multiplication;
- memory: global memory is neither read nor written. Tiles in shared memory stay.

What was computed only for what is left out goes with it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from flashrnn_numba.kernels.launch import Program

STAGES = ("exchange", "barriers", "product", "pointwise", "memory")

_SLOW = (
    *("divide", "exp", "log", "sqrt", "power", "reciprocal"),
    *("sigmoid", "tanh", "softplus", "log_sigmoid"),
)
_SHORT = {"u": "uint", "i": "int", "f": "float"}


@dataclass(frozen=True)
class Calls:
    """What goes, by how names begin: calls that are statements; calls whose value becomes zeros,
    with the loops that ask again and again."""

    statements: tuple[str, ...]
    values: tuple[str, ...] = ()


_EXCHANGE = Calls(
    (
        *("st_async_", "st_relaxed_", "st_release_", "st_cluster_", "bulk_copy_shared_", "red_"),
        *("mbarrier_", "cluster_arrive", "cluster_wait", "grid_barrier", "sync_warp"),
    ),
    ("ld_relaxed_", "ld_acquire_", "ld_volatile_", "ld_cluster_"),
)
_BARRIERS = Calls(("syncthreads", "named_barrier_"))
_MEMORY = Calls(("cp_async_", "st_global_", "prefetch_"), ("ld_global_",))


@cache
def without(program: Program, stage: str) -> Program | None:
    """The program without a stage of its time loop; None where that changes nothing."""
    kernel = _Kernel(program)
    before = ast.dump(kernel.module)
    if stage == "barriers":
        kernel.change(_Left(kernel, _BARRIERS))
        if ast.dump(kernel.module) == before:
            return None
    if stage in ("barriers", "exchange"):
        # single mma steps add up what has arrived
        kernel.change(_Left(kernel, _EXCHANGE, adders=tuple(kernel.blocks("mma_"))))
    elif stage == "product":
        kernel.change(_Product(kernel))
    elif stage == "pointwise":
        _Functions().visit(kernel.module)
    elif stage == "memory":
        kernel.change(_Left(kernel, _MEMORY, pointers=kernel.pointers(), readers=("state_or",)))
    else:
        raise ValueError(f"there is no stage {stage!r}, only {', '.join(STAGES)}")
    if ast.dump(kernel.module) == before:
        return None
    text = ast.unparse(ast.fix_missing_locations(kernel.module))
    # the digest stands for the building blocks that the kernel is made of
    head = f"# without {stage}: made of {program.digest}\n"
    return replace(program, text=head + text + "\n", plan=f"{program.plan}, without {stage}")


class _Kernel:
    """A program's module, its kernel and the loop over the steps: the one with the product."""

    def __init__(self, program: Program) -> None:
        self.program, self.module = program, ast.parse(program.text)
        functions = [s for s in self.module.body if isinstance(s, ast.FunctionDef)]
        (self.function,) = (f for f in functions if f.name == program.name)
        self.products = self.blocks("", "_mma")
        self.aliases = {name: _last_name(block) for name, block in self.blocks("").items()}
        loops = [s for s in self.function.body if isinstance(s, ast.For)]
        loops = [s for s in loops if any(_called(n) in self.products for n in ast.walk(s))]
        if len(loops) != 1:
            raise ValueError(f"{program.name}: {len(loops)} loops with a product, expected one")
        self.loop = loops[0]
        self._drop_unread()

    def blocks(self, begin: str, end: str = "") -> dict[str, ast.expr]:
        """Names that the module's head gives to building blocks, by how these are called: name ->
        the block, or the call that makes it."""
        found = {}
        for s in self.module.body:
            if isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name):
                maker = _last_name(s.value.func if isinstance(s.value, ast.Call) else s.value)
                if maker.startswith(begin) and maker.endswith(end):
                    found[s.targets[0].id] = s.value
        return found

    def pointers(self) -> dict[str, str]:
        """Arguments that point to global memory: their zeros."""
        kinds = zip(self.function.args.args, self.program.arguments, strict=True)
        known = ("float32", "uint16", "uint64")  # that modules import; the others are flags
        return {
            a.arg: f"{kind[:-1] if kind[:-1] in known else 'uint32'}(0)"
            for a, kind in kinds
            if kind.endswith("*")
        }

    def change(self, how: ast.NodeTransformer) -> None:
        how.generic_visit(self.loop)
        for function in self._called_in(self.loop).values():
            how.generic_visit(function)
            function.body = function.body or [ast.Pass()]
        _KeepSums(self).generic_visit(self.loop)
        self._drop_unread()

    def _called_in(self, node: ast.AST) -> dict[str, ast.FunctionDef]:
        """The module's functions that are called there, and those that they call."""
        functions = {s.name: s for s in self.module.body if isinstance(s, ast.FunctionDef)}
        found: dict[str, ast.FunctionDef] = {}
        for name in {_called(n) for n in ast.walk(node)} & functions.keys():
            found |= {name: functions[name]} | self._called_in(functions[name])
        return found

    def _drop_unread(self) -> None:
        """Drop assignments in the loop, and in what it calls, to what nobody reads. (Calls whose
        value is assigned do nothing else.)"""
        _drop_unread(self.loop, self.function)
        for function in self._called_in(self.loop).values():
            _drop_unread(function, function)


def _drop_unread(part: ast.AST, function: ast.FunctionDef) -> None:
    dropping = True
    while dropping:
        drop = _DropUnread(_read(function))
        drop.generic_visit(part)
        dropping = drop.dropped


# rewriting --------------------------------------------------------------------------------------


class _Blocks(ast.NodeTransformer):
    """Blocks that have become empty go too."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        self.generic_visit(node)
        if not node.body and not node.orelse:
            return None
        node.body = node.body or [ast.Pass()]
        return node

    def visit_For(self, node: ast.For) -> ast.AST | None:
        self.generic_visit(node)
        return node if node.body else None


class _Left(_Blocks):
    """pointers -- arguments through which nothing is read or written; adders -- functions that
    return their last argument; readers -- functions that return their first."""

    def __init__(
        self,
        kernel: _Kernel,
        calls: Calls,
        pointers: dict[str, str] | None = None,
        adders: tuple[str, ...] = (),
        readers: tuple[str, ...] = (),
    ) -> None:
        self.aliases = kernel.aliases
        self.calls, self.pointers = calls, pointers or {}
        self.adders, self.readers = adders, readers

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if self._block(node.value).startswith(self.calls.statements):
            return None
        return self.generic_visit(node)

    def visit_While(self, node: ast.While) -> ast.AST | None:
        if any(self._asks(n) for n in ast.walk(node)):
            return None
        self.generic_visit(node)
        return node if node.body else None

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if self._asks(node):
            return _zeros(self._block(node))
        self.generic_visit(node)
        if _called(node) in self.readers:
            return node.args[0]
        return node.args[-1] if _called(node) in self.adders else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        target = node.targets[0]
        if isinstance(target, ast.Subscript) and self._points(target):
            return None
        return self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if self._points(node):
            return _expression(self.pointers[_last_name(node.value)])
        return node

    def _asks(self, node: ast.AST) -> bool:
        return bool(self.calls.values) and self._block(node).startswith(self.calls.values)

    def _block(self, node: ast.AST) -> str:
        """The building block that is called, also by a name that the module gives to it."""
        return self.aliases.get(_called(node)) or _called(node)

    def _points(self, node: ast.Subscript) -> bool:
        return isinstance(node.value, ast.Name) and node.value.id in self.pointers


class _KeepSums(_Blocks):
    """Where nobody reads the product's sums any more the assembler would drop it: here they are
    stored at a step that never comes, which the compiler cannot know."""

    def __init__(self, kernel: _Kernel) -> None:
        self.kernel, self.read = kernel, _read(kernel.function)

    def visit_Assign(self, node: ast.Assign) -> Any:
        maker = self.kernel.products.get(_called(node.value))
        sums = ast.unparse(node.targets[0])
        if maker is None or sums in self.read:
            return node
        step = ast.unparse(self.kernel.loop.target)
        total = " + ".join(f"{sums}[{i}]" for i in range(_sums(maker)))
        return [node, *ast.parse(f"if {step} < -H:\n    st_shared_f32(uint32(0), {total})").body]


class _Product(_Blocks):
    """accumulators = product(..., b) becomes numbers made of the word at b."""

    def __init__(self, kernel: _Kernel) -> None:
        self.products, self.columns = kernel.products, kernel.blocks("load_columns")

    def visit_Assign(self, node: ast.Assign) -> Any:
        name = _called(node.value)
        if name not in self.products and name not in self.columns:
            return node
        assert isinstance(node.value, ast.Call)
        columns = node.value.args[-1]
        result, b = ast.unparse(node.targets[0]), ast.unparse(columns)
        if name in self.columns:
            return ast.parse(f"{result} = (ld_shared_u32({b}),)").body
        maker = self.products[name]
        if isinstance(columns, ast.Tuple):  # B in registers
            word = f"bits_f32({ast.unparse(columns.elts[0])})"
        elif _called(maker) == "columns_mma":
            word = f"bits_f32({b}[0])"
        else:
            word = f"ld_shared_f32({b})"
        # sums that differ: of equal ones the compiler would compute what follows only once
        sums = ", ".join(f"left_out + float32({i}.0)" for i in range(1, _sums(maker) + 1))
        return ast.parse(f"left_out = {word}\n{result} = ({sums})").body


def _sums(maker: ast.expr) -> int:
    """How many numbers a product returns: 4 for each m tile and n tile, the maker's arguments."""
    assert isinstance(maker, ast.Call)
    m_tiles, n_tiles = (ast.literal_eval(a) for a in maker.args[:2])
    return 4 * int(m_tiles) * int(n_tiles)


class _Functions(ast.NodeTransformer):
    """In the kernel, and in the functions that it calls."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not (isinstance(node.func, ast.Name) and node.func.id in _SLOW):
            return node
        two = node.args if node.func.id == "divide" else [node.args[0], _expression("float32(0.5)")]
        return ast.BinOp(two[0], ast.Mult(), two[1])


class _DropUnread(_Blocks):
    def __init__(self, read: set[str]) -> None:
        self.read, self.dropped = read, False

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        named = _named(node)
        if not named or named & self.read:
            return node
        self.dropped = True
        return None


def _named(node: ast.Assign) -> set[str]:
    """Variables that are assigned; none where the target is something else too."""
    (target,) = node.targets
    parts = target.elts if isinstance(target, ast.Tuple) else [target]
    names = {part.id for part in parts if isinstance(part, ast.Name)}
    return names if len(names) == len(parts) else set()


def _read(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _called(node: ast.AST) -> str:
    return _last_name(node.func) if isinstance(node, ast.Call) else ""


def _last_name(node: ast.AST) -> str:
    """`name` of name and of module.name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _zeros(load: str) -> ast.expr:
    """What a load of this name might have given: ld_relaxed_gpu_v4_u32 four numbers of 32 bits."""
    match = re.search(r"_(?:v(\d)_)?([uif])(\d+)$", load)
    if match is None:
        raise ValueError(f"{load}: how many numbers of what type?")
    zero = f"{_SHORT[match[2]]}{match[3]}(0)"
    return _expression(f"({', '.join([zero] * int(match[1]))})" if match[1] else zero)


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body
