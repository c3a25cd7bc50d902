"""One case of the speed benchmark: prepare every implementation, check, time them in turn."""

from __future__ import annotations

import os
import random
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from threading import BrokenBarrierError
from typing import TYPE_CHECKING, Any

from flashrnn_numba.cells import get_cell

if TYPE_CHECKING:
    from .peers import Runs

# a peer further than this from the oracle is not timed; FlashRNN's own tests accept 0.2 and more
WRONG, WRONG_GRADIENT = 0.05, 0.2
PATIENCE = 300.0  # seconds in which all cases should be prepared


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
    """Arrays on the GPU and, for each implementation that agrees with the oracle, what to run.

    checking -- held while an oracle, which takes memory, is in work.
    """

    def __init__(self, case: Case, checking: AbstractContextManager[Any]) -> None:
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
        ours = self._ours(cell)
        peers = {name: runs for name in case.peers if (runs := self._peer(name))}
        with checking:
            self._check(cell, ours, peers)
            _give_back_memory()

    def _ours(self, cell: Any) -> dict[str, dict[str, Any]]:
        """The results of both calls that are timed."""
        import cupy

        import flashrnn_numba as fr

        case, arguments = self.case, (self.Wx, self.R, self.b)
        options = {"function": cell, "backend": case.backend}
        begin = time.perf_counter()
        states, _, vjp = fr.flashrnn_vjp(*arguments, **options)
        dstates = cupy.zeros_like(states)
        dstates[0] = 1
        d = vjp(dstates)
        alone, _ = fr.flashrnn(*arguments, **options)
        cupy.cuda.Device().synchronize()
        self.facts["ours"] = {"first_use_seconds": round(time.perf_counter() - begin, 2)}
        self.functions["ours", "forward"] = lambda: fr.flashrnn(*arguments, **options)
        self.functions["ours", "forward+backward"] = lambda: fr.flashrnn_vjp(*arguments, **options)[
            2
        ](dstates)
        both = {"h": states[0], "Wx": d.Wx, "R": d.R, "b": d.b}
        return {"forward": {"h": alone[0]}, "forward+backward": both}

    def _peer(self, peer: str) -> Runs | None:
        """Made, and both its calls run once; None, and a note, where that fails."""
        import torch

        from .peers import PEERS

        begin = time.perf_counter()
        try:
            given = (_to_torch(a) for a in (self.Wx, self.R, self.b))
            runs = PEERS[peer](self.case.cell, *given)
            runs.forward()
            runs.both()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        except Exception as problem:
            self._not_timed(peer, problem)
            return None
        self.facts[peer] = {
            "first_use_seconds": round(time.perf_counter() - begin, 2),
            "includes_input_product": runs.includes_input_product,
        }
        return runs

    def _not_timed(self, peer: str, problem: Exception) -> None:
        self.notes.append(f"{self.case.name}: {peer} not timed: {problem!r}"[:400])
        self.notes.append(traceback.format_exc(limit=-3)[-600:])

    def _check(self, cell: Any, ours: dict[str, dict[str, Any]], peers: dict[str, Runs]) -> None:
        """AssertionError where ours is wrong; a wrong peer is not timed."""
        import cupy

        from flashrnn_numba.testing import tolerance

        from . import gpu_oracle

        case = self.case
        dh = cupy.ones(ours["forward"]["h"].shape, "int8")  # of h.sum()
        problem = gpu_oracle.Problem(self.Wx, self.R, self.b, dh)
        alike = {name: runs for name, runs in peers.items() if runs.problem is None}
        found = ours | {name: _results(runs) for name, runs in alike.items()}
        errors = gpu_oracle.errors(cell, problem, found)
        limit = tolerance(case.dtype, case.steps, case.head_dim, case.batch)
        wrong = {
            f"{direction}, {what}": error
            for direction in ours
            for what, error in errors[direction].items()
            if not error <= limit
        }
        if wrong:
            raise AssertionError(f"{case.name}: nothing is timed, errors {wrong} above {limit:.1e}")
        both = errors["forward+backward"]
        self.facts["ours"] |= {
            "relative_error": max(both["h"], errors["forward"]["h"]),
            "gradient_error": max(both["Wx"], both["R"], both["b"]),
        }
        for name, runs in peers.items():
            try:
                self._check_peer(name, runs, errors.get(name) or _errors_apart(cell, runs))
            except Exception as problem:
                self._not_timed(name, problem)

    def _check_peer(self, name: str, runs: Runs, errors: dict[str, float]) -> None:
        gradient = max(error for what, error in errors.items() if what != "h")
        self.facts[name] |= {"relative_error": errors["h"], "gradient_error": gradient}
        if not (errors["h"] <= WRONG and gradient <= WRONG_GRADIENT):
            raise AssertionError(f"it is wrong: errors {errors}")
        self.functions[name, "forward"] = runs.forward
        self.functions[name, "forward+backward"] = runs.both

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


def _results(runs: Runs) -> dict[str, Any]:
    """What a peer computes, as CuPy arrays."""
    return {"h": _to_cupy(runs.forward())} | {
        what: _to_cupy(array) for what, array in runs.results(runs.both()).items()
    }


def _errors_apart(cell: Any, runs: Runs) -> dict[str, float]:
    """Of a peer whose problem is its own."""
    import cupy

    from . import gpu_oracle

    assert runs.problem is not None
    found = _results(runs)
    dh = cupy.ones(found["h"].shape, "int8")
    problem = gpu_oracle.Problem(*(_to_cupy(a) for a in runs.problem()), dh)
    return gpu_oracle.errors(cell, problem, {"": found})[""]


def _give_back_memory() -> None:
    import cupy
    import torch

    cupy.get_default_memory_pool().free_all_blocks()
    torch.cuda.empty_cache()


def build(case: Case) -> None:
    """Compile what FlashRNN needs for a case, into its own cache. Its builds depend on the batch
    size, and not on T."""
    import torch

    from .peers import PEERS

    cell = get_cell(case.cell)
    H, D = case.heads, case.head_dim
    for peer in (name for name in case.peers if name.startswith("flashrnn")):
        shapes = (case.batch, 4, len(cell.input_gates), H, D), (len(cell.recurrent_gates), H, D, D)
        dtype = getattr(torch, case.dtype)
        given = [
            torch.zeros(shape, device="cuda", dtype=dtype)
            for shape in (*shapes, (len(cell.bias_gates), H, D))
        ]
        runs = PEERS[peer](case.cell, *given)
        runs.forward()
        runs.both()


def _to_torch(array: Any) -> Any:
    """The same memory; neither DLPack nor NumPy has a name for CuPy's bfloat16 that both read."""
    import torch

    bits = torch.from_dlpack(array.view(f"int{8 * array.itemsize}"))
    return bits.view(getattr(torch, array.dtype.name))


def _to_cupy(tensor: Any) -> Any:
    import cupy

    wide = tensor.double() if tensor.dtype.itemsize > 4 else tensor.float()
    return cupy.from_dlpack(wide.detach().contiguous())


def work(
    case: Case, prepared_all: Any, checking: Any, turn: Any, rounds: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Prepare beside the other cases (compilers take the time); when all are done, time it while
    nobody else does anything."""
    prepared, notes = None, []
    os.environ["FLASHRNN_NUMBA_COMPILE_AHEAD"] = "0"  # the other cases have the processors
    try:
        prepared = Prepared(case, checking)
    except Exception as problem:
        notes = [f"{case.name}: {problem!r}"[:500], traceback.format_exc(limit=-4)[-800:]]
    finally:
        with suppress(BrokenBarrierError):  # one has died: the others go on
            prepared_all.wait(PATIENCE)
    if prepared is None:
        return [], notes
    with turn:
        return prepared.time(rounds), prepared.notes
