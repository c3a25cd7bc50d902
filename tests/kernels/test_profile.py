"""Kernels with a stage left out: what they lack, that they end, and how times become shares."""

from __future__ import annotations

import json
import re
import sys
import time
from argparse import Namespace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("numba_cuda", reason="the kernels are built of numba-cuda intrinsics")
pytest.importorskip("greenlet", reason="variants run in the emulator")

from ptx_support import needs_ptxas

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import machine, tensor, tensor_backward, tensor_backward_run
from flashrnn_numba.kernels.assemble import assemble
from flashrnn_numba.kernels.emulated import EmulatedMachine
from flashrnn_numba.kernels.emulator import emulate
from flashrnn_numba.kernels.launch import compile_to_ptx
from flashrnn_numba.kernels.tensor_layout import Tiling
from flashrnn_numba.tuning import Device

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import profile
from benchmarks.leave_out import STAGES, without
from benchmarks.profile import Case, Pass

H200 = Device.named("H200")
Backward = tensor_backward.Tiling

# what marks a stage in the PTX: in its variant there are fewer of these, or none at all
MARKS = {
    "exchange": r"st\.async|mbarrier\.try_wait|mbarrier\.arrive\.expect",
    "barriers": r"bar\.sync|barrier\.sync",
    "product": r"mma\.sync",
    "pointwise": r"(?:ex2|rcp|tanh|lg2)\.approx",
    "memory": r"cp\.async\.c[ag]|st\.global|ld\.global",
}
ALL_GONE = ("exchange", "product", "pointwise")  # the others are used outside of the loop, too


@cache
def kernel(name):
    cell, split = get_cell("elman"), Tiling(2, 1, 1, 2, 0, 1, early=1)
    if name == "backward, cluster":
        tiling = Backward(2, 2, 1, each=1, half=True)
        return tensor_backward.backward_program(cell, "bfloat16", 32, tiling)
    D, tiling = (16, Tiling(1, 1, 1, 1, 9, 1)) if name == "forward, one block" else (32, split)
    return tensor.program(cell, "bfloat16", D, tiling, tensor.Variant(False, False, True, True))


@cache
def ptx(program):
    text = compile_to_ptx(program, (9, 0))
    assert assemble(text, (9, 0)).registers
    return text


@needs_ptxas
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["forward, one block", "forward, cluster", "backward, cluster"])
def test_variants_lack_what_is_left_out(name, stage):
    program = kernel(name)
    variant = without(program, stage)
    if (name, stage) == ("forward, one block", "exchange"):
        assert variant is None
        return
    whole, left = ptx(program), ptx(variant)

    def count(mark, text):
        return len(re.findall(MARKS[mark], text))

    assert count(stage, left) < count(stage, whole)
    assert stage not in ALL_GONE or not count(stage, left)
    for other in {*STAGES} - {stage}:
        # nobody may wait where nobody is kept in step
        gone = (stage, other) == ("barriers", "exchange")
        assert bool(count(other, left)) == (bool(count(other, whole)) and not gone), other


class Unwatched(EmulatedMachine):
    """Races are what a variant without barriers is made of."""

    def run(self, program, grid, arguments):
        on = (program.cluster, 1, 1), program.shared_bytes, program.cooperative
        emulate(program.function(), grid, program.threads, *on, races=False)(*arguments)


ONE, ALONE = Tiling(1, 1, 2, 1, 9, 1), Backward(1, 1, 1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # nonsense overflows
@pytest.mark.parametrize(
    ("D", "direction", "tiling", "backward"),
    [
        (32, "forward", Tiling(2, 1, 1, 2, 9, 1), ALONE),
        (16, "forward", Tiling(2, 1, 1, 1, 9, 1, grid=True), ALONE),
        (32, "forward", Tiling(2, 1, 2, 1, 9, 1, grid=True), ALONE),  # B in registers
        (12, "kept", ONE, ALONE),
        (32, "backward", ONE, Backward(2, 1, 2, each=1, half=True)),
        (64, "backward", ONE, Backward(2, 1, 2, each=1, half=True, grid=True, strip=1)),
    ],
    ids=["cluster", "grid", "grid, alone", "one block", "backward cluster", "backward grid"],
)
def test_variants_end_within_their_memory(D, direction, tiling, backward, monkeypatch):
    monkeypatch.setattr(tensor, "choose_tiling", lambda *_: tiling)
    monkeypatch.setattr(tensor_backward_run, "plan", lambda *_: backward)
    prepared = Pass(Unwatched(), Case("elman", D, 1, 1), 2)
    found = {stage: prepared.variant(direction, stage) for stage in profile.VARIANTS}
    alone = (backward if direction == "backward" else tiling).cluster == 1
    assert [s for s in found if found[s] is None] == (["exchange"] if alone else [])
    # a launch again, and nothing that can be done once only
    found["whole"].run()


def test_a_text_without_a_product_is_told():
    program = kernel("backward, cluster")
    unknown = type(program)(
        **{**vars(program), "text": program.text.replace("warp_mma", "new_block")}
    )
    with pytest.raises(ValueError, match="0 loops with a product"):
        without(unknown, "product")
    with pytest.raises(ValueError, match="no stage"):
        without(program, "gates")


def test_shares_of_the_whole():
    seconds = {"whole": 10.0, "start": 1.0, "exchange": 7.0, "barriers": 6.5, "product": 6.0}
    found = profile.shares(seconds)
    assert found == {
        "whole": 10, "start": 1, "exchange": 3, "barriers": 0.5, "product": 4, "rest": 1.5
    }  # fmt: skip
    assert profile.comparable(profile.VARIANTS, {"exchange"}) == [
        *("whole", "start", "product", "pointwise", "memory")
    ]
    assert profile.comparable(profile.VARIANTS, {"whole"}) == []


class Event:
    """cupy.cuda.Event by the host's clock."""

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass


def test_a_case_is_timed(monkeypatch):
    """With the emulator in the GPU's place."""
    cuda = SimpleNamespace(Event=Event, get_elapsed_time=lambda a, b: 1e3 * (b.at - a.at))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(machine, "gpu", Unwatched)
    monkeypatch.setattr(profile, "STEPS", 2)
    monkeypatch.setattr(tensor, "choose_tiling", lambda *_: ONE)
    case, wanted = Case("elman", 16, 1, 1), {"forward": ["whole", "start", "exchange", "product"]}
    rows, failed = profile.time_case(case, wanted, 1, 1)
    assert not failed
    assert [row["stage"] for row in rows] == ["whole", "start", "product", "rest"]
    assert rows[0]["ns"] > rows[1]["ns"] > 0
    assert "elman" in rows[0]["plan"]
    monkeypatch.setattr(profile, "without", lambda *_: 1 / 0)
    rows, failed = profile.time_case(case, wanted, 1, 1)
    assert [row["stage"] for row in rows] == ["whole", "start", "rest"]
    assert set(failed) == {"forward, exchange", "forward, product"}

    def broken(self):
        raise ValueError("illegal instruction")

    monkeypatch.setattr(Event, "synchronize", broken)
    with pytest.raises(RuntimeError, match="forward, whole: ValueError: illegal instruction"):
        profile.time_case(case, wanted, 1, 1)


# the timing process must find it
def timed(case, wanted, rounds, launches):
    if case.cell == "gru":
        raise ValueError("no such device")
    seconds = {"whole": 1e-3, "start": 1e-5, "product": 6e-4}
    rows = [r for d in wanted for r in profile._rows(case, d, seconds)]
    return rows, {"backward, memory": "refused"}


def test_rows_and_failures_are_told(monkeypatch, capsys):
    first, second = Case("lstm", 64, 12, 16), Case("gru", 64, 12, 16)
    missing = {(first, "kept", "whole"): "not compiled in time"}
    monkeypatch.setattr(profile, "compile_all", lambda *_: missing)
    monkeypatch.setattr(profile, "time_case", timed)
    given = Namespace(seconds=60, directions=["forward", "backward"], rounds=9, launches=5)
    seen = []
    result = profile.measure([first, second], given, H200, lambda r: seen.append(len(r["rows"])))
    assert seen == [4, 4]
    assert result["failed"] == {
        "lstm 64 x 12, B 16 kept, whole": "not compiled in time",
        "lstm 64 x 12, B 16 backward, memory": "refused",
        "gru 64 x 12, B 16 all": "ValueError: no such device",
    }
    whole, _, product, rest = json.loads(json.dumps(result["rows"]))
    assert whole == {
        **{"cell": "lstm", "head_dim": 64, "heads": 12, "batch": 16},
        # without what forward keeps there is no backward
        **{"direction": "forward", "stage": "whole", "ns": 976.56, "percent": 100},
    }
    assert (product["stage"], product["ns"], product["percent"]) == ("product", 390.63, 40)
    assert rest["percent"] == 59
    assert re.search(r"977 ns a step: .*exchange +- .*product +391 +40 %", capsys.readouterr().out)
    facts = {"command": "the command", "device": "a GPU", "commit": "abc"}
    told = profile.page(result | facts)
    assert "on an a GPU (commit abc)" in told
    assert "| lstm 64 x 12, B 16, forward | 977 | 10 |  |  | 391 |  |  | 576 |" in told


def test_what_is_compiled():
    case = Case("lstm", 64, 12, 16)
    found = profile.to_compile([case], ["backward"])
    assert found[0] == (case, "kept", "whole")
    assert len(found) == 1 + 1 + len(STAGES)
    assert [p.name for p in profile.programs(*found[1], H200)] == ["tensor_backward"]
