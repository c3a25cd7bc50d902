"""Numba's passes in less time: the same results as Numba's own."""

from __future__ import annotations

import random
import re
import threading
from dataclasses import replace

import pytest

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import fused, launch, narrow_product, tensor, tensor_backward
from flashrnn_numba.kernels.assemble import compile_ptx
from flashrnn_numba.kernels.launch import Program
from flashrnn_numba.kernels.numba_passes import (
    left_out,
    list_variables,
    live_map,
    quick_passes,
    use_defs,
)
from flashrnn_numba.kernels.tensor_layout import Tiling
from flashrnn_numba.tuning import Device


class Graph:
    """Blocks 0 to n - 1 with random edges, as Numba's CFGraph gives them."""

    def __init__(self, n: int, draw: random.Random) -> None:
        self.edges = {(i, i + 1) for i in range(n - 1)}
        self.edges |= {(draw.randrange(n), draw.randrange(n)) for _ in range(n // 2)}

    def successors(self, block):
        return [(b, None) for a, b in sorted(self.edges) if a == block]

    def predecessors(self, block):
        return [(a, None) for a, b in sorted(self.edges) if b == block]


@pytest.mark.parametrize("seed", range(40))
def test_what_is_alive(seed):
    analysis = pytest.importorskip("numba.cuda.core.analysis")
    draw = random.Random(seed)
    n = draw.randrange(1, 20)
    blocks = dict.fromkeys(range(n))
    used, defined = (
        {b: {f"v{draw.randrange(30)}" for _ in range(draw.randrange(6))} for b in blocks}
        for _ in range(2)
    )
    cfg = Graph(n, draw)
    assert live_map(cfg, blocks, used, defined) == analysis.compute_live_map(
        cfg, blocks, used, defined
    )


LOOPS = """
from numba import cuda


def loops(x, n):
    total = 0.0
    i = 0
    while i < n:
        if x[i] > total:
            total = x[i]
            last = i
        else:
            for k in range(3):
                total += k * x[i]
                if total > 100.0:
                    break
            last = 0
        i += 1
        total = total + last
    last = i
    x[0] = total + last
"""


def test_what_blocks_use_and_define():
    compiler = pytest.importorskip("numba.cuda.compiler")
    analysis = pytest.importorskip("numba.cuda.core.analysis")
    blocks = compiler.run_frontend(programs()["loops"].function()).blocks
    assert use_defs(blocks) == analysis.compute_use_defs(blocks)
    for block in blocks.values():
        for statement in block.body:
            assert list_variables(statement, vars(statement)) == statement.list_vars()


def programs() -> dict[str, Program]:
    lstm, device = get_cell("lstm"), Device.named("H200")
    return {
        "loops": Program("loops", LOOPS, ("float32*", "int64"), threads=32),
        "portable": fused.plan(get_cell("slstm"), "float32", 8, 1, "backward", device).program,
        "tensor cores": tensor.program(
            lstm, "bfloat16", 64, Tiling(1, 1, 1, 1, 255, 1), tensor.Variant(True, True, True, True)
        ),
        "through L2": tensor.program(
            lstm,
            "bfloat16",
            32,
            Tiling(2, 1, 2, 1, 255, 1, grid=True),
            tensor.Variant(False, False, True, True),
        ),
        "backward": tensor_backward.backward_program(
            get_cell("gru"), "float16", 32, tensor_backward.Tiling(2, 4, 1, each=1)
        ),
        "narrow product": narrow_product.program("bfloat16"),
    }


@pytest.mark.parametrize("name", programs())
def test_the_same_code_comes_out(name):
    program = programs()[name]

    def ptx(text: str, quick: bool) -> str:
        # Numba numbers and names what it compiles anew
        made = replace(program, text=program.text + f"\n# {text}")
        if quick:
            return launch.compile_to_ptx(made, (9, 0))
        bounds = (program.threads, 1)
        signature = launch.signature(made)
        return compile_ptx(made.function(), signature, (9, 0), launch_bounds=bounds)

    def plain(text: str) -> list[str]:
        entry = re.search(r"\.entry\s+([\w$]+)", text)[1]
        text = re.sub(r"_ZN08NumbaEnv[\w$]+", "environment", text.replace(entry, "entry"))
        return re.sub(r"_cudapy_smem_\d+", "shared", text).splitlines()

    assert plain(ptx("quick", True)) == plain(ptx("slow", False))


def test_numbas_passes_are_back_afterwards():
    analysis = pytest.importorskip("numba.cuda.core.analysis")
    function = pytest.importorskip("numba.core.types.functions").BaseFunction
    closures = pytest.importorskip("numba.cuda.core.untyped_passes").InlineClosureLikes
    before = analysis.compute_live_map, function.get_call_type, closures.run_pass
    with quick_passes():
        assert analysis.compute_live_map is live_map
        assert function.get_call_type is not before[1]
        assert closures.run_pass is not before[2]
    assert (analysis.compute_live_map, function.get_call_type, closures.run_pass) == before


def test_no_pass_is_left_out_in_other_threads():
    class Pass:
        def run_pass(self, state):
            return True

    run, found = left_out(Pass), []
    other = threading.Thread(target=lambda: found.append(run(Pass(), None)))
    other.start()
    other.join()
    assert found == [True]
    assert run(Pass(), None) is False
