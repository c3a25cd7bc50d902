"""The kernel's own code with other meanings for its names: a new function, the same source.

Globals and closure cells are replaced, and those of every device function that is called. The code
object stays, so breakpoints, line numbers and tracebacks are those of the kernel.
"""

import math
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from greenlet import getcurrent

from . import names
from .memory import ArrayView
from .scalars import Cast, UInt, converter, loaded
from .where import KernelCode


class Rebinder:
    """Translates what a kernel refers to; each object once."""

    def __init__(self, codes: KernelCode) -> None:
        self.codes = codes
        self.done: dict[int, tuple[Any, Any]] = {}  # id -> (original, kept alive; translation)

    def function(self, function: Any) -> Callable[..., Any]:
        """The function as the emulator runs it; a dispatcher of cuda.jit is unwrapped."""
        function = getattr(function, "py_func", function)
        if not isinstance(function, FunctionType):
            raise TypeError(
                f"the kernel is {function!r}, expected a Python function or cuda.jit of one"
            )
        if id(function) in self.done:
            known: Callable[..., Any] = self.done[id(function)][1]
            return known
        used: dict[str, Any] = {"__builtins__": __builtins__, "__name__": function.__module__}
        cells = tuple(CellType() for _ in function.__closure__ or ())
        new = FunctionType(function.__code__, used, function.__name__, function.__defaults__, cells)
        new.__kwdefaults__ = function.__kwdefaults__
        self.done[id(function)] = (function, new)  # before the rest: functions may be recursive
        for code in _nested(function.__code__):
            self.codes.add(code)
            for name in code.co_names:
                if name in function.__globals__:
                    used[name] = self.translate(function.__globals__[name])
        for cell, old in zip(cells, function.__closure__ or (), strict=True):
            cell.cell_contents = self.translate(old.cell_contents)
        return new

    def translate(self, value: Any) -> Any:
        if id(value) in self.done:
            return self.done[id(value)][1]
        new = self._translate(value)
        if new is not value:
            self.done[id(value)] = (value, new)
        return new

    def _translate(self, value: Any) -> Any:
        if hasattr(value, "block") and hasattr(value.block, "twin"):
            return twin_call(value.block)
        if isinstance(value, ModuleType):
            return self._module(value)
        if isinstance(value, FunctionType) or hasattr(value, "py_func"):
            return self.function(value)
        if isinstance(value, tuple):
            return type(value)(map(self.translate, value)) if type(value) is tuple else value
        if isinstance(value, np.ndarray):
            return names.constant_array(value)
        if isinstance(value, np.generic):
            return scalar(value)
        if _is_number_type(value):
            return Cast(_dtype_of(value))
        return self._cuda_name(value)

    def _module(self, module: ModuleType) -> Any:
        if module is math:
            return names.math_names
        if module.__name__ == "numba.cuda":
            return names.cuda
        if module.__name__.endswith("cuda.libdevice"):
            return names.libdevice
        return ModuleNames(self, module)

    def _cuda_name(self, value: Any) -> Any:
        """`from numba.cuda import syncthreads`: the same as cuda.syncthreads."""
        name = getattr(value, "__name__", None) or getattr(value, "_name_", None)
        if not isinstance(name, str) or not getattr(value, "__module__", "").startswith("numba"):
            return value
        try:
            return getattr(names.cuda, name)
        except AttributeError:
            return value


class ModuleNames:
    """A module whose attributes are translated when they are asked for."""

    def __init__(self, rebinder: Rebinder, module: ModuleType) -> None:
        self._rebinder = rebinder
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = self._rebinder.translate(getattr(self._module, name))
        self.__dict__[name] = value
        return value


_DTYPES = {
    "u16": "u2",
    "u32": "u4",
    "i32": "i4",
    "u64": "u8",
    "i64": "i8",
    "f32": "f4",
    "f64": "f8",
}


def twin_call(block: Any) -> Callable[..., Any]:
    """A PTX block's twin, called as in a kernel: operands are converted as the block declares."""
    accepts = [
        _operand(name, registers, block.name) for name, registers in block.parameters.items()
    ]
    result = _result(block.result)
    twin = block.twin

    def call(*values: Any) -> Any:
        if len(values) != len(accepts):
            raise TypeError(f"{block.name} takes {len(accepts)} operands, got {len(values)}")
        operands = [accept(value) for accept, value in zip(accepts, values, strict=True)]
        return result(twin(getcurrent(), *operands))

    call.__name__ = block.name
    return call


def _operand(name: str, registers: Any, block: str) -> Callable[[Any], Any]:
    if registers.kind in ("literal", "array"):
        return lambda value: value
    convert = _plain(registers.kind)
    if not registers.count:
        return convert

    def accept(values: Any) -> Any:
        if len(values) != registers.count:
            raise TypeError(
                f"{block}: operand {name!r} has {len(values)} members, expected {registers.count}"
            )
        return tuple(map(convert, values))

    return accept


def _plain(kind: str) -> Callable[[Any], Any]:
    """To Python's own int or float, wrapped or rounded as the register is."""
    if kind == "bool":
        return bool
    if kind.startswith("u"):
        mask = (1 << int(kind[1:])) - 1
        return lambda value: int(value) & mask
    convert = converter(np.dtype(_DTYPES[kind]))
    return lambda value: float(convert(value)) if kind.startswith("f") else convert(value)


def _result(registers: Any) -> Callable[[Any], Any]:
    if registers is None or registers.kind == "bool":
        return lambda value: value
    if registers.kind.startswith("f"):
        single: Any = converter(np.dtype(_DTYPES[registers.kind]))
    elif registers.kind.startswith("u"):
        mask = (1 << int(registers.kind[1:])) - 1
        single = lambda value: UInt(value & mask)  # noqa: E731
    else:
        single = converter(np.dtype(_DTYPES[registers.kind]))
    if registers.count:
        return lambda values: tuple(map(single, values))
    return single


def scalar(value: Any) -> Any:
    """A host scalar as a kernel sees it."""
    if isinstance(value, np.generic):
        convert = loaded(value.dtype)
        return convert(value.item()) if convert else value.item()
    if isinstance(value, float) and value.__class__ is float:
        return np.float64(value)
    return value


def arrays_in(name: str, value: Any) -> dict[str, Any]:
    """The arrays of one argument of the launch: itself, or the members of a tuple."""
    if isinstance(value, tuple):
        members = (arrays_in(f"{name}[{i}]", member) for i, member in enumerate(value))
        return {name: array for found in members for name, array in found.items()}
    return {name: value} if isinstance(value, np.ndarray) else {}


def argument(view: Callable[[str, Any], ArrayView], name: str, value: Any) -> Any:
    """One argument of the launch as a kernel sees it."""
    if isinstance(value, tuple):
        return tuple(argument(view, f"{name}[{i}]", member) for i, member in enumerate(value))
    return view(name, value) if isinstance(value, np.ndarray) else scalar(value)


def _nested(code: CodeType) -> list[CodeType]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return [code, *(deeper for constant in inner for deeper in _nested(constant))]


def _is_number_type(value: Any) -> bool:
    if isinstance(value, type):
        return issubclass(value, np.generic)
    parents = {parent.__name__ for parent in type(value).__mro__}
    return "Type" in parents and bool(parents & {"Integer", "Float", "Boolean"})


def _dtype_of(value: Any) -> Any:
    if isinstance(value, type):
        return value
    name = {"boolean": "bool"}.get(value.name, value.name)
    if name in ("__nv_bfloat16", "bfloat16"):
        import ml_dtypes

        return ml_dtypes.bfloat16
    return name
