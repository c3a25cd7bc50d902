"""Pre-activations: stored by forward, or recomputed? python -m benchmarks.recompute, on a GPU.

`stored` is what forward takes longer when it keeps them. `recomputed` is the least that computing
them again would take: per chunk of time one batched product of s_0(t-1) with R and one addition of
Wx and b, in the layout that suits cuBLAS best; launches of the backward kernel for each chunk are
not counted. Milliseconds, medians; LSTM, bfloat16, T = 1024. With the memory of both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import cublas, fused_backend
from flashrnn_numba.kernels.interface import Inputs, Task
from flashrnn_numba.kernels.machine import gpu

from .profile import drawn
from .record import origin, write

STEPS, CHUNK = 1024, 128
# head dimension, heads, batch
SHAPES = ((64, 12, 16), (64, 12, 128), (256, 3, 16), (768, 1, 16), (768, 1, 128))


def compare(D: int, H: int, B: int, runs: int) -> dict[str, Any]:
    task = Task(get_cell("lstm"), B, STEPS, H, D, "bfloat16", "cupy")
    inputs, _ = drawn(gpu(), task)
    alone = fused_backend.prepare_forward(task, inputs, keep=False)
    kept = fused_backend.prepare_forward(task, inputs, keep=True)
    again = recomputing(task, inputs)
    # in turn: what else happens to the card happens to all three
    taken = in_turn([lambda: alone(inputs), lambda: kept(inputs), again], runs)
    numbers = B * H * D * len(task.cell.gates) * 4
    return {
        **{"head_dim": D, "heads": H, "batch": B, "forward": taken[0]},
        **{"stored": taken[1] - taken[0], "recomputed": taken[2]},
        **{"stored_mib": numbers * STEPS >> 20, "recomputed_mib": numbers * CHUNK >> 20},
    }


def recomputing(task: Task, inputs: Inputs) -> Callable[[], None]:
    import cupy

    B, H, D, G = task.B, task.H, task.D, len(task.cell.gates)
    previous = cupy.empty((CHUNK * B, H, D), inputs.Wx.dtype)
    previous[...] = inputs.Wx.reshape(-1, H, D)[: CHUNK * B]
    gates = cupy.empty((CHUNK * B, G, H, D), "float32")
    Wx = inputs.Wx.reshape(-1, G, H, D)[: CHUNK * B].view("uint16")
    b = inputs.b.view("uint16")
    add = cupy.ElementwiseKernel(
        "uint16 x, uint16 b",
        "float32 gate",
        "gate += __uint_as_float((unsigned)x << 16) + __uint_as_float((unsigned)b << 16)",
        "add_inputs",
    )
    left = previous.transpose(1, 0, 2)
    if H == 1:
        products = [(gates.reshape(1, -1, G * D), inputs.R.reshape(1, G * D, D).transpose(0, 2, 1))]
    else:
        products = [
            (gates[:, g].transpose(1, 0, 2), inputs.R[g].transpose(0, 2, 1)) for g in range(G)
        ]

    def run() -> None:
        for _ in range(STEPS // CHUNK):
            for out, right in products:
                cublas.multiply(out, left, right)
            add(Wx, b, gates)

    return run


def in_turn(functions: list[Callable[[], object]], runs: int) -> list[float]:
    import cupy

    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(runs + 1):
        for function, times in zip(functions, taken, strict=True):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            function()  # the GPU is busy while the host prepares the next one
            begin.record()
            function()
            end.record()
            end.synchronize()
            times.append(cupy.cuda.get_elapsed_time(begin, end))
    return [statistics.median(times[1:]) for times in taken]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--json", type=Path, help="record the rows there")
    given = parser.parse_args()
    rows = []
    for shape in SHAPES:
        rows.append(row := compare(*shape, given.runs))
        print(
            f"{shape[0]:4} x {shape[1]:<2} B {shape[2]:<3} forward {row['forward']:.3f} ms, "
            f"stored + {row['stored']:.3f} ({row['stored_mib']} MiB), "
            f"recomputed {row['recomputed']:.3f} ({row['recomputed_mib']} MiB)",
            flush=True,
        )
    if given.json:
        write(given.json, {**origin(), "device": gpu().device().name, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
