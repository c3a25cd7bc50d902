"""How a PTX building block is declared: one Python function is its shapes, its text and its twin.

    @instruction("mapa.shared::cluster.u32 {out}, {address}, {rank};", section="mapa", since=90)
    def mapa(t, address: U32, rank: U32) -> U32:
        return t.mapa(address, rank)

The annotations give the registers, the text gives the PTX, and the body is what the emulator runs:
`t` is the emulated thread (flashrnn_numba.kernels.emulator.thread.Thread). What the decorator
returns is a numba.cuda intrinsic of the same name. `emitted` does the same for blocks that are many
instructions, with a code generator instead of one text.

Only this package touches llvmlite.
"""

import inspect
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, get_type_hints

from llvmlite import ir
from numba import cuda
from numba.cuda import cgutils  # type: ignore[attr-defined]
from numba.cuda.core.errors import TypingError
from numba.cuda.extending import intrinsic

types: Any = cuda.types  # untyped: its names come by star import

Emit = Callable[[Any, dict[str, list[Any]]], list[Any]]


@dataclass(frozen=True)
class Registers:
    """What one operand is made of: a kind of register, and how many (0: a scalar, not a tuple)."""

    kind: str
    count: int = 0

    @property
    def numba_type(self) -> Any:
        scalar = KINDS[self.kind].numba_type
        return types.UniTuple(scalar, self.count) if self.count else scalar

    def __str__(self) -> str:
        return f"{self.kind} x {self.count}" if self.count else self.kind


@dataclass(frozen=True)
class Kind:
    constraint: str  # LLVM's letter for the register class
    numba_type: Any
    llvm_type: Any
    accepts: tuple[Any, ...]  # numba types that are converted silently


_INTEGERS = (types.Integer, types.Boolean)
KINDS = {
    "u16": Kind("h", types.uint16, ir.IntType(16), _INTEGERS),
    "u32": Kind("r", types.uint32, ir.IntType(32), _INTEGERS),
    "i32": Kind("r", types.int32, ir.IntType(32), _INTEGERS),
    "u64": Kind("l", types.uint64, ir.IntType(64), _INTEGERS),
    "i64": Kind("l", types.int64, ir.IntType(64), _INTEGERS),
    "f32": Kind("f", types.float32, ir.FloatType(), (types.Float,)),
    "f64": Kind("d", types.float64, ir.DoubleType(), (types.Float,)),
    "bool": Kind("r", types.boolean, ir.IntType(32), _INTEGERS),
}

U16 = Annotated[int, Registers("u16")]
U32 = Annotated[int, Registers("u32")]
I32 = Annotated[int, Registers("i32")]
U64 = Annotated[int, Registers("u64")]
I64 = Annotated[int, Registers("i64")]
F32 = Annotated[float, Registers("f32")]
F64 = Annotated[float, Registers("f64")]
Bool = Annotated[bool, Registers("bool")]
U32x2 = Annotated[tuple[int, ...], Registers("u32", 2)]
U32x4 = Annotated[tuple[int, ...], Registers("u32", 4)]
U64x2 = Annotated[tuple[int, ...], Registers("u64", 2)]
F32x2 = Annotated[tuple[float, ...], Registers("f32", 2)]
F32x4 = Annotated[tuple[float, ...], Registers("f32", 4)]
F64x2 = Annotated[tuple[float, ...], Registers("f64", 2)]
# Two operands are no registers: an integer known at compile time, and an array or a pointer.
Literal = Annotated[int, Registers("literal")]
Array = Annotated[Any, Registers("array")]


@dataclass(frozen=True)
class Block:
    """The description of one building block; the intrinsic carries it as `.block`."""

    name: str
    parameters: dict[str, Registers]
    result: Registers | None
    section: str  # of the PTX ISA manual
    since: int  # the first architecture that has it: 80 for sm_80
    twin: Callable[..., Any] = field(repr=False)
    emit: Emit = field(repr=False)
    text: str = ""


BLOCKS: dict[str, Any] = {}  # name -> intrinsic, for tests and documentation


def instruction(text: str, *, section: str, since: int = 80, effects: str = "memory") -> Any:
    """One PTX instruction. In the text `{name}` is an operand, `{out}` the result.

    The members of a tuple that is the result are `{out0}`, `{out1}` and so on.

    effects: "memory" orders it against all other memory accesses; "order" keeps it in place, which
    suits what meets other threads but reads no memory (mma, shfl); "none" leaves the compiler free.
    All but "none" are convergent: LLVM must not duplicate them into divergent paths.
    """

    def decorate(twin: Callable[..., Any]) -> Any:
        parameters, result = _operands(twin)

        def emit(builder: Any, operands: dict[str, list[Any]]) -> list[Any]:
            return assemble_call(builder, text, parameters, operands, result, effects)

        block = Block(twin.__name__, parameters, result, section, since, twin, emit, text)
        return _register(block, twin.__doc__)

    return decorate


def emitted(
    name: str,
    parameters: dict[str, Registers],
    result: Registers | None,
    emit: Emit,
    twin: Callable[..., Any],
    *,
    section: str,
    since: int = 80,
    doc: str = "",
) -> Any:
    """A block of many instructions: emit(builder, operand name -> LLVM values) -> result values."""
    return _intrinsic(Block(name, parameters, result, section, since, twin, emit), doc)


def asm(
    builder: Any,
    text: str,
    outputs: Sequence[str],
    inputs: Sequence[tuple[str, Any]],
    effects: str = "memory",
) -> list[Any]:
    """Emit one inline-assembly call with LLVM's own `$0, $1` operands; outputs come first.

    An output kind with "&" before it is written before the inputs are read for the last time.
    """
    early = ["&" if kind.startswith("&") else "" for kind in outputs]
    outputs = [kind.removeprefix("&") for kind in outputs]
    constraints = [
        f"={mark}{KINDS[kind].constraint}" for mark, kind in zip(early, outputs, strict=True)
    ]
    constraints += [KINDS[kind].constraint for kind, _ in inputs]
    if effects == "memory":
        constraints.append("~{memory}")
    out_types = [KINDS[kind].llvm_type for kind in outputs]
    if not out_types:
        returned = ir.VoidType()
    elif len(out_types) == 1:
        returned = out_types[0]
    else:
        returned = ir.LiteralStructType(out_types)
    values = [value for _, value in inputs]
    function = ir.FunctionType(returned, [value.type for value in values])
    text = text.replace('"', r"\22")  # as LLVM writes a quote within quotes
    code = ir.InlineAsm(function, text, ",".join(constraints), side_effect=effects != "none")
    attributes = ("nounwind",) if effects == "none" else ("convergent", "nounwind")
    call = builder.call(code, values, attrs=attributes)
    if len(out_types) < 2:
        return [call] if out_types else []
    return [builder.extract_value(call, i) for i in range(len(out_types))]


def assemble_call(
    builder: Any,
    text: str,
    parameters: dict[str, Registers],
    operands: dict[str, list[Any]],
    result: Registers | None,
    effects: str,
) -> list[Any]:
    """Number the named operands of `text` as LLVM wants them, and emit the call."""
    names: dict[str, str] = {}
    outputs = [result.kind] * max(result.count, 1) if result else []
    if result:
        names["out"] = _vector(0, result.count)
        names.update({f"out{i}": f"${i}" for i in range(result.count)})
    inputs: list[tuple[str, Any]] = []
    for name, registers in parameters.items():
        values = operands[name]
        if registers.kind == "literal":
            names[name] = str(values[0])
        elif f"{{{name}" in text:
            names[name] = _vector(len(outputs) + len(inputs), registers.count)
            inputs += [(registers.kind, value) for value in values]
    return asm(builder, string.Formatter().vformat(text, (), names), outputs, inputs, effects)


def add(builder: Any, value: Any, constant: int) -> Any:
    """value + constant; the assembler folds the constant into the address of the access."""
    return builder.add(value, ir.Constant(value.type, constant)) if constant else value


def constant(kind: str, value: float | int) -> Any:
    return ir.Constant(KINDS[kind].llvm_type, value)


def _vector(first: int, count: int) -> str:
    if not count:
        return f"${first}"
    return "{" + ", ".join(f"${first + i}" for i in range(count)) + "}"


def _operands(twin: Callable[..., Any]) -> tuple[dict[str, Registers], Registers | None]:
    hints = get_type_hints(twin, include_extras=True)
    result = hints.pop("return")
    parameters = {name: hint.__metadata__[0] for name, hint in hints.items() if name != "t"}
    return parameters, None if result is type(None) else result.__metadata__[0]


def _register(block: Block, doc: str | None) -> Any:
    BLOCKS[block.name] = _intrinsic(block, doc)
    return BLOCKS[block.name]


def _intrinsic(block: Block, doc: str | None) -> Any:
    def definition(typingctx: Any, *given: Any) -> Any:
        taken = [
            _accept(block, name, registers, got)
            for (name, registers), got in zip(block.parameters.items(), given, strict=True)
        ]
        result = block.result.numba_type if block.result else types.void

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            operands = {
                name: _unpack(context, builder, registers, kind, value)
                for (name, registers), kind, value in zip(
                    block.parameters.items(), signature.args, args, strict=True
                )
            }
            return _pack(context, builder, block.result, block.emit(builder, operands))

        return result(*taken), codegen

    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["typingctx", *block.parameters]
    definition.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, named) for name in names]
    )
    definition.__name__ = definition.__qualname__ = block.name
    definition.__doc__ = doc
    definition.block = block  # type: ignore[attr-defined]
    return intrinsic(definition)


def _accept(block: Block, name: str, registers: Registers, got: Any) -> Any:
    """The type that this argument is converted to, or an error that says what was expected."""
    plain = types.unliteral(got)
    if registers.kind == "literal":
        if isinstance(got, types.IntegerLiteral):
            return got
    elif registers.kind == "array":
        if isinstance(plain, types.Array | types.CPointer):
            return plain
    elif registers.count:
        elements = KINDS[registers.kind].accepts
        fits = isinstance(plain, types.BaseTuple) and len(plain) == registers.count
        if fits and all(isinstance(types.unliteral(element), elements) for element in plain):
            return registers.numba_type
    elif isinstance(plain, KINDS[registers.kind].accepts):
        return registers.numba_type
    wanted = {"literal": "an integer known at compile time", "array": "an array or a pointer"}
    expected = wanted.get(registers.kind, str(registers))
    raise TypingError(f"{block.name}: argument {name!r} is {got}, expected {expected}")


def _unpack(context: Any, builder: Any, registers: Registers, kind: Any, value: Any) -> list[Any]:
    if registers.kind == "literal":
        return [kind.literal_value]
    if registers.kind == "array" and isinstance(kind, types.CPointer):
        return [builder.ptrtoint(value, ir.IntType(64))]
    if registers.kind == "array":
        array = context.make_array(kind)(context, builder, value=value)
        return [builder.ptrtoint(array.data, ir.IntType(64))]
    if registers.count:
        return list(cgutils.unpack_tuple(builder, value, registers.count))
    return [value]


def _pack(context: Any, builder: Any, result: Registers | None, values: list[Any]) -> Any:
    if result is None:
        return context.get_dummy_value()
    if result.kind == "bool":
        return builder.icmp_unsigned("!=", values[0], ir.Constant(values[0].type, 0))
    return cgutils.pack_array(builder, values) if result.count else values[0]
