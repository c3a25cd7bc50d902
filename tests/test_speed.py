"""The speed benchmark without a GPU: NumPy in CuPy's place, the CPU backend in the kernels'."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import flashrnn_numba as fr
from flashrnn_numba.kernels import reference
from flashrnn_numba.kernels.interface import Inputs, Task

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import gpu_oracle, speed, speed_case, speed_plot
from benchmarks.speed_case import Case, Prepared

CASE = Case("lstm", 8, 2, 3, steps=5, dtype="float32", backend="cpu")


class Event:
    def record(self):
        pass

    synchronize = record


class FakeCupy(ModuleType):
    """NumPy, and what the benchmark asks of a device."""

    cuda = SimpleNamespace(
        Device=lambda: SimpleNamespace(synchronize=lambda: None),
        Event=Event,
        get_elapsed_time=lambda begin, end: 1.5,
    )

    def __getattr__(self, name):
        return getattr(np, name)


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy("cupy"))
    monkeypatch.setattr(speed_case, "_give_back_memory", lambda: None)


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "slstm"])
def test_the_oracle_of_the_benchmark_is_the_oracle(name, monkeypatch):
    """Also where rows come in portions."""
    monkeypatch.setattr(gpu_oracle, "ROWS", 2)
    cell, rng = fr.get_cell(name), np.random.default_rng(0)
    B, T, H, D = 3, 6, 2, 5
    Wx = rng.standard_normal((B, T, len(cell.input_gates), H, D))
    R = rng.standard_normal((len(cell.recurrent_gates), H, D, D))
    b = rng.standard_normal((len(cell.bias_gates), H, D))
    dstates = np.zeros((len(cell.states), B, T, H, D))
    dstates[0] = rng.standard_normal((B, T, H, D))
    task, inputs = Task(cell, B, T, H, D, "float64"), Inputs(Wx, R, b)
    states, _, kept = reference.forward(task, inputs, keep=True)
    gradients = reference.backward(task, inputs, kept, dstates, None)
    right = {"h": states[0], "Wx": gradients.Wx, "R": gradients.R, "b": gradients.b}
    wrong = {name: 1.5 * array for name, array in right.items()}
    problem = gpu_oracle.Problem(Wx, R, b, dstates[0])
    errors = gpu_oracle.errors(cell, problem, {"right": right, "wrong": wrong})
    assert max(errors["right"].values()) < 1e-13
    assert all(error == pytest.approx(0.5) for error in errors["wrong"].values())
    spoilt = {"R": np.where(np.arange(D) == 2, np.nan, gradients.R)}
    assert not gpu_oracle.errors(cell, problem, {"": spoilt})[""]["R"] <= 1


def test_what_is_right_is_timed():
    prepared = Prepared(CASE, nullcontext())
    rows = prepared.time(3)
    assert {(row["implementation"], row["direction"]) for row in rows} == {
        ("ours", "forward"),
        ("ours", "forward+backward"),
    }
    for row in rows:
        assert (row["milliseconds"], row["low"], row["high"]) == (1.5, 1.5, 1.5)
        assert row["relative_error"] < 1e-5
        assert row["gradient_error"] < 1e-5
    json.dumps(rows)


def spoil(array):
    array[..., 0] *= 1.01
    return array


@pytest.mark.parametrize("what", ["h alone", "h", "Wx", "R", "b", "nan"])
def test_what_is_wrong_is_not_timed(what, monkeypatch):
    plain, vjp = fr.flashrnn, fr.flashrnn_vjp

    def wrong_forward(*arguments, **options):
        states, last = plain(*arguments, **options)
        return (spoil(states) if what == "h alone" else states), last

    def wrong_vjp(*arguments, **options):
        states, last, back = vjp(*arguments, **options)

        def wrong_back(dstates):
            d = back(dstates)
            return d._replace(**{what: spoil(getattr(d, what))}) if what in d._fields else d

        if what in ("h", "nan"):
            states = states * np.where(np.arange(CASE.head_dim) == 3, 1.1, 1).astype(states.dtype)
            states[0, 0, 0, 0, 0] = np.nan if what == "nan" else 0
        return states, last, wrong_back

    monkeypatch.setattr(fr, "flashrnn", wrong_forward)
    monkeypatch.setattr(fr, "flashrnn_vjp", wrong_vjp)
    with pytest.raises(AssertionError, match="nothing is timed"):
        Prepared(CASE, nullcontext())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_peers_are_held_to_the_oracle(cell, monkeypatch):
    """cuDNN's place is taken by PyTorch on the CPU, with weights and inputs of its own."""
    torch = pytest.importorskip("torch")
    from benchmarks import peers

    monkeypatch.setattr(torch.nn.Module, "to", lambda net, device, dtype: net.type(dtype))
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *sizes, device, **options: randn(*sizes, **options))
    monkeypatch.setattr(speed_case, "_to_cupy", lambda t: t.detach().double().numpy())
    names = ("cudnn_fp32", "torch_loop") if cell == "lstm" else ("cudnn_fp32",)
    case = replace(CASE, cell=cell, heads=1, peers=names)
    prepared = Prepared(case, nullcontext())
    assert prepared.notes == []
    for name in names:
        assert (name, "forward") in prepared.functions
        assert prepared.facts[name]["relative_error"] < 1e-5
        assert prepared.facts[name]["gradient_error"] < 1e-5
    plain = peers._problem_of
    monkeypatch.setattr(
        peers, "_problem_of", lambda *given: (*plain(*given)[:2], plain(*given)[2] + 1)
    )
    prepared = Prepared(case, nullcontext())
    assert ("cudnn_fp32", "forward") not in prepared.functions
    assert "cudnn_fp32 not timed" in prepared.notes[0]


def test_cases_cover_what_is_asked_for():
    names = {name for case in speed.TABLE for name in case.peers}
    assert names >= {"flashrnn_fused", "flashrnn_alternating", "cudnn_fp16", "cudnn_bf16"}
    swept = {(c.head_dim, c.heads, c.batch, c.steps) for c in speed.SWEEP}
    assert len(set(speed.SWEEP)) == len(speed.SWEEP)
    turns = {c.backend for c in speed.SWEEP if (c.head_dim, c.batch) == (2048, 256)}
    assert turns == {"fused", "alternating"}
    assert swept >= {(d, 768 // d, 16, 1024) for d in (16, 32, 64, 128, 256, 384, 768)}
    assert swept >= {(d, 1, 16, 1024) for d in (1024, 1536, 2048)}
    for shape in ((64, 12), (768, 1)):
        assert {b for *s, b, t in swept if (*s,) == shape and t == 1024} >= {1, 8, 16, 128, 256}
        assert {t for *s, b, t in swept if (*s,) == shape and b == 16} == {
            *(256, 512, 1024, 2048, 4096)
        }


def made_up(cases):
    rows = []
    for case in cases:
        for name in ("ours", *case.peers):
            for direction in speed_plot.DIRECTIONS:
                facts = {"cell": case.cell, "head_dim": case.head_dim, "heads": case.heads}
                facts |= {"batch": case.batch, "steps": case.steps, "dtype": case.dtype}
                facts |= {"implementation": name, "direction": direction, "relative_error": 1e-3}
                facts |= {"backend": case.backend if name == "ours" else None}
                times = {"milliseconds": 1.0 + (name != "ours"), "low": 0.9, "high": 2.1}
                rows.append(facts | times)
    return {"device": "a made-up GPU", "rows": rows, "notes": ["a note"]}


@pytest.mark.parametrize("cases", ["TABLE", "SWEEP"])
def test_drawn_and_printed_from_a_record(cases, tmp_path):
    pytest.importorskip("matplotlib")
    given, picture = tmp_path / "rows.json", tmp_path / "rows.svg"
    cases = getattr(speed, cases)
    given.write_text(json.dumps(made_up(cases)))
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", "--from", given, "--plot", picture],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = ran.stdout.splitlines()
    assert sum(" / ours 2.00" in line for line in lines) == 2 * sum(bool(c.peers) for c in cases)
    assert "a note" in lines
    assert "<svg" in picture.read_text()


def test_a_case_that_crashes_fails_the_run(monkeypatch, tmp_path):
    written = tmp_path / "rows.json"
    monkeypatch.setattr(speed, "_device", lambda: "none")
    monkeypatch.setattr(speed, "measure", lambda *_: iter([([], ["out of memory"])]))
    command = ["speed", "--only", "elman", "--json", str(written)]
    monkeypatch.setattr(sys, "argv", command)
    assert speed.main() == 1
    assert json.loads(written.read_text())["notes"] == ["out of memory"]
    rows = [r for r in made_up(speed.TABLE)["rows"] if r["cell"] == "elman"]
    monkeypatch.setattr(speed, "measure", lambda *_: iter([(rows, [])]))
    assert speed.main() == 0
    monkeypatch.setattr(sys, "argv", ["speed", "--only", "nothing like it"])
    monkeypatch.setattr(speed, "measure", lambda *_: iter([]))
    assert speed.main() == 0
