"""From a kernel to PTX to machine code without a GPU, to learn what it uses: registers, spills.

ptx = compile_ptx(kernel, signature, cc=(9, 0), launch_bounds=256)
print(assemble(ptx, cc=(9, 0)).registers)
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_COMPILING = threading.RLock()  # compile_ptx replaces a name of numba-cuda for a moment


@dataclass(frozen=True)
class Resources:
    """What `ptxas -v` reports of a kernel; bytes and registers are per thread, shared per block."""

    registers: int
    shared_bytes: int  # static shared memory; the dynamic part is chosen at launch
    spill_stores: int
    spill_loads: int
    stack_bytes: int
    barriers: int


def compile_ptx(
    function: Callable[..., Any],
    signature: Any,
    cc: tuple[int, int],
    launch_bounds: int | tuple[int, ...] | None = None,
    fastmath: bool = False,
) -> str:
    """PTX of a kernel (a plain function, as given to cuda.jit) for a compute capability.

    launch_bounds: threads a block, or (threads, blocks an SM, blocks a cluster).
    """
    bounds = {"launch_bounds": launch_bounds, "fastmath": fastmath}
    return str(_compile(function, signature, cc, "ptx", **bounds))


def compile_ltoir(
    function: Callable[..., Any],
    signature: Any,
    cc: tuple[int, int],
    launch_bounds: int | tuple[int, ...] | None = None,
) -> bytes:
    """Likewise LTO-IR, for nvJitLink."""
    return bytes(_compile(function, signature, cc, "ltoir", launch_bounds=launch_bounds))


def _compile(
    function: Callable[..., Any], signature: Any, cc: tuple[int, int], output: str, **options: Any
) -> Any:
    from numba import cuda

    with _device_functions_for(cc):
        found, _ = cuda.compile(
            function, signature, cc=cc, device=False, output=output, abi="numba", **options
        )
    return found


def assemble(ptx: str, cc: tuple[int, int]) -> Resources:
    """Assemble PTX for a compute capability; RuntimeError with ptxas's message if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        target = target_of(cc)
        command = [str(find_ptxas()), "-v", "-arch", target, source.name, "-o", "kernel.cubin"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(_explain(done.stderr, ptx, target, command[0]))
    return parse_resources(done.stderr)


def target_of(cc: tuple[int, int]) -> str:
    """As ptxas and nvJitLink name it."""
    return f"sm_{cc[0]}{cc[1]}"


def find_ptxas() -> Path:
    """ptxas of the nvidia-cuda-nvcc wheel, of CUDA_HOME, or on the PATH, in this order.

    The wheel comes first because the NVVM that wrote the PTX comes from the same release; an older
    ptxas refuses a newer PTX version.
    """
    for path in _candidates():
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(
        "ptxas not found in the nvidia-cuda-nvcc wheel, in CUDA_HOME/bin or on the PATH; "
        "install it with: pip install nvidia-cuda-nvcc"
    )


def parse_resources(report: str) -> Resources:
    """Read the report of `ptxas -v`. With several functions: the largest of each figure."""

    def largest(pattern: str) -> int:
        return max((int(number) for number in re.findall(pattern, report)), default=0)

    return Resources(
        registers=largest(r"Used (\d+) registers"),
        shared_bytes=largest(r"(\d+) bytes smem"),
        spill_stores=largest(r"(\d+) bytes spill stores"),
        spill_loads=largest(r"(\d+) bytes spill loads"),
        stack_bytes=largest(r"(\d+) bytes stack frame"),
        barriers=largest(r"used (\d+) barriers"),
    )


@contextmanager
def _device_functions_for(cc: tuple[int, int]) -> Iterator[None]:
    """Let kernels that call cuda.jit device functions compile where there is no GPU.

    numba-cuda 0.30 asks the current device for its compute capability whenever it meets a device
    function, whatever cuda.compile was told. Without a GPU it is told `cc` instead.
    """
    from numba import cuda
    from numba.cuda import dispatcher

    if cuda.is_available():
        yield
        return
    with _COMPILING:
        original = dispatcher.get_current_device
        dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=cc)
        try:
            yield
        finally:
            dispatcher.get_current_device = original


def _candidates() -> Iterator[Path]:
    for folder in sys.path:
        yield from sorted(Path(folder or ".").glob("nvidia/*/bin/ptxas"))
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if variable in os.environ:
            yield Path(os.environ[variable], "bin", "ptxas")
    found = shutil.which("ptxas")
    if found:
        yield Path(found)


def _explain(message: str, ptx: str, target: str, ptxas: str) -> str:
    text = f"ptxas could not assemble for {target}:\n{message.strip()}"
    if "Unsupported .version" in message:
        version = re.search(r"^\.version (\S+)", ptx, re.MULTILINE)
        text += (
            f"\nThe PTX is version {version[1] if version else 'unknown'}, newer than {ptxas} "
            "knows: install nvidia-cuda-nvcc and nvidia-nvvm of the same release."
        )
    return text
