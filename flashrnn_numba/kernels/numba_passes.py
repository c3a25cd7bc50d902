"""Some of Numba's passes over a function, with the same results in less time.

Kernels here are unrolled: thousands of variables in hundreds of blocks. Numba's analysis of what is
alive joins sets of names until nothing changes, its SSA pass walks through the whole function once
for each variable with several assignments, and each of a thousand sums of two integers is looked up
among all that `+` can mean. This is more than half of a kernel's compile time; with sets of bits,
only the statements that mention a variable, and a memory of what was looked up, a tenth of it
remains. Which variables a statement mentions is asked half a million times.
Two passes find nothing to do here and are left out: kernels have no closures, no indexing by
strings and no arrays made of constants. So is what a log would be told of SSA. And meanwhile no
garbage is collected: a million small objects that are all in use make the collector busy for a
fifth of the time.
"""

from __future__ import annotations

import gc
import inspect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any

_lock = threading.RLock()
Names = Mapping[Any, set[str]]  # by a block's label


@contextmanager
def quick_passes() -> Iterator[None]:
    """Numba compiles with them, for a while."""
    from numba.core.types.functions import BaseFunction
    from numba.cuda.core import analysis, base, ir, ssa, typed_passes, untyped_passes
    from numba.cuda.lowering import Lower
    from numba.cuda.typing import templates

    signatures = Signatures()

    with _lock, ExitStack() as stack:
        for place, name, quick in (
            (analysis, "compute_live_map", live_map),
            (analysis, "compute_use_defs", use_defs),
            (ir.Inst, "_rec_list_vars", list_variables),
            (ssa, "_run_ssa", run_ssa),
            (untyped_passes, "fixup_var_define_in_scope", define_in_scopes),
            (BaseFunction, "get_call_type", remembering(BaseFunction.get_call_type)),
            (
                untyped_passes.InlineClosureLikes,
                "run_pass",
                left_out(untyped_passes.InlineClosureLikes),
            ),
            (typed_passes.NopythonRewrites, "run_pass", left_out(typed_passes.NopythonRewrites)),
            (Lower, "_find_singly_assigned_variable", find_singly_assigned),
            (ssa, "_logger", Silence()),
            (templates, "inspect", signatures),
            (base, "_has_loc", lambda function: "loc" in signatures.signature(function).parameters),
        ):
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, quick)
        yield


@contextmanager
def no_collection() -> Iterator[None]:
    """Without Python's garbage collector."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Silence:
    """A log that nobody reads."""

    def debug(self, *message: Any) -> None:
        pass


class Signatures:
    """The module `inspect`, which remembers functions' signatures by their code and defaults."""

    def __init__(self) -> None:
        self._known: dict[Any, inspect.Signature] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)

    def signature(self, function: Any) -> inspect.Signature:
        if not isinstance(function, FunctionType) or function.__dict__:
            return inspect.signature(function)
        defaults = function.__defaults__, function.__kwdefaults__
        if any(defaults):  # which may be no keys
            return inspect.signature(function)
        found = self._known.get(function.__code__)
        if found is None:
            found = self._known[function.__code__] = inspect.signature(function)
        return found


def live_map(cfg: Any, blocks: Mapping, used: Names, defined: Names) -> dict[Any, set[str]]:
    """As numba.cuda.core.analysis.compute_live_map: the variables that are alive at the entry of
    each block. A set of variables is an integer, a bit for each."""
    names: dict[str, int] = {}
    for label in blocks:
        for name in (*used[label], *defined[label]):
            names.setdefault(name, len(names))
    uses, definitions = ({b: _bits(names, part[b]) for b in blocks} for part in (used, defined))
    successors = {b: [s for s, _ in cfg.successors(b)] for b in blocks}
    predecessors = {b: [p for p, _ in cfg.predecessors(b)] for b in blocks}
    # what may have been defined before the end of each block
    reached = {b: uses[b] | definitions[b] for b in blocks}
    waiting = list(blocks)
    while waiting:
        label = waiting.pop()
        for after in successors[label]:
            joined = reached[after] | reached[label]
            if joined != reached[after]:
                reached[after] = joined
                waiting.append(after)
    alive, waiting = dict(uses), list(blocks)
    while waiting:
        label = waiting.pop()
        for before in predecessors[label]:
            joined = alive[before] | alive[label] & reached[before] & ~definitions[before]
            if joined != alive[before]:
                alive[before] = joined
                waiting.append(before)
    order = list(names)
    return {label: _names(order, bits) for label, bits in alive.items()}


def _bits(names: Mapping[str, int], some: set[str]) -> int:
    bits = bytearray(len(names) // 8 + 1)
    for name in some:
        place = names[name]
        bits[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(bits, "little")


def _names(order: list[str], bits: int) -> set[str]:
    found = set()
    while bits:
        lowest = bits & -bits
        found.add(order[lowest.bit_length() - 1])
        bits ^= lowest
    return found


def run_ssa(blocks: Any) -> Any:
    """As numba.cuda.core.ssa._run_ssa, but for each variable only the statements that mention it
    are looked at."""
    from numba.cuda.core import errors, ir, ssa
    from numba.cuda.core.analysis import compute_cfg_from_blocks

    if not blocks:
        return {}
    cfg = compute_cfg_from_blocks(blocks)
    fronts = ssa._iterated_domfronts(cfg)
    violators = ssa._find_defs_violators(blocks, cfg)
    mentions = _mentions(blocks, violators)
    cache = ssa._CacheListVars()
    blocks = dict(blocks)
    for name in violators:
        definitions: Any = defaultdict(list)
        phis: Any = defaultdict(list)
        states = ssa._make_states(blocks) | {"varname": name, "defmap": definitions}
        blocks |= _rewritten(blocks, mentions[name], states, ssa._FreshVarHandler())
        states |= {"phimap": phis, "cfg": cfg}
        states["phi_locations"] = ssa._compute_phi_locations(fronts, definitions)
        blocks |= _rewritten(blocks, mentions[name], states, ssa._FixSSAVars(cache))
        for label, added in phis.items():
            if added:
                changed = ir.Block(scope=blocks[label].scope, loc=blocks[label].loc)
                changed.body = added + blocks[label].body
                blocks[label] = changed
    if compute_cfg_from_blocks(blocks) != cfg:
        raise errors.CompilerError("CFG mutated in SSA pass")
    return blocks


def _mentions(blocks: Mapping, names: Mapping[str, None]) -> dict[str, dict[Any, list[int]]]:
    """Where each name occurs: in which statements of which blocks, counted from the end. Making
    another variable's definitions unique adds statements at the start, and no occurrence."""
    found: dict[str, dict[Any, list[int]]] = {name: {} for name in names}
    for label, block in blocks.items():
        for place, statement in enumerate(block.body, -len(block.body)):
            for name in {variable.name for variable in statement.list_vars()}:
                if name in found:
                    found[name].setdefault(label, []).append(place)
    return found


def _rewritten(
    blocks: Mapping, places: Mapping[Any, list[int]], states: dict[str, Any], handler: Any
) -> dict[Any, Any]:
    """As ssa._run_block_rewrite, of these statements of these blocks."""
    from numba.cuda.core import ir

    changed = {}
    for label, some in places.items():
        block = blocks[label]
        states |= {"label": label, "block": block}
        body = list(block.body)
        for place in some:
            statement = body[place]
            assigns = isinstance(statement, ir.assign_types)
            handle = handler.on_assign if assigns else handler.on_other
            body[place] = handle(states, statement)
        changed[label] = ir.Block(scope=block.scope, loc=block.loc)
        changed[label].body = body
    return changed


def use_defs(blocks: Mapping) -> Any:
    """As numba.cuda.core.analysis.compute_use_defs: by block, the variables that it takes from
    elsewhere, and those that it makes."""
    from numba.cuda.core import analysis, ir

    uses: dict[Any, set[str]] = {}
    definitions: dict[Any, set[str]] = {}
    for label, block in blocks.items():
        used, defined = uses.setdefault(label, set()), definitions.setdefault(label, set())
        for statement in block.body:
            if isinstance(statement, ir.del_types):  # which names it in a string
                names = {statement.value}
            elif isinstance(statement, ir.assign_types):
                names = {v.name for v in list_variables(None, statement.value)}
                target = statement.target.name
                if target not in names:
                    defined.add(target)
            else:
                names = {v.name for v in statement.list_vars()}
            used |= names - defined
    return analysis._use_defs_result(usemap=uses, defmap=definitions)


def list_variables(_: Any, node: Any) -> list[Any]:
    """As numba.cuda.core.ir.Inst._rec_list_vars: all in a node of Numba's IR, in a sequence, in a
    dictionary's values."""
    found: list[Any] = []
    _collect(node, found)
    return found


def _collect(node: Any, found: list[Any]) -> None:
    kind = type(node)
    how = _collectors.get(kind)
    if how is None:
        how = _collectors[kind] = _collector(node)
    how(node, found)


_Collector = Callable[[Any, list[Any]], None]
_collectors: dict[type, _Collector] = {}  # by a node's type


def _collector(node: Any) -> _Collector:
    from numba.cuda.core import ir

    def itself(node: Any, found: list[Any]) -> None:
        found.append(node)

    def its_own(node: Any, found: list[Any]) -> None:
        found += node.list_vars()

    def parts(node: Any, found: list[Any]) -> None:
        for part in node:
            _collect(part, found)

    def values(node: Any, found: list[Any]) -> None:
        parts(node.values(), found)

    def nothing(node: Any, found: list[Any]) -> None:
        pass

    kinds = ((ir.var_types, itself), (ir.inst_types, its_own), ((list, tuple), parts))
    for kind, how in (*kinds, (dict, values)):
        if isinstance(node, kind):
            return how
    return nothing


def define_in_scopes(blocks: Mapping) -> None:
    """As numba.cuda.core.ir_utils.fixup_var_define_in_scope: every variable is in the scope of
    every block. Most blocks share theirs."""
    variables: dict[str, Any] = {}
    for block in blocks.values():
        for statement in block.body:
            for variable in statement.list_vars():
                variables.setdefault(variable.name, variable)
    for scope in {id(block.scope): block.scope for block in blocks.values()}.values():
        for name, variable in variables.items():
            if name not in scope.localvars:
                scope.localvars.define(name, variable)


def left_out(pass_class: Any) -> Callable[..., bool]:
    """Its run_pass, which changes nothing in this thread. Another one may be compiling kernels that
    are not ours."""
    thread, run_pass = threading.get_ident(), pass_class.run_pass

    def unless_here(self: Any, state: Any) -> bool:
        return threading.get_ident() != thread and bool(run_pass(self, state))

    return unless_here


def find_singly_assigned(lower: Any) -> None:
    """As numba.cuda.lowering.Lower._find_singly_assigned_variable: variables with one assignment,
    used in its block alone, need no memory. Assignments are counted once, not for each variable."""
    from numba.cuda.core import ir
    from numba.cuda.core.analysis import compute_use_defs, must_use_alloca

    lower._singly_assigned_vars, lower._blk_local_varmap = set(), {}
    if lower.func_ir.func_id.is_generator:
        return
    blocks = lower.func_ir.blocks
    elsewhere = set().union(*compute_use_defs(blocks).usemap.values(), must_use_alloca(blocks))
    count: dict[str, int] = defaultdict(int)
    for block in blocks.values():
        for statement in block.find_insts(ir.assign_types):
            count[statement.target.name] += 1
    lower._singly_assigned_vars = {n for n, times in count.items() if times == 1} - elsewhere


def remembering(get_call_type: Callable[..., Any]) -> Callable[..., Any]:
    """The signature of a function for the types of its arguments, worked out once."""
    from numba.core.types import Type

    known: dict[Any, Any] = {}

    def remembered(function: Any, context: Any, args: Any, kws: Any) -> Any:
        if kws or not all(isinstance(arg, Type) for arg in args):
            return get_call_type(function, context, args, kws)
        key = (function, id(context), tuple(args))
        found = known.get(key)
        if found is None:
            found = known[key] = get_call_type(function, context, args, kws)
        return found

    return remembered
