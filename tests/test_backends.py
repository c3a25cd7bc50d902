"""Every backend that runs here against the oracle: any cell, dtype, size and memory layout."""

import os

import device_support
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flashrnn_numba as fr
from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.kernels import backends
from flashrnn_numba.testing import (
    check_problem,
    conditioning,
    kind_for,
    random_problem,
    strategies,
)
from flashrnn_numba.testing.problem import oracle_task

# The GPU backends alone. Each example compiles kernels, on one core: there are few, in parts that
# processes can share.
GPU = os.environ.get("HYPOTHESIS_PROFILE") == "gpu"


@pytest.fixture(scope="session", params=range(8))
def part():
    """Each has examples of its own."""


def examples(count, of_part):
    if not GPU:
        return settings(max_examples=count)
    few = settings(max_examples=of_part)
    return lambda test: pytest.mark.usefixtures("part")(few(test))


def usable(problem):
    """Names of the backends for this problem and the kinds of array that they take."""
    task = oracle_task(problem.cell, problem.inputs)
    kinds = {name: kind_for(name, task)[0] for name in backends.names()}
    wanted = ("cupy",) if GPU else ("numpy", "cupy")
    return {name: kind for name, kind in kinds.items() if kind in wanted}


def check_everywhere(problem):
    kinds = usable(problem)
    assert kinds, "no backend takes it here"
    for backend, kind in kinds.items():
        if kind == "cupy":
            device_support.poison()
        check_problem(problem, backend, kind)


@examples(250, of_part=4)
@given(strategies.problems())
def test_built_in_cells(problem):
    check_everywhere(problem)


@examples(12, of_part=4)
@given(strategies.problems(strategies.cells()))
def test_random_cells(problem):
    check_everywhere(problem)


@examples(50, of_part=2)
@given(
    strategies.problems(shapes=st.tuples(*map(st.integers, (1, 1, 1, 1), (40, 3, 3, 200)))),
    st.integers(1, 5),
)
def test_many_rows_and_wide_heads_on_several_threads(problem, threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHRNN_NUMBA_THREADS", str(threads))
        check_everywhere(problem)


EDGES = [15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 192, 256, 257][:: 3 if GPU else 1]


@pytest.mark.parametrize("D", EDGES)
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_head_dimensions_around_multiples_of_the_tile_sizes(name, D, monkeypatch):
    monkeypatch.setenv("FLASHRNN_NUMBA_THREADS", "3")
    for B in (1, 5):
        check_everywhere(random_problem(fr.get_cell(name), "float32", (B, 3, 2, D), reset=True))


@pytest.mark.parametrize("name", fr.list_cells())
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_sequences(name, dtype):
    shape = (3, 300, 2, 24)
    problem = random_problem(fr.get_cell(name), dtype, shape, reset=True, lengths=True)
    assert conditioning(problem) <= 1
    check_everywhere(problem)
