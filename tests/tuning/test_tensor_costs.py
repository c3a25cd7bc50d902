"""The tensor-core kernels' costs against tilings that were timed on an H200: with the models as
they are (ranking-h200.json), the exchange through L2 as it became then (ranking-grid-h200.json,
forward; the runs before are of an older kernel), and the runs that the costs were fitted to."""

import json
from pathlib import Path

import pytest

from benchmarks.ranking import spearman
from flashrnn_numba.cells import get_cell
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.models import tensor, tensor_backward
from flashrnn_numba.tuning.models import tensor_costs as costs
from flashrnn_numba.tuning.models.tensor_costs import Pace, Spread

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
H200 = Device.named("H200")
LSTM = get_cell("lstm")


def timed():
    for run in ("first-", "tensor-", "", "grid-"):
        for row in json.loads((RESULTS / f"ranking-{run}h200.json").read_text())["compared"]:
            older = (row["kernel"] == "grid" and run != "grid-") or run == "first-"
            if row["dtype"] == "bfloat16" and not (older and row["direction"] == "forward"):
                name = f"{run}{row['kernel']} {row['direction']} {row['D']} {row['B']}"
                yield pytest.param(row, id=name)


def predicted(row, solution):
    """None where registers are counted otherwise now, and the tiling is not allowed."""
    shape = LSTM, row["B"], row["H"], row["D"], H200
    spread = Spread(solution["cluster"], bool(solution["grid"]))
    if row["direction"] == "forward":
        then = {"ragged": 0, "older": 0, "ahead": 4}  # what solutions had no variable for
        return tensor.statement(*shape, spread).value(then | solution)
    return tensor_backward.statement(*shape, spread, solution["tile"]).value({"size": 2} | solution)


@pytest.mark.parametrize("row", list(timed()))
def test_the_model_ranks_what_was_timed(row):
    every = [(predicted(row, t["solution"]), t["ms"]) for t in row["times"]]
    found = [(cost, ms) for cost, ms in every if cost is not None]
    assert len(found) > len(every) // 2
    assert spearman(*zip(*found, strict=True)) > 0.5
    assert min(found)[1] < 1.1 * min(ms for _, ms in found)


def test_cards_differ_by_their_clock_and_by_tensor_cores_that_are_slower():
    for name in ("H100", "H200"):
        fitted = Pace.of(Device.named(name))
        assert fitted.cycle == 1
        assert fitted.mma < costs.MMA
        assert 10 * fitted.mma / 1.98 < min(4 * costs.PRODUCT, costs.ONE_WARP)
    # cycles of an mma of 2048 products on one of four tensor cores, tenths
    per_mma = {"A100": 80, "L40S": 160, "RTX 4090": 320, "B200": 20}
    assert {name: Pace.of(Device.named(name)).mma for name in per_mma} == per_mma
    assert Pace.of(Device.named("A100")).cycle == pytest.approx(1.98 / 1.41)
