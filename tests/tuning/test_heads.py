"""Which head dimensions fit, and why others do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.candidates import Candidate, Refusal, evaluate_model
from flashrnn_numba.tuning.heads import fits, largest_head
from flashrnn_numba.tuning.models import tensor, tensor_backward
from flashrnn_numba.tuning.models.common import DIRECTIONS
from flashrnn_numba.tuning.models.registry import model
from flashrnn_numba.tuning.models.tensor_cores import TensorCores
from flashrnn_numba.tuning.plan import plan_task

H200 = Device.named("H200")
KINDS = ("tensor", "cluster", "grid")


def task(D: int = 64, cell: str = "lstm", dtype: str = "bfloat16", precision: str = "auto") -> Task:
    return Task(get_cell(cell), 16, 1024, 1, D, dtype, "cupy", precision=precision)


def alone(kind: str):
    """One kind of a kernel."""
    return TensorCores((kind,)) if kind in KINDS else model(kind)


def refusal(D: int, name: str = "portable", dtype: str = "float32", device: str = "H200"):
    found = evaluate_model(model(name), task(D, dtype=dtype), Device.named(device), "forward")
    assert isinstance(found, Refusal)
    return found


# -- the largest head ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "device", "given", "forward", "backward"),
    [
        ("portable", "H200", {}, 168, 168),
        ("portable", "T4", {"dtype": "float32"}, 60, 63),
        ("tensor", "H200", {}, 192, 192),
        ("cluster", "H200", {}, 768, 768),
        ("cluster", "H200", {"cell": "gru"}, 768, 768),
        ("grid", "H200", {}, 2112, 2048),
        ("grid", "A100", {}, 1728, 1680),
        ("grid", "L40S", {}, 1536, 1536),
        ("grid", "H200", {"dtype": "float32", "precision": "tf32"}, 1248, 0),
    ],
)
def test_the_largest_head_and_none_above_it(kind, device, given, forward, backward):
    """Sizes above it are tried without the bounds by which `head_dims` leaves most of them out."""
    limits = Device.named(device)
    for direction, expected in zip(DIRECTIONS, (forward, backward), strict=True):
        t, m = task(**given), alone(kind)
        assert largest_head(m, t, limits, direction) == expected
        if expected:
            assert isinstance(
                evaluate_model(m, replace(t, D=expected), limits, direction), Candidate
            )
        above = range(expected + 1, expected + 18) if kind != "grid" else ()
        for D in (*above, *range(expected // 16 * 16 + 16, expected + 400, 48)):
            got = evaluate_model(m, replace(t, D=D), limits, direction)
            assert isinstance(got, Refusal), (direction, D)


@pytest.mark.parametrize("device", ["H200", "L40S"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_fits_is_what_the_choice_finds(device, direction):
    """Also where sizes that fit and others alternate."""
    limits, both = Device.named(device), set()
    for kind in (*KINDS, "portable"):
        for D in (40, 100, 150, 193, 500, 760, 1000, 1296, 1328, 1376, 1424, 2100, 2352):
            t, m = task(D), alone(kind)
            found = isinstance(evaluate_model(m, t, limits, direction), Candidate)
            assert fits(m, t, limits, direction) == found, (kind, D)
            both.add(found)
    assert both == {True, False}


@pytest.mark.parametrize("name", ["H200", "A100", "RTX 4090", "B200"])
def test_what_a_bound_leaves_out_has_no_tiling(name):
    """The bounds decide which statements are looked at: they must not leave out one too many."""
    device, left_out = Device.named(name), 0
    for cell in map(get_cell, ("elman", "lstm", "slstm")):
        for D in (144, 250, 384, 1024, 1400, 1800, 3100):
            for spread in tensor.ways(D, device):
                if not tensor.could_hold(cell, D, 2, spread, device):
                    left_out += 1
                    s = tensor.statement(cell, 16, 1, D, device, spread)
                    assert not s.best(1), (cell.name, D, spread)
            for spread in tensor_backward.spreads(D, device):
                if not tensor_backward.could_hold(cell, 2, spread, D, device):
                    left_out += 1
                    s = tensor_backward.statement(cell, 16, 1, D, device, spread, 1)
                    assert not s.best(1), (cell.name, D, spread)
    assert left_out > 50


# -- why, and what would fit ---------------------------------------------------------------------


def test_the_conflict_names_real_constraints():
    found = refusal(768)
    problem = found._closest.problem
    names = found.conflict()
    assert names
    assert set(names) <= {r.name for r in problem.constraints}
    assert "shared memory of a block" in names
    (line,) = found.shortfalls()
    assert line.startswith("shared memory of a block: at least ")
    assert line.endswith("bytes, limit 232 448")
    # R alone: 4 gates of 768 x 768 float32
    least = int("".join(c for c in line.split("bytes")[0] if c.isdigit()))
    assert least > 4 * 768 * 768 * 4


def test_one_limit_that_is_missed_by_itself_is_the_conflict():
    """Of 2048 units no thread count has enough registers either; that says less."""
    assert refusal(2048).conflict() == ["shared memory of a block"]


def test_remedies_really_fit():
    found = refusal(768)
    remedies = found.remedies()
    of, portable = found.setting.task, model("portable")
    largest = largest_head(portable, of, H200, "forward")
    assert remedies[0] == f"a head dimension of {largest} (the largest)"

    def holds(D: int) -> bool:
        return fits(portable, replace(of, D=D), H200, "forward")

    assert holds(largest)
    assert not holds(largest + 1)
    heads, dim = (int(remedies[1].split()[i]) for i in (0, 3))
    assert heads * dim == 768
    assert holds(dim)


def test_a_smaller_dtype_is_offered_where_it_helps():
    found = refusal(144, dtype="float64")
    assert any(line.startswith("dtype ") for line in found.remedies())


def test_a_refusal_speaks_of_the_tiling_and_not_of_variables():
    text = plan_task(task(5000), Device.named("L40S")).explain(0)
    assert "no tiling, even with 105 CTAs a head and batch tile; " in text
    assert "CTAs a head and batch tile and a batch tile of 1 row; " in text
    assert "a head dimension of 1536 (the largest), or " in text
    for jargon in ("size 2", "ragged", "older", "grid 1"):
        assert jargon not in text
