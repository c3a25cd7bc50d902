"""The CPU backend: shares the work out to threads and runs the compiled time loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..arrays import compute_dtype
from . import cpu_steps, cpu_threads
from .cpu_pointwise import W, compiled, rows
from .cpu_steps import Share, Sizes
from .cpu_storage import flat, writable
from .interface import Gradients, Inputs, Task

name = "cpu"


class Kept(NamedTuple):
    """What backward needs: pre-activations [B, T, G, H, D] and states in compute precision."""

    gates: np.ndarray
    states: np.ndarray


def refuses(task: Task) -> str | None:
    if task.kind != "numpy":
        return f"it takes NumPy arrays, got {task.kind}"
    return None


def forward(task: Task, inputs: Inputs, keep: bool = False) -> tuple[Any, Any, Kept | None]:
    cell, real = task.cell, compute_dtype(task.dtype)
    z = _sizes(task, backward=False)
    first = _first(task, inputs, z)
    shape = (z.states, task.B, task.T, task.H, task.D)
    states = np.empty(shape, inputs.Wx.dtype)
    exact = np.empty(shape if keep and states.dtype != real else (0,), real)
    gates = np.empty((task.B, task.T, z.gates, task.H, task.D) if keep else (0,), real)
    bias = np.zeros((z.gates, task.H, z.padded), real)
    bias[list(cell.bias_gates), :, : task.D] = inputs.b
    Wx, at, strides = flat(inputs.Wx, task.dtype)
    reset, lengths = _flags(task, inputs)
    function = compiled(cell, "forward", real.name)
    common = [_index(cell.input_gates, z), _index(cell.recurrent_gates, z), Wx, at, *strides]
    common.append(bias.ravel())
    packed = _Packed(z, inputs.R, task, cpu_steps.pack_forward)

    def job(share: Share, progress: np.ndarray, x: np.ndarray) -> Job:
        return Job(
            cpu_steps.forward_share,
            (
                z, share, function, progress, cpu_threads.give_way,
                _strips(z, share, rows(cell, "forward"), real),
                _aligned(z.panels * share.rows * W, real), *common, packed.array,
                first.ravel(), reset, lengths, x.ravel(), flat(states, task.dtype)[0],
                exact.ravel(), gates.ravel(),
            ),
            packed,
        )  # fmt: skip

    jobs = []
    teams = _teams(task, z)
    for team in teams:
        row0, count = team.shares[0].first_row, team.shares[0].rows
        x = np.zeros((2, task.H, count, z.K), real)
        x[0] = first[0, row0 : row0 + count, :, : task.D].transpose(1, 0, 2)
        jobs += [job(share, team.progress, x) for share in team.shares]
    if states.size:
        _run(jobs)
    if task.T:
        last = states[:, :, -1:].copy()
    else:
        last = first[:, :, None, :, : task.D].astype(states.dtype)
    if not keep:
        return states, last, None
    if not exact.size:
        # backward reads the very array that the caller gets: a change to it would go unseen
        states.flags.writeable = False
        exact = states
    return states, last, Kept(gates, exact)


def backward(task: Task, inputs: Inputs, kept: Kept, dstates: Any, dlast: Any = None) -> Gradients:
    cell, real, dtype = task.cell, compute_dtype(task.dtype), inputs.Wx.dtype
    z = _sizes(task, backward=True)
    first = _first(task, inputs, z)
    dgates = np.empty((task.B, task.T, z.gates, task.H, task.D), real)
    previous = np.empty((task.B, task.T, task.H, task.D), real)
    ds = np.zeros((z.states, task.B, task.H, z.padded), real)
    if dlast is not None:
        ds[..., : task.D] = dlast[:, :, 0]
    dfirst = np.zeros_like(ds)
    no_strides: tuple[int, ...] = (0,) * 5
    given, at, strides = np.empty(0, flat(inputs.Wx, task.dtype)[0].dtype), 0, no_strides
    if dstates is not None and dstates.size:
        given, at, strides = flat(dstates, task.dtype)
        if given.size == 1:  # the loops take an array of at most one number for none
            given = np.concatenate([given, given])
    reset, lengths = _flags(task, inputs)
    function = compiled(cell, "vjp", real.name)
    packed = _Packed(z, inputs.R, task, cpu_steps.pack_backward)

    def job(share: Share, progress: np.ndarray) -> Job:
        return Job(
            cpu_steps.backward_share,
            (
                z, share, function, progress, cpu_threads.give_way,
                _strips(z, share, rows(cell, "vjp"), real),
                _aligned(share.rows * W, real), _index(cell.recurrent_gates, z), packed.array,
                first.ravel(), reset, lengths, real.type(task.clip or 0),
                writable(kept.states, real), kept.gates.ravel(), given, at, *strides, ds.ravel(),
                dfirst.ravel(), dgates.ravel(), previous.ravel(),
            ),
            packed,
        )  # fmt: skip

    teams = _teams(task, z)
    if dgates.size:
        _run([job(share, team.progress) for team in teams for share in team.shares])
    dfirst = (dfirst + ds)[:, :, None, :, : task.D].astype(dtype)
    return Gradients(
        _take(dgates, cell.input_gates, axis=2).astype(dtype, copy=False),
        _recurrent_gradient(task, dgates, previous).astype(dtype, copy=False),
        _bias_gradient(task, dgates).astype(dtype, copy=False),
        None if inputs.states is None else dfirst,
    )


def _recurrent_gradient(task: Task, dgates: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """dR[g, h] = sum over rows and steps of dgate_g s_0^T: one product for each gate and head."""
    d = dgates.reshape(-1, *dgates.shape[2:])  # [BT, G, H, D]
    d = _take(d, task.cell.recurrent_gates, axis=1)
    p = previous.reshape(-1, task.H, task.D)
    return np.matmul(d.transpose(1, 2, 3, 0), p.transpose(1, 0, 2))


def _bias_gradient(task: Task, dgates: np.ndarray) -> np.ndarray:
    flat_gates = dgates.reshape(task.B * task.T, math.prod(dgates.shape[2:]))
    # as a product: BLAS is several times faster than numpy.sum over the first axis
    total = np.ones(len(flat_gates), dgates.dtype) @ flat_gates
    total = total.reshape(dgates.shape[2:])
    return _take(total, task.cell.bias_gates, axis=0)


def _take(array: np.ndarray, indices: tuple[int, ...], axis: int) -> np.ndarray:
    if indices == tuple(range(array.shape[axis])):
        return array
    return np.take(array, indices, axis)


class _Packed:
    """R in panels for the product, packed by each thread for its own share."""

    def __init__(self, z: Sizes, R: np.ndarray, task: Task, pack: Callable) -> None:
        self.array = _aligned(z.H * z.chunks * z.panels * z.K * W, compute_dtype(task.dtype))
        array, at, strides = flat(R, task.dtype)
        self._arguments = (array, at, *strides, self.array)
        self._pack = pack

    def pack(self, z: Sizes, share: Share) -> None:
        # teams of other batch rows pack the same numbers into the same place
        self._pack(z, share.first_pair, share.last_pair, *self._arguments)


class Job(NamedTuple):
    """A time loop with its arguments (Sizes and Share first), to run in a thread of its own."""

    loop: Callable[..., None]
    arguments: tuple
    packed: _Packed

    def prepare(self) -> None:
        z, share, *rest = self.arguments
        self.packed.pack(z, share._replace(last_pair=share.first_pair))
        self.loop(z._replace(T=0), share, *rest)

    def run(self) -> None:
        self.packed.pack(*self.arguments[:2])
        self.loop(*self.arguments)


def _run(jobs: list[Job]) -> None:
    # an error in one thread would leave the others waiting: compile before they start
    jobs[0].prepare()
    cpu_threads.run([job.run for job in jobs])


def _sizes(task: Task, backward: bool) -> Sizes:
    """How heads are cut into chunks: forward, all gates of a chunk share panels of W columns."""
    recurrent = len(task.cell.recurrent_gates)
    widest = 128 if backward else max(16, W // max(1, recurrent) // 16 * 16)
    threads = cpu_threads.thread_count()
    # so many chunks that every thread gets one, as long as they are not too narrow
    chunks = -(-task.D // widest)
    chunks = max(chunks, min(-(-threads // task.H), task.D // 64))
    chunk = -(-task.D // (16 * chunks)) * 16
    per_panel = 1 if backward else W // chunk
    depth = recurrent * task.D if backward else task.D
    return Sizes(
        T=task.T,
        H=task.H,
        D=task.D,
        gates=len(task.cell.gates),
        states=len(task.cell.states),
        recurrent=recurrent,
        chunk=chunk,
        chunks=-(-task.D // chunk),
        per_panel=per_panel,
        panels=1 if backward else -(-recurrent // per_panel),
        K=depth,
        padded=-(-task.D // chunk) * chunk,
    )


class Team(NamedTuple):
    """Shares of the same batch rows, and where their threads tell how far they are."""

    shares: list[Share]
    progress: np.ndarray


def _teams(task: Task, z: Sizes) -> list[Team]:
    """Threads to work: teams of batch rows; in a team, (head, chunk) pairs in equal shares."""
    threads, pairs = cpu_threads.thread_count(), z.H * z.chunks
    # a pair's share of the work is small where the matrix is: not worth a thread
    threads = min(threads, max(1, task.B * task.T * z.H * z.D * (z.D + 64) // 100_000))
    per_team = threads
    if not cpu_threads.CAN_MEET:
        per_team = max(p for p in range(1, threads + 1) if z.H % p == 0)
    per_team = min(per_team, pairs)
    teams = max(1, min(threads // per_team, task.B // 4))
    bounds = [task.B * i // teams for i in range(teams + 1)]
    cuts = [pairs * i // per_team for i in range(per_team + 1)]
    shared = any(cut % z.chunks for cut in cuts)
    result = []
    for row, end in pairwise(bounds):
        shares = [
            Share(row, end - row, begin, stop, me, per_team if shared else 1)
            for me, (begin, stop) in enumerate(pairwise(cuts))
        ]
        result.append(Team(shares, np.zeros(per_team * cpu_threads.LINE, np.int64)))
    return result


def _strips(z: Sizes, share: Share, rows_of_strip: int, real: np.dtype) -> np.ndarray:
    """One strip for each (head, chunk) pair and group of batch rows that a call works on."""
    groups = -(-share.rows // max(1, W // z.chunk))
    pairs = share.last_pair - share.first_pair
    return _aligned(pairs * groups * rows_of_strip * W, real)


def _aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """Zeros that start on a cache line: a vector that lies across two costs twice."""
    line = 64 // dtype.itemsize
    array = np.zeros(size + line, dtype)
    start = -(array.ctypes.data // dtype.itemsize) % line
    return array[start : start + max(1, size)]


def _first(task: Task, inputs: Inputs, z: Sizes) -> np.ndarray:
    """Initial states [S, B, H, padded] in compute precision."""
    first = np.zeros((z.states, task.B, task.H, z.padded), compute_dtype(task.dtype))
    if inputs.states is not None:
        first[..., : task.D] = inputs.states[:, :, 0]
    else:
        initial = np.array(list(task.cell.initial.values()))
        # the first state feeds R, which has the dtype of the arrays
        initial[0] = initial[:1].astype(inputs.Wx.dtype)[0]
        first[..., : task.D] = initial[:, None, None, None]
    return first


def _flags(task: Task, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    if inputs.reset is None:
        reset = np.zeros(task.B * task.T, np.bool_)
    else:
        reset = writable(inputs.reset, np.bool_)
    lengths = np.full(task.B, task.T) if inputs.lengths is None else inputs.lengths
    return reset, writable(lengths, np.int64)


def _index(gates: tuple[int, ...], z: Sizes) -> np.ndarray:
    """For each gate its place on the axis of Wx or R, or -1."""
    index = np.full(z.gates, -1)
    index[list(gates)] = np.arange(len(gates))
    return index
