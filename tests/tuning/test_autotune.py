"""Autotuning: measured once, remembered, checked against the problem of today."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.tuning import CacheWarning, Device, TuningCache
from flashrnn_numba.tuning.autotuning import AUTOTUNE, is_tiling, key_of, satisfies, tries, tune
from flashrnn_numba.tuning.candidates import Setting, evaluate_model
from flashrnn_numba.tuning.models.registry import model

ROOT = Path(__file__).parents[2]
H200 = Device.named("H200")
TASK = Task(get_cell("lstm"), 16, 64, 12, 64, "float32", "cupy")
SETTING = Setting(model("portable"), TASK, H200, "forward")


class Watch:
    """A fake measurement that prefers the last candidate, and counts."""

    def __init__(self) -> None:
        self.seen: list[dict[str, int]] = []

    def __call__(self, tiling: dict[str, int]) -> float:
        self.seen.append(tiling)
        return 1.0 / len(self.seen)


def test_the_fastest_measured_tiling_wins_and_is_remembered(tmp_path):
    watch, cache = Watch(), TuningCache(tmp_path)
    won = tune(SETTING, watch, 4, cache)
    (statement,) = SETTING.statements
    best = statement.problem.best(20, statement.cost)
    assert watch.seen[0] == best[0]
    # in this order, without near copies
    assert [tiling for tiling in best if tiling in watch.seen] == watch.seen
    assert len(watch.seen) == 4
    assert won == watch.seen[3] != watch.seen[0]
    again = Watch()
    assert tune(SETTING, again, 4, TuningCache(tmp_path)) == won
    assert again.seen == []


def test_off_means_the_models_best_without_a_measurement(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHRNN_NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(AUTOTUNE, raising=False)
    watch = Watch()
    (statement,) = SETTING.statements
    problem, cost = statement.problem, statement.cost
    assert tries() == 0
    assert tune(SETTING, watch) == problem.solve(minimize=cost)
    assert watch.seen == []
    assert list(tmp_path.iterdir()) == []


def test_switched_on_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHRNN_NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(AUTOTUNE, "3")
    watch = Watch()
    won = tune(SETTING, watch)
    assert len(watch.seen) == 3
    assert won == watch.seen[2]
    key = key_of("portable", TASK, H200, "forward")
    assert TuningCache().get(key) == won


@pytest.mark.parametrize("text", ["yes", "-1", "2.5", "²"])
def test_a_wrong_number_is_named(monkeypatch, text):
    monkeypatch.setenv(AUTOTUNE, text)
    with pytest.raises(ValueError, match=f"{AUTOTUNE} must be the number of tilings.*{text}"):
        tries()


def test_what_does_not_fit_has_no_tiling(tmp_path):
    large = Task(get_cell("lstm"), 16, 64, 1, 2048, "float32", "cupy")
    watch = Watch()
    setting = Setting(model("portable"), large, H200, "forward")
    assert tune(setting, watch, 3, TuningCache(tmp_path)) is None
    refused = Setting(model("grid"), large, H200, "forward")
    assert tune(refused, watch, 3, TuningCache(tmp_path)) is None
    assert watch.seen == []


def test_tilings_that_fail_are_passed_over(tmp_path):
    calls = []

    def measure(tiling):
        calls.append(tiling)
        if len(calls) == 1:
            raise RuntimeError("the driver refused it")
        return float(len(calls))

    with pytest.warns(UserWarning, match="passed over: RuntimeError.*the driver refused it"):
        won = tune(SETTING, measure, 3, TuningCache(tmp_path))
    assert won == calls[1]


def test_what_is_remembered_must_still_be_a_tiling(tmp_path):
    cache = TuningCache(tmp_path)
    key = key_of("portable", TASK, H200, "forward")
    good = tune(SETTING, Watch(), 2, cache)
    for wrong in ({**good, "threads": 1}, {**good, "split": 3}, {"tile": 8}, {**good, "rows": 999}):
        cache.put(key, wrong, 1e-9)
        watch = Watch()
        with pytest.warns(CacheWarning, match="is no tiling of this version"):
            assert tune(SETTING, watch, 2, cache) == good
        assert len(watch.seen) == 2
        assert cache.get(key) == good


def test_satisfies_agrees_with_the_solver():
    (statement,) = SETTING.statements
    problem, cost = statement.problem, statement.cost
    for solution in problem.best(20, cost):
        assert satisfies(problem, solution)
    best = problem.solve(minimize=cost)
    assert not satisfies(problem, {**best, "rows": 3})
    assert not satisfies(problem, {**best, "extra": 3})


def test_a_corrupt_file_is_rebuilt(tmp_path):
    cache = TuningCache(tmp_path)
    cache.path.write_text('{"format": "flashrnn_numba tuning cache", "version": 1, "entr')
    with pytest.warns(CacheWarning, match="not JSON"):
        won = tune(SETTING, Watch(), 2, cache)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tune(SETTING, Watch(), 2, cache) == won


def test_every_part_of_the_problem_is_in_the_key():
    key = key_of("portable", TASK, H200, "forward")
    assert key.kernel == "portable forward"
    assert "H12 D64 B16" in key.shape
    others = [
        key_of("portable", TASK, H200, "backward"),
        key_of("portable", TASK, Device.named("A100"), "forward"),
        key_of("portable", Task(get_cell("gru"), 16, 64, 12, 64, "float32"), H200, "forward"),
        key_of("portable", Task(get_cell("lstm"), 17, 64, 12, 64, "float32"), H200, "forward"),
    ]
    assert len({key.text(), *(other.text() for other in others)}) == 5
    longer = Task(get_cell("lstm"), 16, 9999, 12, 64, "float32", "cupy")
    assert key_of("portable", longer, H200, "forward") == key


PROCESS = """
import sys
from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.autotuning import tune
from flashrnn_numba.tuning.candidates import Setting, evaluate_model
from flashrnn_numba.tuning.models.registry import model
for H in range(int(sys.argv[1]), 24, 2):
    task = Task(get_cell("elman"), 8, 64, H, 16, "float32", "cupy")
    tune(Setting(model("portable"), task, Device.named("T4"), "forward"), lambda z: 1.0, 2)
"""


def test_two_processes_tune_at_once(tmp_path):
    """Odd numbers of heads in one, even ones in the other: none is lost; the file stays whole."""
    environment = {
        **os.environ,
        "FLASHRNN_NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    running = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", PROCESS, n], env=environment)
        for n in ("1", "2")
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert len(TuningCache(tmp_path)) == 23
    assert json.loads((tmp_path / "tuning.json").read_text())["version"] == 1


def test_measuring_runs_the_kernel_itself(tmp_path):
    """In the emulator: slow, but the same calls as on a GPU."""
    pytest.importorskip("greenlet")
    from flashrnn_numba.kernels.emulated import EmulatedMachine
    from flashrnn_numba.tuning.measure import measurer

    task = Task(get_cell("elman"), 1, 1, 1, 2, "float32", "cupy")
    names = ("heads", "rows", "row_tile", "unit_tile", "split")
    for direction in ("forward", "backward"):
        machine = EmulatedMachine("T4")
        setting = Setting(model("portable"), task, machine.device(), direction)
        small = {**dict.fromkeys(names, 1), "threads": 32}
        assert is_tiling(setting, small)
        assert measurer(setting, machine, runs=1)(small) > 0
        assert machine.launched[-1].name == f"fused_{direction}"
        assert machine.launched[-1].threads == 32
    task = Task(get_cell("elman"), 1, 1, 1, 16, "bfloat16", "cupy")
    for direction in ("forward", "backward"):
        machine = EmulatedMachine("A100")
        setting = Setting(model("tensor"), task, machine.device(), direction)
        chosen = evaluate_model(setting.model, task, machine.device(), direction)
        assert measurer(setting, machine, runs=1)(chosen.solution) > 0
        assert machine.launched[-1].name == f"tensor_{direction}"
    with pytest.raises(ValueError, match="'alternating' cannot be measured; tensor, cluster"):
        measurer(Setting(model("alternating"), task, H200, "forward"), EmulatedMachine())
