"""Which conflict is named where there are several: few constraints, plain ones, always the same."""

from __future__ import annotations

import pytest

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.tuning import Device, Problem
from flashrnn_numba.tuning.candidates import Refusal, evaluate_model
from flashrnn_numba.tuning.models.common import DIRECTIONS
from flashrnn_numba.tuning.models.registry import model


def crowded() -> Problem:
    """No tile fits the memory; nor do the alternatives leave one to the threads."""
    p = Problem()
    tile, threads = p.variable("tile", range(8, 65, 8)), p.variable("threads", [32, 64, 128])
    for n in (32, 64, 128):
        p.require((threads != n) | (tile * 32 * n <= 4096), name=f"registers at {n}")
    p.require(tile >= 8 * (threads // 32), name="a tile a warp")
    p.require(tile * tile * tile >= 4096 * threads, name="work")
    p.require(tile % 16 == 0, name="fragments")
    return p


def test_what_cannot_hold_alone_is_named_alone():
    p = crowded()
    assert len(p.conflict()) > 1
    tile = p.variables[0]
    p.require(tile * 5000 <= 9000, name="shared memory")
    assert p.conflict() == ["shared memory"]
    p.require(tile * 9 >= 10**4, name="another")
    assert p.conflict() == ["shared memory"]  # the first of them
    assert p.stats.nodes < 100


def test_a_plain_constraint_is_named_before_an_alternative():
    p = Problem()
    a = p.variable("a", range(10))
    p.require((a > 20) | (a < 0), name="either")
    p.require(a > 30, name="plain")
    assert p.conflict() == ["plain"]


def test_plain_constraints_are_kept_rather_than_alternatives():
    p = Problem()
    a, b = p.variable("a", range(100)), p.variable("b", range(100))
    p.require(a + b >= 50, name="enough")
    p.require(a * 2 + b * 2 <= 90, name="memory")
    p.require((a <= 3) | (a == 7), name="few")
    p.require(((b <= 3) | (b == 7)) & (b != 50), name="few b")
    assert p.conflict() == ["enough", "memory"]


def test_the_same_conflict_every_time():
    assert crowded().conflict() == crowded().conflict()


def test_a_power_that_only_other_constraints_bound_stays():
    """x ** 5000 cannot be computed for all x, so what bounds x is not known to be dispensable."""
    p = Problem()
    x, y = p.variable("x", range(10**4)), p.variable("y", range(2, 9))
    p.require(x <= 3, name="small")
    p.require(x**5000 == y, name="power")
    p.require(y <= 100, name="idle")
    assert p.conflict() == ["small", "power"]


@pytest.mark.parametrize("D", [2048, 5000])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_head_too_large_for_shared_memory(D, direction):
    """Seven alternatives "registers a thread at 32 ... 1024 threads" were named instead."""
    task = Task(get_cell("lstm"), 16, 1024, 1, D, "bfloat16", "cupy")
    found = evaluate_model(model("portable"), task, Device.named("H200"), direction)
    assert isinstance(found, Refusal)
    assert found.conflict() == ["shared memory of a block"]
