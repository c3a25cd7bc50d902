"""The time loops on the CPU: one thread's share of a sequence, forward and backward.

The units of a head are cut into chunks. A thread owns some (head, chunk) pairs for all time steps:
their part of R (packed, it stays in that core's cache), their states and their outputs. Threads
that share a head meet at a barrier once a step; what they exchange (s_0 forward, gate gradients
backward) alternates between two buffers, so that one barrier is enough.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import njit

from .cpu_pointwise import W
from .cpu_product import product
from .cpu_storage import add_row, copy_row, round_row, widen

_compile = njit(fastmath={"contract"}, error_model="numpy", nogil=True, cache=True)


class Sizes(NamedTuple):
    """What the loops need to know of a task and its cut into chunks."""

    T: int
    H: int
    D: int
    gates: int
    states: int
    recurrent: int  # gates that take s_0
    chunk: int  # units of a (head, chunk) pair
    chunks: int  # of a head
    per_panel: int  # gates in a panel of W columns
    panels: int  # of a chunk
    K: int  # rows of a panel: D, or backward recurrent * D, rounded up to a multiple of 4
    padded: int  # D rounded up to whole chunks


class Share(NamedTuple):
    """What one thread works on: rows of the batch, and (head, chunk) pairs."""

    first_row: int
    rows: int
    first_pair: int
    last_pair: int
    barrier: int  # address, 0 where no head is shared


@_compile
def pack_forward(z, begin, end, R, at, sg, sh, sn, sp, packed):
    """packed[pair, panel, k, (gate, unit)] = R[gate, head, unit, k] for pairs begin to end."""
    for pair in range(begin, end):
        h, d0 = pair // z.chunks, pair % z.chunks * z.chunk
        n = min(z.chunk, z.D - d0)
        for r in range(z.recurrent):
            to = (pair * z.panels + r // z.per_panel) * z.K * W + r % z.per_panel * z.chunk
            for j in range(n):
                start = at + r * sg + h * sh + (d0 + j) * sn
                for k in range(z.D):
                    packed[to + k * W + j] = widen(R[start + k * sp])


@_compile
def pack_backward(z, begin, end, R, at, sg, sh, sn, sp, packed):
    """packed[pair, (gate, new unit), previous unit] = R[gate, head, new unit, previous unit]."""
    for pair in range(begin, end):
        h, d0 = pair // z.chunks, pair % z.chunks * z.chunk
        n = min(z.chunk, z.D - d0)
        for r in range(z.recurrent):
            for u in range(z.D):
                to = (pair * z.K + r * z.D + u) * W
                start = at + r * sg + h * sh + u * sn + d0 * sp
                for j in range(n):
                    packed[to + j] = widen(R[start + j * sp])


@_compile
def forward_share(
    z, share, step, meet, w, acc, from_x, from_R, Wx, at, sb, st, sg, sh, sd, bias, packed,
    first, reset, lengths, x, s, states, exact, gates,
):  # fmt: skip
    """All steps of one share. Shapes (flat arrays; B rows in all, `rows` in the share):

    Wx, states [S, B, T, H, D] in the task's dtype; bias [G, H, padded]; packed: pack_forward;
    first [S, B, H, padded]; x [2, H, rows, K]; s [S, H, rows, padded]; exact: states in compute
    precision, or empty; gates [B, T, G, H, D] pre-activations, or empty.
    """
    rows, chunk = share.rows, z.chunk
    B = lengths.size
    together = max(1, W // chunk)
    for t in range(z.T):
        now, after = t & 1, 1 - (t & 1)
        for pair in range(share.first_pair, share.last_pair):
            h, d0 = pair // z.chunks, pair % z.chunks * chunk
            n = min(chunk, z.D - d0)
            acc[: z.panels * rows * W] = 0
            for p in range(z.panels):
                columns = min(z.per_panel, z.recurrent - p * z.per_panel) * chunk
                product(
                    acc, p * rows * W, x, (now * z.H + h) * rows * z.K, z.K,
                    packed, (pair * z.panels + p) * z.K * W, z.K, columns, rows,
                )  # fmt: skip
            for row in range(0, rows, together):
                m = min(together, rows - row)
                for i in range(m):
                    b = share.first_row + row + i
                    for q in range(z.gates):
                        w_at = q * W + i * chunk
                        copy_row(w, w_at, bias, (q * z.H + h) * z.padded + d0, n)
                        if from_x[q] >= 0:
                            start = at + b * sb + t * st + from_x[q] * sg + h * sh + d0 * sd
                            add_row(w, w_at, Wx, start, sd, n)
                        r = from_R[q]
                        if r >= 0:
                            start = (r // z.per_panel * rows + row + i) * W
                            add_row(w, w_at, acc, start + r % z.per_panel * chunk, 1, n)
                        if gates.size:
                            to = (((b * z.T + t) * z.gates + q) * z.H + h) * z.D + d0
                            copy_row(gates, to, w, w_at, n)
                    for k in range(z.states):
                        start = ((k * z.H + h) * rows + row + i) * z.padded + d0
                        copy_row(w, (z.gates + k) * W + i * chunk, s, start, n)
                step(w, m * chunk)
                for i in range(m):
                    b = share.first_row + row + i
                    alive = t < lengths[b]
                    restart = t + 1 < lengths[b] and reset[b * z.T + t + 1]
                    for k in range(z.states):
                        s_at = ((k * z.H + h) * rows + row + i) * z.padded + d0
                        if alive:
                            start = (z.gates + z.states + k) * W + i * chunk
                            copy_row(s, s_at, w, start, n)
                            if k == 0:
                                round_row(s, s_at, states, n)
                        to = (((k * B + b) * z.T + t) * z.H + h) * z.D + d0
                        copy_row(states, to, s, s_at, n)
                        if exact.size:
                            copy_row(exact, to, s, s_at, n)
                        if restart:
                            copy_row(s, s_at, first, ((k * B + b) * z.H + h) * z.padded + d0, n)
                    s_at = (h * rows + row + i) * z.padded + d0
                    copy_row(x, ((after * z.H + h) * rows + row + i) * z.K + d0, s, s_at, n)
        if share.barrier:
            meet(share.barrier)


@_compile
def backward_share(
    z, share, step, meet, w, acc, from_R, packed, first, reset, lengths, clip, exact, gates,
    dstates, at, ss, sb, st, sh, sd, x, ds, dfirst, dgates, previous,
):  # fmt: skip
    """All steps of one share, last to first. Shapes as in forward_share, and:

    packed: pack_backward; dstates [S, B, T, H, D] in the task's dtype, or empty; x [2, H, rows, K];
    ds [S, H, rows, padded]: in: gradient of the last states, out: of the first step's previous
    ones; dfirst [S, B, H, padded]: what resets send to the initial states; dgates [B, T, G, H, D];
    previous [B, T, H, D]: s_0 before each step. clip: 0 for none.
    """
    rows, chunk = share.rows, z.chunk
    B = lengths.size
    together = max(1, W // chunk)
    cotangent, out = z.gates + z.states, z.gates + 2 * z.states
    for t in range(z.T - 1, -1, -1):
        now = t & 1
        for pair in range(share.first_pair, share.last_pair):
            h, d0 = pair // z.chunks, pair % z.chunks * chunk
            n = min(chunk, z.D - d0)
            for row in range(0, rows, together):
                m = min(together, rows - row)
                for i in range(m):
                    b = share.first_row + row + i
                    for q in range(z.gates):
                        start = (((b * z.T + t) * z.gates + q) * z.H + h) * z.D + d0
                        copy_row(w, q * W + i * chunk, gates, start, n)
                    restarted = t == 0 or (reset[b * z.T + t] and t < lengths[b])
                    for k in range(z.states):
                        w_at = (z.gates + k) * W + i * chunk
                        if restarted:
                            copy_row(w, w_at, first, ((k * B + b) * z.H + h) * z.padded + d0, n)
                        else:
                            start = (((k * B + b) * z.T + t - 1) * z.H + h) * z.D + d0
                            copy_row(w, w_at, exact, start, n)
                        s_at = ((k * z.H + h) * rows + row + i) * z.padded + d0
                        w_at = (cotangent + k) * W + i * chunk
                        copy_row(w, w_at, ds, s_at, n)
                        if dstates.size > 1:
                            start = at + k * ss + b * sb + t * st + h * sh + d0 * sd
                            add_row(w, w_at, dstates, start, sd, n)
                    to = ((b * z.T + t) * z.H + h) * z.D + d0
                    copy_row(previous, to, w, z.gates * W + i * chunk, n)
                step(w, m * chunk)
                for i in range(m):
                    b = share.first_row + row + i
                    alive = t < lengths[b]
                    if not alive:  # the state was kept: its gradient passes, the gates get none
                        for q in range(z.gates):
                            w[(out + q) * W + i * chunk : (out + q) * W + i * chunk + n] = 0
                    for q in range(z.gates):
                        w_at = (out + q) * W + i * chunk
                        to = (((b * z.T + t) * z.gates + q) * z.H + h) * z.D + d0
                        copy_row(dgates, to, w, w_at, n)
                        if from_R[q] >= 0:
                            to = ((now * z.H + h) * rows + row + i) * z.K + from_R[q] * z.D + d0
                            copy_row(x, to, w, w_at, n)
                    base = out + z.gates if alive else cotangent
                    for k in range(z.states):
                        s_at = ((k * z.H + h) * rows + row + i) * z.padded + d0
                        copy_row(ds, s_at, w, (base + k) * W + i * chunk, n)
        if share.barrier:
            meet(share.barrier)
        for pair in range(share.first_pair, share.last_pair):
            h, d0 = pair // z.chunks, pair % z.chunks * chunk
            n = min(chunk, z.D - d0)
            acc[: rows * W] = 0
            product(
                acc, 0, x, (now * z.H + h) * rows * z.K, z.K,
                packed, pair * z.K * W, z.K, chunk, rows,
            )  # fmt: skip
            for row in range(rows):
                b = share.first_row + row
                if t >= lengths[b]:
                    continue
                s_at = (h * rows + row) * z.padded + d0
                add_row(ds, s_at, acc, row * W, 1, n)
                if clip > 0:
                    for j in range(s_at, s_at + n):
                        ds[j] = min(max(ds[j], -clip), clip)
                if reset[b * z.T + t]:
                    for k in range(z.states):
                        s_at = ((k * z.H + h) * rows + row) * z.padded + d0
                        add_row(dfirst, ((k * B + b) * z.H + h) * z.padded + d0, ds, s_at, 1, n)
                        ds[s_at : s_at + n] = 0
