"""The GPU kernels in Numba's own simulator, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from gpu_support import Case, build, compare

FOLDER = Path(__file__).parent
CASES = [
    Case("lstm", "float32", B=2, T=2, D=3),
    Case("gru", "float16", B=2, T=2, D=3, states=False),
    Case("slstm", "bfloat16", B=1, T=2, D=2, clip=0.1),
    Case("elman", "float64", B=2, T=2, D=3, strided=True),
]


def main() -> None:
    from flashrnn_numba.kernels import alternating, alternating_plan, fused
    from flashrnn_numba.kernels.emulated import SimulatedMachine
    from flashrnn_numba.kernels.fused_layout import Tiling
    from flashrnn_numba.tuning import Device

    alternating_plan.THREADS = alternating.THREADS = 16
    tiling = Tiling(heads=2, rows=2, row_tile=2, unit_tile=1, split=2, threads=32)
    # room for one block: it gets all the rows
    machine = SimulatedMachine(replace(Device.named("H200"), sms=1, threads_per_sm=32))
    for case in CASES:
        task, inputs, dstates, dlast = build(case)
        plans = {
            d: fused.Plan(d, tiling, fused.program(task.cell, task.dtype, task.D, d, tiling))
            for d in ("forward", "backward")
        }
        states, last, kept = fused.run_forward(machine, task, inputs, True, plans["forward"])
        gradients = fused.run_backward(
            machine, task, inputs, kept, dstates, dlast, plans["backward"]
        )
        compare(case, states, last, gradients)
        states, last, kept = alternating.run_forward(machine, task, inputs, True)
        gradients = alternating.run_backward(machine, task, inputs, kept, dstates, dlast)
        compare(case, states, last, gradients)
        print("agrees:", case)


def test_kernels_run_in_the_simulator():
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("agrees:") == len(CASES)


if __name__ == "__main__":
    main()
