"""Compiling kernels, keeping them on disk, launching them on the current CuPy stream.

A `Program` is all that a kernel is made of. Its machine code is kept in memory and in a file named
by a digest of the program, of the package's device functions and of the compilers' versions, so
that a new process neither compiles nor imports Numba. Arguments are pointers and a few scalars: the
cost of a launch grows with them. Nothing here synchronises.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from . import ahead, inventory
from .assemble import compile_ltoir, compile_ptx, target_of
from .background import unhurried
from .driver import Launch
from .generated import cache_directory, digest_of, load, write_at_once
from .numba_passes import no_collection, quick_passes

T = TypeVar("T")
_FOLDER = Path(__file__).parent
# what generated modules import: a change there is another program
_DEPENDENCIES = ("cuda_math.py", "cuda_storage.py", "ptx/asm.py", "ptx/convert.py")
_COMPILERS = ("numba-cuda", "numba", "nvidia-nvvm", "nvidia-nvjitlink")

_lock = threading.RLock()
_code: dict[tuple[str, tuple[int, int]], tuple[str, bytes]] = {}
_loaded: dict[tuple[str, int], Any] = {}
_compiled: list[str] = []
_some_day: set[Hashable] = set()


class LaunchError(RuntimeError):
    """The driver refused a kernel; the message has the plan and what to try."""


@dataclass(frozen=True)
class Program:
    """A kernel before it is compiled.

    name -- of the function in `text`, the source of a module.
    arguments -- types by Numba's names: "float32", "float32*" (pointer), "int64x5" (tuple).
    threads -- the most a block has; shared_bytes -- its dynamic shared memory.
    plan -- in words, for error messages. cluster, cooperative -- how it must be launched.
    """

    name: str
    text: str
    arguments: tuple[str, ...]
    threads: int
    shared_bytes: int = 0
    plan: str = ""
    cluster: int = 1
    cooperative: bool = False

    @property
    def digest(self) -> str:
        return _digest(self)

    def function(self) -> Any:
        """The Python function, as the emulator and Numba take it."""
        return getattr(load(self.name, self.text, _dependencies()), self.name)


@cache
def _digest(program: Program) -> str:
    parts = [program.name, program.text, repr(program.arguments), str(program.threads)]
    parts += [_dependencies(), *_compilers()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@cache
def _dependencies() -> str:
    return digest_of(*(str(_FOLDER / file) for file in _DEPENDENCIES))


@cache
def _compilers() -> tuple[str, ...]:
    return tuple(_version(package) for package in _COMPILERS)


def _version(package: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return ""


# compiling --------------------------------------------------------------------------------------


def compilations() -> tuple[str, ...]:
    """Digests of the programs that this process compiled, or had compiled, in order; cached ones do
    not count."""
    return tuple(_compiled)


def signature(program: Program) -> Any:
    """The arguments' types as Numba's signature."""
    from numba import types

    def one(text: str) -> Any:
        if text.endswith("*"):
            return types.CPointer(getattr(types, text[:-1]))
        if match := re.fullmatch(r"(int64)x(\d+)", text):
            return types.UniTuple(types.int64, int(match[2]))
        return getattr(types, text)

    return types.void(*(one(text) for text in program.arguments))


def compile_to_ptx(program: Program, cc: tuple[int, int]) -> str:
    return _quickly(compile_ptx, program, cc)


def _quickly(compile_one: Callable[..., T], program: Program, cc: tuple[int, int]) -> T:
    bounds = (program.threads, 1)
    with quick_passes():
        return compile_one(program.function(), signature(program), cc, launch_bounds=bounds)


def machine_code(program: Program, cc: tuple[int, int]) -> tuple[str, bytes]:
    """(name of the entry, cubin or PTX) from memory, from the disk cache, or compiled now."""
    key = (program.digest, cc)
    with _lock:
        if key not in _code:
            path = _cache_file(program, cc)
            found = _compiled_ahead(program, path) or _read(path)
            if found is None:
                found = _compile(program, cc)
                _write(path, found)
            _code[key] = found
        return _code[key]


def expect(programs: Sequence[Program], cc: tuple[int, int]) -> None:
    """These will be needed soon: what is not compiled yet another process begins to compile."""
    with contextlib.suppress(Exception):  # it shows when one of them is needed
        files = {_cache_file(p, cc): p for p in programs if (p.digest, cc) not in _code}
        missing = {file: p for file, p in files.items() if not file.exists()}
        ahead.start(missing, cc, cache_directory())


def expect_some_day(
    key: Hashable, programs: Callable[[], Iterable[Program]], cc: tuple[int, int]
) -> None:
    """These may be needed some time: what is not compiled yet another process compiles when nothing
    else wants the processor. What they are is worked out by a thread, once for each key, and kept
    on disk.

    key -- all that they depend on beside this package and the compilers; what `repr` makes of it is
    the same in every process.
    """
    if key in _some_day or not ahead.possible(cache_directory()):
        return
    _some_day.add(key)
    ahead.at_leisure(partial(_missing, repr(key), programs, cc), cc, cache_directory())


def _missing(
    key: str, programs: Callable[[], Iterable[Program]], cc: tuple[int, int]
) -> list[Program]:
    """Those that nobody has compiled yet."""
    listed = inventory.place(cache_directory() / "kernels", key, str(cc), *_compilers())
    if inventory.complete(listed):
        return []
    files = {_cache_file(p, cc): p for p in unhurried(programs())}
    inventory.write(listed, files)
    return [p for file, p in files.items() if not (file.exists() or ahead.under_way(file))]


def settle(seconds: float = 600.0) -> bool:
    """Wait until all that was expected is compiled; whether it is."""
    return ahead.settle(seconds)


def _compiled_ahead(program: Program, path: Path) -> tuple[str, bytes] | None:
    found = _read(path) if ahead.wait(path) else None
    if found is not None:
        _compiled.append(program.digest)
    return found


def _compile(program: Program, cc: tuple[int, int]) -> tuple[str, bytes]:
    with no_collection():  # also while Numba is imported
        found = _whole_program(program, cc) or _from_ptx(program, cc)
    _compiled.append(program.digest)
    return found


def _whole_program(program: Program, cc: tuple[int, int]) -> tuple[str, bytes] | None:
    """(entry, machine code) linked from LTO-IR: of PTX nvJitLink makes relocatable code, which
    takes registers of its own. None where that cannot be done: no nvJitLink, or one older than
    NVVM. What is wrong with the program shows in PTX, too."""
    try:
        from cuda.core import Linker, LinkerOptions, ObjectCode

        ir = _quickly(compile_ltoir, program, cc)
        options = LinkerOptions(arch=target_of(cc), link_time_optimization=True)
        code = bytes(Linker(ObjectCode.from_ltoir(ir), options=options).link("cubin").code)
    except Exception:
        return None
    # the kernel has a section of its own
    entry = re.search(rb"\0\.text\.([\w$]+)\0", code)
    return (entry[1].decode(), code) if entry else None


def _from_ptx(program: Program, cc: tuple[int, int]) -> tuple[str, bytes]:
    ptx = compile_to_ptx(program, cc)
    entry = re.search(r"\.entry\s+([\w$]+)", ptx)
    assert entry is not None
    return entry[1], _link(ptx, cc)


def _link(ptx: str, cc: tuple[int, int]) -> bytes:
    """Machine code of PTX; the PTX itself, for the driver to compile, where nvJitLink is missing or
    older than NVVM."""
    try:
        from cuda.core import Program as CoreProgram
        from cuda.core import ProgramOptions
    except ImportError:
        return ptx.encode()
    options = ProgramOptions(arch=target_of(cc))
    try:
        return bytes(CoreProgram(ptx, "ptx", options).compile("cubin").code)
    except Exception:
        return ptx.encode()


def _cache_file(program: Program, cc: tuple[int, int]) -> Path:
    name = f"{program.name}_{program.digest}_sm{cc[0]}{cc[1]}.kernel"
    return cache_directory() / "kernels" / name


def _read(path: Path) -> tuple[str, bytes] | None:
    """A file that is damaged counts as missing."""
    try:
        head, _, code = path.read_bytes().partition(b"\n")
        facts = json.loads(head)
        if facts["sha256"] == hashlib.sha256(code).hexdigest():
            return facts["entry"], code
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(path: Path, compiled: tuple[str, bytes]) -> None:
    """Nothing where nothing can be written."""
    entry, code = compiled
    head = json.dumps({"entry": entry, "sha256": hashlib.sha256(code).hexdigest()})
    with contextlib.suppress(OSError):
        write_at_once(path, head.encode() + b"\n" + code)


# launching --------------------------------------------------------------------------------------


def prepare(program: Program, grid: Sequence[int], constants: Sequence[Any]) -> Callable[..., None]:
    """`launch(*arrays, begun=None)`, which puts the kernel on the current CuPy stream, for the
    current device.

    grid counts blocks, also with clusters. constants -- the arguments that are no pointers:
    integers, tuples of integers, floats. arrays -- CuPy arrays, or None: a null pointer.
    begun -- an event for when all blocks have begun. LaunchError names the plan.
    """
    import cupy

    if 0 in grid:
        return _nothing
    device = cupy.cuda.Device().id
    kernel = _kernel(program, device)
    if program.cooperative:
        _check_resident(program, kernel, grid, device)

    def failed(status: int) -> LaunchError:
        return LaunchError(_explain(program, grid, _name(status)))

    shape = (grid, program.threads, program.shared_bytes, program.arguments, constants)
    how = (program.cluster, program.cooperative)
    return Launch(int(kernel.handle), *shape, failed, *how)


def launch(program: Program, grid: Sequence[int], arguments: Sequence[Any]) -> None:
    """`prepare` and launch at once; arrays and constants in the order of the signature."""
    arrays, constants = apart(program, arguments)
    prepare(program, grid, constants)(*arrays)


def apart(program: Program, arguments: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """(arrays, constants) of a launch's arguments."""
    parts: tuple[list[Any], list[Any]] = [], []
    for kind, value in zip(program.arguments, arguments, strict=True):
        parts[not kind.endswith("*")].append(value)
    return parts


def together(program: Program, arrays: Sequence[Any], constants: Sequence[Any]) -> list[Any]:
    """A launch's arguments in the order of the signature."""
    pointers, others = iter(arrays), iter(constants)
    return [next(pointers if kind.endswith("*") else others) for kind in program.arguments]


def _nothing(*arrays: Any, begun: Any = None) -> None:
    """A launch of no blocks."""


def _name(status: int) -> str:
    from cuda.bindings import driver

    try:
        return str(driver.CUresult(status).name)
    except ValueError:  # of a newer driver
        return f"CUDA error {status}"


def blocks_per_sm(program: Program) -> int:
    """Blocks of the kernel that a multiprocessor of the current device holds at once."""
    import cupy

    return _resident(program, _kernel(program, cupy.cuda.Device().id))


def _resident(program: Program, kernel: Any) -> int:
    return int(
        kernel.occupancy.max_active_blocks_per_multiprocessor(program.threads, program.shared_bytes)
    )


def _check_resident(program: Program, kernel: Any, grid: Sequence[int], device: int) -> None:
    """A grid barrier waits for every block: all must run at once, or it hangs the card."""
    from cuda.core import Device

    room = _resident(program, kernel) * Device(device).properties.multiprocessor_count
    if math.prod(grid) > room:
        reason = f"{math.prod(grid)} blocks must run at once, the device has room for {room}"
        raise LaunchError(_explain(program, grid, reason))


def _kernel(program: Program, device: int) -> Any:
    """The kernel, loaded on the device and allowed its shared memory and cluster size."""
    key = (program.digest + f" {program.shared_bytes} {program.cluster}", device)
    with _lock:
        if key not in _loaded:
            _loaded[key] = _load(program, device)
        return _loaded[key]


def _load(program: Program, ordinal: int) -> Any:
    from cuda.core import Device, ObjectCode

    device = Device(ordinal)
    device.set_current()
    cc = device.compute_capability
    entry, code = machine_code(program, (cc.major, cc.minor))
    try:
        make = ObjectCode.from_cubin if code[:4] == b"\x7fELF" else ObjectCode.from_ptx
        kernel = make(code).get_kernel(entry)
        _allow(program, kernel, ordinal)
        fits = _resident(program, kernel)
    except Exception as error:
        raise LaunchError(_explain(program, (), error)) from error
    if not fits:
        raise LaunchError(_explain(program, (), "no block of it fits on a multiprocessor"))
    return kernel


def _allow(program: Program, kernel: Any, ordinal: int) -> None:
    """Shared memory above 48 KiB and clusters above 8 blocks need leave."""
    from cuda.bindings import driver

    attribute = driver.CUfunction_attribute
    wanted = {attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: program.shared_bytes}
    if program.cluster > 8:
        wanted[attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED] = 1
    for name, value in wanted.items():
        (code,) = driver.cuKernelSetAttribute(name, value, kernel.handle, ordinal)
        if int(code):
            raise RuntimeError(f"{name.name} = {value}: {code.name}")


def _explain(program: Program, grid: Sequence[int], error: object) -> str:
    return (
        f"kernel {program.name} could not be launched: {error}\n"
        f"plan: {program.plan or program.name}; {program.threads} threads and "
        f"{program.shared_bytes} bytes of shared memory a block, grid {tuple(grid)}, clusters of "
        f"{program.cluster}\nbackend='alternating' needs the least of a device; a smaller "
        "batch needs less memory"
    )
