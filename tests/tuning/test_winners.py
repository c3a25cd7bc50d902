"""What was measured is what the backends then run."""

from __future__ import annotations

import pytest

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import fused, tensor, tensor_backward_run
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.tuning import CacheWarning, Device, TuningCache, measure, winners
from flashrnn_numba.tuning.autotuning import AUTOTUNE, key_of
from flashrnn_numba.tuning.candidates import Setting
from flashrnn_numba.tuning.measure import kernel_tiling, random_inputs
from flashrnn_numba.tuning.models.common import DIRECTIONS
from flashrnn_numba.tuning.models.registry import model

H200 = Device.named("H200")
TASKS = {
    "tensor": Task(get_cell("lstm"), 16, 1, 12, 64, "bfloat16", "cupy"),
    "portable": Task(get_cell("elman"), 5, 1, 2, 24, "float32", "cupy"),
}
EVERY = [(name, direction) for name in TASKS for direction in DIRECTIONS]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """It launches nothing, and stands for a device that can be measured."""
    monkeypatch.setenv("FLASHRNN_NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(AUTOTUNE, raising=False)
    machine = measure._DryRun(H200)
    monkeypatch.setattr(winners, "_measurable", lambda on: on is machine)
    winners.forget()
    yield machine
    winners.forget()


def plan_of(machine, name: str, direction: str):
    """What the backend runs, in words that have the tiling."""
    task = TASKS[name]
    inputs, dstates = random_inputs(machine, task)
    forward = tensor if name == "tensor" else fused
    backward = tensor_backward_run if name == "tensor" else fused
    planned = forward.prepare_forward(machine, task, inputs, True)
    _, _, kept = planned(inputs)
    if direction == "backward":
        back = backward.prepare_backward(machine, task, inputs, dstates, None)
        back(inputs, kept, dstates, None)
    return machine.launched[-1].plan


def test_where_winners_come_from(machine, monkeypatch):
    """What depends on them depends on the file, unless it is not read."""
    assert winners.source() == ""
    key = key_of("tensor", TASKS["tensor"], H200, "forward")
    TuningCache().put(key, {"tile": 8}, 1e-3)
    first = winners.source()
    TuningCache().put(key, {"tile": 16}, 1e-3)
    assert len({"", first, winners.source()}) == 3
    monkeypatch.setenv(AUTOTUNE, "0")
    assert winners.source() == ""


def second_best(name: str, direction: str, best: str):
    """The cheapest tiling that is not named in `best`."""
    setting = Setting(model(name), TASKS[name], H200, direction)
    rows = [row for s in setting.statements for row in s.best(8, 20_000)]
    rows.sort(key=lambda row: row[0])
    tilings = [kernel_tiling(setting, solution) for _, solution in rows]
    return next((t, z) for t, (_, z) in zip(tilings, rows, strict=True) if str(t) not in best)


@pytest.mark.parametrize(("name", "direction"), EVERY)
def test_a_remembered_winner_is_what_runs(machine, monkeypatch, name, direction):
    before = plan_of(machine, name, direction)
    tiling, solution = second_best(name, direction, before)
    TuningCache().put(key_of(name, TASKS[name], H200, direction), solution, 1e-3)
    assert plan_of(machine, name, direction) == before, "looked up once in a process"
    winners.forget()
    assert str(tiling) in plan_of(machine, name, direction)
    monkeypatch.setenv(AUTOTUNE, "0")
    assert plan_of(machine, name, direction) == before, "switched off"


@pytest.mark.parametrize(("name", "direction"), EVERY)
def test_the_first_call_measures_and_later_ones_take_the_winner(
    machine, monkeypatch, name, direction
):
    seen = []

    def measurer(setting, on):
        assert on is machine
        assert (setting.model.name, setting.direction) == (name, direction)

        def seconds(solution):
            seen.append(kernel_tiling(setting, solution))
            return 1.0 / len(seen)

        return seconds

    monkeypatch.setattr(measure, "measurer", measurer)
    monkeypatch.setenv(AUTOTUNE, "3")
    found = winners.winner(machine, name, TASKS[name], direction)
    assert len(seen) == 3
    assert found == seen[2]
    monkeypatch.delenv(AUTOTUNE)
    assert str(found) in plan_of(machine, name, direction)
    assert len(seen) == 3


def test_nothing_is_measured_while_a_graph_is_captured(machine, monkeypatch):
    monkeypatch.setenv(AUTOTUNE, "2")
    monkeypatch.setattr(machine, "capturing", lambda: True)
    monkeypatch.setattr(measure, "measurer", None)
    assert winners.winner(machine, "portable", TASKS["portable"], "forward") is None


@pytest.mark.filterwarnings("ignore:tiling .* was passed over")
def test_where_nothing_can_be_measured_the_model_decides(machine, monkeypatch):
    def measurer(setting, on):
        raise MemoryError("no room for the inputs")

    monkeypatch.setattr(measure, "measurer", measurer)
    monkeypatch.setenv(AUTOTUNE, "2")
    with pytest.warns(UserWarning, match="none of 2 tilings could be measured.*model's best"):
        assert winners.winner(machine, "portable", TASKS["portable"], "forward") is None


def test_a_winner_that_is_no_tiling_any_more_does_not_count(machine):
    TuningCache().put(key_of("tensor", TASKS["tensor"], H200, "forward"), {"tile": 3}, 1e-3)
    with pytest.warns(CacheWarning, match="does not count"):
        assert winners.winner(machine, "tensor", TASKS["tensor"], "forward") is None


def test_emulated_machines_have_no_winners(machine):
    from flashrnn_numba.kernels.emulated import EmulatedMachine

    _, solution = second_best("portable", "forward", "")
    TuningCache().put(key_of("portable", TASKS["portable"], H200, "forward"), solution, 1e-3)
    task = TASKS["portable"]
    assert winners.winner(EmulatedMachine(H200), "portable", task, "forward") is None
    assert winners.winner(machine, "portable", task, "forward") is not None


def test_without_a_cache_nothing_is_imported(machine, monkeypatch):
    monkeypatch.setattr(winners, "_look_up", None)
    assert winners.winner(machine, "portable", TASKS["portable"], "forward") is None
