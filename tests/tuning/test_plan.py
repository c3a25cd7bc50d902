"""`fr.plan` and `flashrnn-numba plan`: what they choose, what they say, and how fast."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flashrnn_numba as fr
from flashrnn_numba.__main__ import main
from flashrnn_numba.cells import cell, get_cell, tanh
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.candidates import Candidate, Refusal, evaluate_model
from flashrnn_numba.tuning.models.common import DIRECTIONS, exceeded
from flashrnn_numba.tuning.models.registry import model, models
from flashrnn_numba.tuning.models.tensor_cores import backward_tiling, forward_tiling
from flashrnn_numba.tuning.sweep import sweep

ROOT = Path(__file__).parents[2]
H200 = Device.named("H200")
SIZES = {"B": 16, "T": 1024, "H": 1, "D": 768}


@cell(gates={"a": "x"}, states=("h",))
def forgetful(g, s):
    """No recurrent gate and no bias."""
    return tanh(g.a)


# -- what is chosen ------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["A100", "H200", "RTX 4090", "T4"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_every_shape_has_a_plan_within_the_limits(device, dtype):
    shapes = ((1, 1, 1), (20, 2, 3), (64, 12, 16), (768, 1, 128), (3000, 1, 1))
    functions = ("gru", forgetful, "lstm", "slstm", "lstm")
    for (D, H, B), function in zip(shapes, functions, strict=True):
        p = fr.plan(B=B, T=100, H=H, D=D, function=function, dtype=dtype, device=device)
        for chosen in (p.forward, p.backward):
            assert chosen.setting.model.backend == p.backend
            assert exceeded(chosen.footprint, Device.named(device)) == []
        assert p.seconds > 0
        assert repr(p).endswith(f"on {device}: {p.kernel}>")


def test_the_plan_is_what_auto_runs():
    from flashrnn_numba.kernels.backends import AUTO

    order = [m.name for m in models()]
    for D, H in ((64, 12), (768, 1), (2048, 1)):
        p = fr.plan(B=16, T=64, H=H, D=D, device=H200)
        for part in p.passes:
            existing = [c.name for c in part.able if c.setting.model.backend == p.backend]
            assert p.chosen(part.direction).name == min(existing, key=order.index)
        for name in AUTO[: AUTO.index(p.backend)]:  # those before it cannot do both passes
            assert None in [part.first(name) for part in p.passes]


def test_a_faster_backend_is_told_of():
    p = fr.plan(B=16, T=64, H=12, D=64, device=H200)
    assert p.faster_backend() is None
    slow = p.passes[0].first("alternating")
    assert slow.seconds > p.forward.seconds
    swapped = tuple(
        dataclasses.replace(part, able=tuple(_slowed(c) for c in part.able)) for part in p.passes
    )
    told = dataclasses.replace(p, passes=swapped)
    assert told.faster_backend()[0] == "alternating"
    assert "by its model backend alternating would take less" in told.explain(0)


def _slowed(candidate: Candidate) -> Candidate:
    """The candidate, with its steps a thousand times as long unless it is the alternating one."""
    if candidate.name != "alternating":
        candidate = dataclasses.replace(candidate)
        candidate.__dict__["parts"] = {"all of it": 1e6}
    return candidate


def test_clusters_and_grids_are_compared():
    for D, kind, other in ((512, "cluster", "grid"), (768, "grid", "cluster")):
        p = fr.plan(**{**SIZES, "D": D, "B": 128 if D == 768 else 16}, device="H200")
        assert p.kernel == kind
        assert re.search(f"other kernels\\n    {other} ", p.explain(0))


def test_the_plan_is_what_the_portable_kernel_runs():
    from flashrnn_numba.kernels import fused

    p = fr.plan(B=16, T=64, H=12, D=64, dtype="float32", device=H200)
    for direction in DIRECTIONS:
        runs = fused.plan(get_cell("lstm"), "float32", 64, 12, direction, H200)
        chosen = p.chosen(direction)
        assert chosen.name == "portable"
        assert vars(runs.tiling) == chosen.solution
        assert runs.program.threads == chosen.footprint.threads
        assert runs.program.shared_bytes == chosen.footprint.shared_bytes


@pytest.mark.parametrize("device", ["H200", "A100"])
def test_the_plan_is_what_the_tensor_core_kernels_run(device):
    from flashrnn_numba.kernels import tensor, tensor_backward_run
    from flashrnn_numba.kernels.tensor_backward import backward_program

    limits = Device.named(device)
    bf16, tf32 = ("bfloat16", "auto"), ("float32", "tf32")
    for D, H, B, function, (dtype, precision) in (
        (64, 12, 16, "lstm", bf16),
        (100, 3, 5, "gru", bf16),
        (768, 1, 100, "slstm", bf16),
        (64, 12, 16, "lstm", tf32),
        (100, 3, 5, "gru", tf32),
        (512, 1, 16, "slstm", tf32),
    ):
        task = Task(get_cell(function), B, 64, H, D, dtype, "cupy", precision=precision)
        forward = tensor.choose_tiling(task.cell, task.dtype, B, H, D, limits)
        backward = tensor_backward_run.plan(task, limits)
        for direction, runs, as_tiling in (
            ("forward", forward, forward_tiling),
            ("backward", backward, backward_tiling),
        ):
            got = evaluate_model(model("tensor"), task, limits, direction)
            if runs is None:
                assert isinstance(got, Refusal)
                continue
            assert as_tiling(task, got.solution) == runs
            variant = tensor.Variant(True, True, True, tensor.coarse(dtype))
            program = (
                tensor.program(task.cell, task.dtype, D, runs, variant)
                if direction == "forward"
                else backward_program(task.cell, task.dtype, D, runs)
            )
            z = got.footprint
            assert (program.threads, program.cluster) == (z.threads, z.cluster)
            assert program.shared_bytes == z.shared_bytes


def test_backward_in_tf32_is_not_planned_through_l2():
    task = Task(get_cell("lstm"), 16, 64, 1, 1024, "float32", "cupy", precision="tf32")
    for name, reason in (("grid", "through L2 there are none"), ("portable", "")):
        got = evaluate_model(model(name), task, H200, "backward")
        assert isinstance(got, Refusal)
        assert reason in str(got)
    p = fr.plan(B=16, T=64, H=3, D=256, dtype="float32", precision="tf32", device=H200)
    assert [p.chosen(direction).name for direction in DIRECTIONS] == ["tensor", "tensor"]


def test_empty_problems_have_plans():
    assert fr.plan(B=0, T=0, H=1, D=8, device="H200").seconds < 1e-4


# -- where ---------------------------------------------------------------------------------------


def test_without_a_gpu_the_cpu_is_planned(monkeypatch):
    def nothing(*_):
        raise fr.tuning.DeviceNotFoundError("no CUDA driver on this machine")

    monkeypatch.setattr(Device, "query", staticmethod(nothing))
    p = fr.plan(**SIZES)
    assert (p.kernel, p.backend, p.device, p.forward, p.seconds) == ("cpu", "cpu", None, None, None)
    text = p.explain()
    assert "on the CPU (no GPU was found: no CUDA driver on this machine)" in text
    assert "device='H200'" in text
    assert json.loads(json.dumps(p.to_dict()))["device"] == "cpu"


def test_a_gpu_at_hand_is_queried(monkeypatch):
    monkeypatch.setattr(Device, "query", staticmethod(lambda: Device.named("L40S")))
    p = fr.plan(**SIZES)
    assert p.device.name == "L40S"
    assert "the GPU of this machine" in p.explain(0)


def test_cpu_by_name():
    text = fr.plan(**SIZES, device="cpu").explain()
    assert "FLASHRNN_NUMBA_THREADS" in text
    assert "as asked" in text


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"B": -1}, ValueError, "B must be at least 0, got -1"),
        ({"D": 0}, ValueError, "D must be at least 1, got 0"),
        ({"H": 1.5}, TypeError, "H must be an integer, got float"),
        ({"dtype": "int8"}, TypeError, "dtype must be one of float64, float32"),
        (
            {"device": "H300"},
            ValueError,
            "device: no device 'H300' on record; expected one of A100",
        ),
        ({"device": 3}, TypeError, "device must be a name such as 'H200'"),
        ({"function": "rnn"}, ValueError, "there is no cell 'rnn'"),
        ({"precision": "low"}, ValueError, "precision must be 'auto', 'exact' or"),
    ],
)
def test_wrong_arguments_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        fr.plan(**{**SIZES, "device": "H200", **changes})


def test_dtypes_by_any_name():
    import ml_dtypes
    import numpy as np

    for dtype in ("bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16), "torch.bfloat16"):
        assert fr.plan(**SIZES, dtype=dtype, device="H200").task.dtype == "bfloat16"
    assert fr.plan(**SIZES, dtype=np.float32, device="H200").task.dtype == "float32"


# -- the command ---------------------------------------------------------------------------------


def status(*arguments: str) -> int:
    try:
        return main(["plan", *arguments])
    except SystemExit as end:
        return int(end.code or 0)


ASKED = (
    "--head-dim", "768", "--heads", "1", "--batch", "16", "--device", "H200", "--cell", "lstm",
    "--dtype", "bfloat16",
)  # fmt: skip


def test_command_prints_the_plan(capsys):
    assert status(*ASKED) == 0
    assert capsys.readouterr().out.strip() == fr.plan(**SIZES, device="H200").explain().strip()


def test_command_prints_json(capsys):
    assert status(*ASKED, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["device"] == "H200"
    assert data["forward"]["kernel"] == fr.plan(**SIZES, device="H200").kernel


def test_command_takes_a_cell_from_a_file(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "import flashrnn_numba as fr\nfrom flashrnn_numba.cells import tanh\n"
        "@fr.cell(gates=('a',), states=('h',))\ndef own(g, s):\n    return tanh(g.a)\n"
    )
    assert status("--cell", f"{path}:own", "--device", "A100", "--next", "0") == 0
    assert capsys.readouterr().out.startswith("own, bfloat16, 16 rows, 1024 steps, 1 head of 64")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "H300"], "no device 'H300' on record"),
        (["--cell", "rnn"], "there is no cell 'rnn'"),
        (["--head-dim", "0"], "expected a positive integer, got '0'"),
        (["--next", "x"], "expected an integer of at least 0, got 'x'"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["--sweep", "map.pdf", "--device", "H200"], "--sweep must end in .png or .svg"),
        (["--sweep", "/no/such/map.png", "--device", "H200"], "there is no directory '/no/such'"),
        (["--sweep", "--device", "cpu"], "--sweep needs a GPU to plan for"),
    ],
)
def test_wrong_usage_is_status_2(arguments, message, capsys):
    assert status(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_picture_needs_matplotlib(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert status("--sweep", str(tmp_path / "map.png"), "--device", "H200") == 2
    assert "pip install 'flashrnn-numba[plot]'" in capsys.readouterr().err


# -- the map -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_map():
    task = Task(get_cell("lstm"), 1, 1024, 1, 16, "bfloat16", "cupy")
    return sweep(task, H200, head_dims=(64, 768), batches=(1, 128))


def test_the_map_says_what_the_plans_say(small_map):
    for place in small_map.places:
        p = fr.plan(**{**SIZES, "B": place.B, "D": place.D}, device="H200")
        assert (place.forward, place.backward) == (p.forward.kind, p.backward.kind)
        assert place.forward_ns == p.forward.step_ns
    text = small_map.text()
    assert "head dim" in text
    assert "B = 128" in text
    assert text.count(small_map.at(64, 1).forward) >= 1
    assert "alternating: forward any, backward any" in text
    assert "grid: forward " in text
    assert len(json.loads(json.dumps(small_map.to_dict()))["places"]) == 4


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_picture_is_drawn(small_map, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    from flashrnn_numba.commands.plan_picture import draw

    path = tmp_path / f"map{suffix}"
    draw(small_map, path)
    data = path.read_bytes()
    if suffix == ".svg":
        text = data.decode()
        assert "head dimension" in text
        assert small_map.at(768, 1).forward in text
        draw(small_map, path)
        assert path.read_bytes() == data  # the same file for the same map
    else:
        assert data.startswith(b"\x89PNG")


# -- the time it takes ---------------------------------------------------------------------------


def test_cold_start_imports_no_numba_and_is_fast():
    """Under a second; in processor time, which other jobs on the machine do not count in. (They
    slow it down, by caches and clocks: the fastest of three.)"""
    code = (
        "import sys, time\nfrom flashrnn_numba.__main__ import main\n"
        f"assert main(['plan', *{ASKED!r}]) == 0\n"
        "heavy = {'numba', 'cupy', 'llvmlite', 'matplotlib', 'cuda'}\n"
        "heavy |= {'flashrnn_numba.kernels.launch', 'flashrnn_numba.calls'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
        "print(time.process_time())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        heavy, time = done.stdout.splitlines()[-2:]
        assert heavy == "heavy: []"
        assert "FORWARD: " in done.stdout
        seconds.append(float(time))
    print(f"{min(seconds):.2f} s")
    assert min(seconds) < 1


def test_the_package_alone_brings_no_planner():
    code = "import sys, flashrnn_numba; print([m for m in sys.modules if 'tuning.plan' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[]"
    assert {"plan", "Plan"} <= set(dir(fr))
    with pytest.raises(AttributeError, match="no attribute 'plans'"):
        _ = fr.plans


def test_every_candidate_is_a_candidate_or_a_refusal():
    p = fr.plan(**SIZES, device="H200")
    for part in p.passes:
        assert all(isinstance(c, Candidate) for c in part.able)
        assert all(isinstance(r, Refusal) for r in part.refused)


# -- documentation -------------------------------------------------------------------------------


def test_every_environment_variable_is_documented():
    """Names in quotes that the package reads, against the table of docs/environment.md."""
    page = (ROOT / "docs" / "environment.md").read_text()
    used = {
        name
        for path in (ROOT / "flashrnn_numba").rglob("*.py")
        for name in re.findall(r'"(FLASHRNN_[A-Z_]+|XDG_[A-Z_]+)"', path.read_text())
    }
    assert used >= {"FLASHRNN_NUMBA_AUTOTUNE", "FLASHRNN_NUMBA_CACHE_DIR"}
    documented = set(re.findall(r"^\| `((?:FLASHRNN_NUMBA|XDG)_[A-Z_]+)`", page, re.MULTILINE))
    assert used == documented
