"""What the models say of a tiling beside what ptxas makes of it, for sm_80, sm_90 and sm_100.

Shared memory exact, registers within the limit, nothing spilled: for the tilings that the solver
chooses for the benchmark's shapes. `python -m benchmarks.assembled` walks many more.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flashrnn_numba.kernels.assemble import find_ptxas
from flashrnn_numba.tuning.models.common import DIRECTIONS
from flashrnn_numba.tuning.models.registry import models

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import assembled
from benchmarks.assembled import DEVICES, Case, compared, programs


def _ptxas() -> bool:
    try:
        find_ptxas()
    except FileNotFoundError:
        return False
    return True


needs_ptxas = pytest.mark.skipif(not _ptxas(), reason="needs ptxas (nvidia-cuda-nvcc)")

CHOSEN = [
    *(("tensor", "lstm", "bfloat16", 64, 12, 16, device) for device in DEVICES),
    ("tensor", "lstm", "bfloat16", 256, 3, 16, "H200"),
    # the largest heads fill all registers
    ("tensor", "lstm", "bfloat16", 512, 1, 128, "H200"),
    ("tensor", "lstm", "bfloat16", 768, 1, 16, "H200"),
    # these spilled once: many states, two chains of sums, n tiles, B read ahead, many strips
    ("tensor", "slstm", "bfloat16", 320, 1, 128, "H200"),
    ("tensor", "lstm", "bfloat16", 192, 4, 128, "H200"),
    ("tensor", "gru", "bfloat16", 512, 1, 128, "H200"),
    ("tensor", "lstm", "bfloat16", 256, 3, 128, "B200"),
    ("tensor", "slstm", "bfloat16", 640, 1, 128, "H200"),
    ("tensor", "slstm", "bfloat16", 128, 6, 16, "A100"),
    ("tensor", "elman", "bfloat16", 320, 1, 128, "A100"),
    # resets in a head that fills its blocks; a gate that R does not feed
    ("tensor", "lstm", "bfloat16", 768, 1, 128, "H200"),
    ("tensor", "gru", "bfloat16", 768, 1, 128, "H200"),
    *(("portable", "lstm", "float32", 64, 12, 16, device) for device in DEVICES),
    # these would spill with 768 threads
    ("portable", "lstm", "float32", 64, 2, 16, "A100"),
    ("portable", "lstm", "float32", 16, 48, 16, "A100"),
    # the widest cell in the widest dtype takes the most registers
    *(("alternating", "slstm", "float64", 64, 12, 16, device) for device in DEVICES),
]


@needs_ptxas
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("chosen", CHOSEN, ids=lambda z: f"{z[0]} {z[1]} {z[3]} B {z[5]} {z[-1]}")
def test_the_model_says_what_ptxas_says(chosen, direction):
    kernel, *shape = chosen
    case = Case(kernel, direction, *shape)
    row = compared(case, programs(case)[-1])  # with all that a call can ask for
    assert row["wrong"] == [], row


@needs_ptxas
def test_what_spills_is_told(monkeypatch):
    case = Case("portable", "forward", "elman", "float32", 16, 1, 1, "H200")
    (program,) = programs(case)
    used = replace(assembled._resources(program, case.cc), spill_stores=4, spill_loads=8)
    monkeypatch.setattr(assembled, "_resources", lambda *_: used)
    row = compared(case, program)
    assert row["wrong"] == ["spills"]
    assert "spills 4 + 8 bytes" in assembled._line(row)


def test_the_wide_list_has_every_kernel_and_device():
    every = list(assembled.cases())
    assert {case.kernel for case in every} == {m.name for m in models()}
    assert {case.device for case in every} == set(DEVICES)
    assert {case.cc for case in every} == {(8, 0), (9, 0), (10, 0)}
    assert len(set(every)) == len(every)


def test_a_kernel_that_cannot_be_made_is_a_row(monkeypatch):
    case = Case("portable", "forward", "elman", "float32", 16, 1, 1, "H200")

    def broken(*_):
        raise RuntimeError("ptxas could not assemble")

    monkeypatch.setattr(assembled, "_resources", broken)
    (row,) = assembled.assembled(case)
    assert row["wrong"] == ["error"]
    assert "ptxas could not assemble" in assembled._line(row)
    large = Case("portable", "forward", "lstm", "float32", 768, 1, 16, "H200")
    assert assembled.assembled(large) == []
