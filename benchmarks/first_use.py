"""Seconds until a new cell or shape has run for the first time: python -m benchmarks.first_use

Each case in a new process, one after the other. `seconds` is the first `flashrnn_vjp` and its
gradients (`forward` the part until its states are there), importing Numba and compiling included,
importing CuPy and making its context not. `empty`: nothing was ever compiled; `again`: another
process finds it on disk. Packages have their bytecode, as pip leaves them: it is made before the
first case, also where the environment says that Python shall write none.

    python -m benchmarks.first_use --json benchmarks/results/first-use-h200.json
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .record import origin, write

OWN_CELL = "examples/own_cell.py:peephole_lstm"
PACKAGES = ("flashrnn_numba", "numpy", "numba", "numba_cuda", "llvmlite", "cupy", "cuda")
# cell, head dimension, heads, batch, dtype, precision
CASES = (
    ("lstm", 64, 12, 16, "bfloat16", "auto"),
    ("lstm", 64, 12, 128, "bfloat16", "auto"),
    ("lstm", 256, 3, 16, "bfloat16", "auto"),
    ("lstm", 768, 1, 16, "bfloat16", "auto"),
    ("lstm", 1024, 1, 16, "bfloat16", "auto"),
    ("slstm", 64, 12, 16, "bfloat16", "auto"),
    ("gru", 64, 12, 16, "bfloat16", "auto"),
    (OWN_CELL, 64, 12, 16, "bfloat16", "auto"),
    ("lstm", 64, 12, 16, "float32", "auto"),
    ("lstm", 64, 12, 16, "float32", "tf32"),
    ("lstm", 1024, 1, 16, "float32", "auto"),
)

SCRIPT = """
import json, sys, time
import cupy
import flashrnn_numba as fr
from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.commands.find_cell import find_cell
from flashrnn_numba.kernels import launch
name, D, H, B, dtype, precision = json.loads(sys.argv[1])
cell, T = find_cell(name, "cell"), 64
G = len(cell.input_gates), len(cell.recurrent_gates), len(cell.bias_gates)
shapes = (B, T, G[0], H, D), (G[1], H, D, D), (G[2], H, D)
arrays = [cupy.ones(shape, "float32").astype(DTYPES[dtype]) for shape in shapes]
ones = cupy.ones((len(cell.states), B, T, H, D), "float32").astype(DTYPES[dtype])
cupy.cuda.Device().synchronize()
begin = time.perf_counter()
states, _, vjp = fr.flashrnn_vjp(*arrays, function=cell, precision=precision)
cupy.cuda.Device().synchronize()
forward = time.perf_counter()
vjp(ones)
cupy.cuda.Device().synchronize()
end = time.perf_counter()
print(json.dumps([forward - begin, end - begin, len(launch.compilations())]))
"""


def first_use(case: tuple[Any, ...], cache: str) -> dict[str, Any]:
    """Of a process with this cache directory. RuntimeError with what it said, if it fails."""
    environment = {**os.environ, "FLASHRNN_NUMBA_CACHE_DIR": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(case)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(ran.stderr[-800:])
    forward, seconds, compiled = json.loads(ran.stdout.splitlines()[-1])
    return {"forward": round(forward, 2), "seconds": round(seconds, 2), "compiled": compiled}


def make_bytecode() -> None:
    """Of the package and of what it imports: a source tree and `pip --no-compile` have none."""
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        for folder in (found and found.submodule_search_locations) or ():
            compileall.compile_dir(folder, quiet=2, workers=0)


def name_of(case: tuple[Any, ...]) -> str:
    cell, D, H, B, dtype, precision = case
    return f"{cell} {D} x {H}, B {B}, {dtype}" + (f" {precision}" if precision != "auto" else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--json", type=Path, help="record the rows there")
    given = parser.parse_args()
    import cupy

    make_bytecode()
    device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    result: dict[str, Any] = {**origin(), "device": device, "rows": []}
    for case in (case for case in CASES if given.only in name_of(case)):
        with tempfile.TemporaryDirectory() as cache:
            empty, again = first_use(case, cache), first_use(case, cache)
        result["rows"].append({"case": name_of(case), "empty": empty, "again": again})
        text = f"{empty['forward']:5.2f} + {empty['seconds'] - empty['forward']:5.2f} s"
        print(f"{name_of(case):48} {text}, again {again['seconds']:.2f} s", flush=True)
        if given.json:
            write(given.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
