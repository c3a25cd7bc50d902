"""One case of the speed benchmark: prepare every implementation, check, time them in turn."""

from __future__ import annotations

import os
import random
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WRONG = 0.05  # a peer further than this from the oracle is not timed


@dataclass(frozen=True)
class Case:
    """cell on `heads` heads of `head_dim`, a batch, T steps; `peers` by name (peers.PEERS)."""

    cell: str
    head_dim: int
    heads: int
    batch: int
    steps: int = 1024
    dtype: str = "bfloat16"
    backend: str = "auto"
    peers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        shape = f"{self.head_dim} x {self.heads}"
        return f"{self.cell} {shape} B {self.batch} T {self.steps} {self.dtype} {self.backend}"


class Prepared:
    """Arrays on the GPU and, for each implementation, what to run and its error."""

    def __init__(self, case: Case) -> None:
        import cupy
        import numpy as np

        import flashrnn_numba as fr
        from flashrnn_numba.arrays import DTYPES

        self.case = case
        cell = fr.get_cell(case.cell)
        rng = np.random.default_rng(0)
        B, T, H, D = case.batch, case.steps, case.heads, case.head_dim
        dtype = DTYPES[case.dtype]

        def normal(shape: Sequence[int], scale: float) -> Any:
            array = (rng.standard_normal(shape, dtype=np.float32) * scale).astype(dtype)
            return cupy.asarray(array)

        self.Wx = normal((B, T, len(cell.input_gates), H, D), 1)
        self.R = normal((len(cell.recurrent_gates), H, D, D), D**-0.5)
        self.b = normal((len(cell.bias_gates), H, D), 1)
        self.functions: dict[tuple[str, str], Callable[[], Any]] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self._ours(cell)
        for peer in case.peers:
            self._peer(peer)

    def _ours(self, cell: Any) -> None:
        import cupy

        import flashrnn_numba as fr
        from flashrnn_numba.testing import tolerance

        from . import gpu_oracle

        case, arguments = self.case, (self.Wx, self.R, self.b)
        options = {"function": cell, "backend": case.backend}
        begin = time.perf_counter()
        states, _, vjp = fr.flashrnn_vjp(*arguments, **options)
        dstates = cupy.zeros_like(states)
        dstates[0] = 1
        d = vjp(dstates)
        fr.flashrnn(*arguments, **options)
        cupy.cuda.Device().synchronize()
        first = time.perf_counter() - begin
        self.oracle = gpu_oracle.run(cell, *arguments, dstates[0])
        got = {"h": states[0], "Wx": d.Wx, "R": d.R, "b": d.b}
        errors = {n: gpu_oracle.relative_error(got[n], self.oracle[n]) for n in got}
        limit = tolerance(case.dtype, case.steps, case.head_dim, case.batch)
        wrong = {n: e for n, e in errors.items() if not e <= limit}
        if wrong:
            raise AssertionError(f"{case.name}: nothing is timed, errors {wrong} above {limit:.1e}")
        self.facts["ours"] = {
            "relative_error": errors["h"],
            "gradient_error": max(errors["Wx"], errors["R"], errors["b"]),
            "first_use_seconds": round(first, 2),
        }
        self.functions["ours", "forward"] = lambda: fr.flashrnn(*arguments, **options)
        self.functions["ours", "forward+backward"] = lambda: fr.flashrnn_vjp(*arguments, **options)[
            2
        ](dstates)

    def _peer(self, peer: str) -> None:
        import cupy
        import torch

        from . import gpu_oracle
        from .peers import PEERS

        def share(array: Any) -> Any:
            bits = torch.from_dlpack(array.view(f"int{8 * array.itemsize}"))
            return bits.view(getattr(torch, self.case.dtype))

        begin = time.perf_counter()
        try:
            runs = PEERS[peer](self.case.cell, share(self.Wx), share(self.R), share(self.b))
            runs.forward()
            runs.both()
            torch.cuda.synchronize()
            error = None
            if runs.h is not None:
                h = cupy.from_dlpack(runs.h().float().contiguous())
                error = gpu_oracle.relative_error(h, self.oracle["h"])
                if not error <= WRONG:
                    raise AssertionError(f"its h is off by {error:.1e}")
        except Exception as problem:
            self.notes.append(f"{self.case.name}: {peer} not timed: {problem!r}"[:400])
            self.notes.append(traceback.format_exc(limit=-3)[-600:])
            return
        self.facts[peer] = {
            "relative_error": error,
            "first_use_seconds": round(time.perf_counter() - begin, 2),
            "includes_input_product": runs.includes_input_product,
        }
        self.functions[peer, "forward"] = runs.forward
        self.functions[peer, "forward+backward"] = runs.both

    def time(self, rounds: int) -> list[dict[str, Any]]:
        """Each implementation once a round, in random order; one row for each and direction."""
        import cupy

        event = cupy.cuda.Event
        taken: dict[tuple[str, str], list[float]] = {key: [] for key in self.functions}
        for function in self.functions.values():
            function()
        order = random.Random(0)
        for _ in range(rounds):
            for key in order.sample(list(self.functions), len(self.functions)):
                function = self.functions[key]
                begin, end = event(), event()
                cupy.cuda.Device().synchronize()
                begin.record()
                function()
                end.record()
                end.synchronize()
                taken[key].append(cupy.cuda.get_elapsed_time(begin, end))
        case = self.case
        shared = {"cell": case.cell, "head_dim": case.head_dim, "heads": case.heads}
        shared |= {"batch": case.batch, "steps": case.steps, "dtype": case.dtype}
        return [
            shared
            | {"implementation": name, "direction": direction}
            | {"backend": case.backend if name == "ours" else None}
            | {"milliseconds": statistics.median(times), "low": min(times), "high": max(times)}
            | self.facts[name]
            for (name, direction), times in taken.items()
        ]


def work(
    case: Case, prepared_all: Any, turn: Any, rounds: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Prepare beside the other cases (compilers take the time); when all are done, time it while
    nobody else does anything."""
    prepared, notes = None, []
    os.environ["FLASHRNN_NUMBA_COMPILE_AHEAD"] = "0"  # the other cases have the processors
    try:
        prepared = Prepared(case)
    except Exception as problem:
        notes = [f"{case.name}: {problem!r}"[:500], traceback.format_exc(limit=-4)[-800:]]
    finally:
        prepared_all.wait()
    if prepared is None:
        return [], notes
    with turn:
        return prepared.time(rounds), prepared.notes
