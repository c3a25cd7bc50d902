"""Compile here what a lent machine with a GPU will need: python -m benchmarks.precompile

    python -m benchmarks.precompile --device H200 --save .whl/kernels.xz   # here; no GPU
    python -m benchmarks.precompile --load .whl/kernels.xz                 # there, first of all

Kernels of the GPU suite, of the speed benchmark, the profile and the ranking: found by running
those with a machine that launches nothing. What is missed is compiled there, as ever. Both machines
should have NVVM and nvJitLink of one release.
"""

from __future__ import annotations

import argparse
import lzma
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from flashrnn_numba import arrays
from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import alternating_plan, fused_backend, launch, machine
from flashrnn_numba.kernels.assemble import target_of
from flashrnn_numba.kernels.interface import Inputs, Task
from flashrnn_numba.kernels.launch import Program
from flashrnn_numba.kernels.machine import HostMachine
from flashrnn_numba.tuning import Device

from . import gpu_tests

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tests", "speed", "profile", "ranking")
Programs = dict[str, Program]  # by digest


class Noting(HostMachine):
    """Launches nothing, and notes what it should have launched."""

    def __init__(self, device: Device, noted: Programs) -> None:
        self.arrays, self._device, self._noted = np, device, noted

    def device(self) -> Device:
        return self._device

    def prepare(
        self, program: Program, grid: Sequence[int], constants: Sequence[Any]
    ) -> Callable[..., None]:
        self._noted[program.digest] = program
        return lambda *arrays, begun=None: None

    def launch(self, program: Program, grid: Sequence[int], arguments: Sequence[Any]) -> None:
        self._noted[program.digest] = program

    def expect(self, programs: Sequence[Program]) -> None:
        self._noted.update({program.digest: program for program in programs})

    def multiply(self, out: Any, a: Any, b: Any, precision: str = "auto") -> None:
        pass


def of_speed(device: Device) -> Programs:
    from . import speed

    noted: Programs = {}
    machine.gpu = lambda: Noting(device, noted)  # type: ignore[assignment]
    for case in (*speed.TABLE, *speed.SWEEP):
        cell = get_cell(case.cell)
        B, T, H, D = case.batch, case.steps, case.heads, case.head_dim
        task = Task(cell, B, T, H, D, case.dtype, "cupy")
        if case.backend == "alternating" or fused_backend.refuses(task):
            pair = (alternating_plan.program(cell, case.dtype, d) for d in ("forward", "backward"))
            noted |= {program.digest: program for program in pair}
            continue
        empty = partial(_without_memory, dtype=DTYPES[case.dtype])
        sizes = (len(cell.input_gates), len(cell.recurrent_gates), len(cell.bias_gates))
        inputs = Inputs(
            empty((B, T, sizes[0], H, D)), empty((sizes[1], H, D, D)), empty((sizes[2], H, D))
        )
        fused_backend.prepare_forward(task, inputs, keep=False)
        fused_backend.prepare_forward(task, inputs, keep=True)
        dstates = empty((len(cell.states), B, T, H, D))
        fused_backend.prepare_backward(task, inputs, dstates, None)
    return noted


def _without_memory(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    whole = np.dtype(dtype).itemsize * np.cumprod((1, *shape[:0:-1]), dtype=np.int64)
    return np.lib.stride_tricks.as_strided(np.empty(8, dtype), shape, whole[::-1].tolist())


def of_profile(device: Device) -> Programs:
    from . import profile

    variants = profile.to_compile(profile.CASES, ("forward", "backward"))
    found = [p for variant in variants for p in profile.programs(*variant, device)]
    return {program.digest: program for program in found}


def of_ranking(device: Device, tilings: int = 24) -> Programs:
    from . import ranking

    found: Programs = {}
    for case in ranking.CASES:
        rehearsal = ranking._rehearsal(case, device)
        for _, solution in ranking.sampled(case, device, tilings).tilings:
            found |= {program.digest: program for program in rehearsal(solution)}
    return found


class FakeCupy(ModuleType):
    """NumPy, with what the GPU tests ask of a device."""

    cuda = SimpleNamespace(
        runtime=SimpleNamespace(getDeviceCount=lambda: 1),
        Device=lambda: SimpleNamespace(synchronize=lambda: None, id=0),
    )

    def get_default_memory_pool(self) -> Any:
        return SimpleNamespace(free_all_blocks=lambda: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def of_tests(device: Device) -> Programs:
    """Of the GPU suite, whose results are not looked at. Many fail: they ask more of a GPU."""
    import pytest

    noted: Programs = {}
    sys.path[:0] = [str(ROOT / "tests" / "kernels"), str(ROOT / "tests" / "gpu")]
    from flashrnn_numba.testing import check, problem, transfer

    check.relative_error = lambda *_: 0.0  # type: ignore[assignment]
    for module in (transfer, problem):
        module.to_backend, module.from_backend = lambda array, kind: array, lambda array: array
    import device_support  # type: ignore[import-not-found]
    import gpu_support  # type: ignore[import-not-found]

    gpu_support.compare = device_support.compare = lambda *_: None
    device_support.POISON_BYTES = 0
    sys.modules["cupy"] = fake = FakeCupy("cupy")
    fake.__spec__ = ModuleSpec("cupy", None)
    arrays._kinds[np.ndarray] = "cupy"
    machine.gpu = lambda: Noting(device, noted)  # type: ignore[assignment]
    os.environ["FLASHRNN_NUMBA_COMPILE_AHEAD"] = "0"
    os.environ["HYPOTHESIS_PROFILE"] = "gpu"
    paths = [str(ROOT / path) for path in gpu_tests.PATHS]
    pytest.main(["-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", *paths])
    return noted


def collected(part: str, device: Device) -> Programs:
    """In a process of its own, which it leaves in disorder."""
    functions = {"tests": of_tests, "speed": of_speed, "profile": of_profile, "ranking": of_ranking}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(functions[part], (device,))


def compiled(program: Program, cc: tuple[int, int]) -> tuple[Program, tuple[str, bytes]]:
    return program, launch.machine_code(program, cc)


def save(path: Path, devices: Sequence[Device], parts: Iterable[str]) -> None:
    found: Programs = {}
    for device in devices:
        for part in parts:
            found |= collected(part, device)
            print(f"{device.name}, {part}: {len(found)} kernels so far", flush=True)
    (cc,) = {device.compute_capability for device in devices}
    begin, done = time.perf_counter(), []
    with multiprocessing.get_context("spawn").Pool() as pool:
        for each in pool.imap_unordered(partial(compiled, cc=cc), found.values()):
            done.append(each)
            if len(done) % 50 == 0:
                print(f"{len(done)} compiled, {time.perf_counter() - begin:.0f} s", flush=True)
    path.write_bytes(lzma.compress(pickle.dumps((cc, done)), preset=6))
    print(f"{len(done)} kernels, {path.stat().st_size >> 20} MiB")


def load(path: Path) -> None:
    """Into this machine's cache directory, under the names that they have here."""
    cc, done = pickle.loads(lzma.decompress(path.read_bytes()))
    for program, code in done:
        launch._write(launch._cache_file(replace(program), cc), code)
    print(f"{len(done)} kernels for {target_of(cc)} are in {launch.cache_directory()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", nargs="*", default=["H100", "H200"], help="by name")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path)
    given = parser.parse_args()
    if given.load:
        load(given.load)
    elif given.save:
        save(given.save, [Device.named(name) for name in given.device], given.parts)
    else:
        parser.error("one of --save and --load")
    return 0


if __name__ == "__main__":
    sys.exit(main())
