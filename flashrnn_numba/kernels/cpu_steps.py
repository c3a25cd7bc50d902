"""The time loops on the CPU: one thread's share of a sequence, forward and backward.

The units of a head are cut into chunks. A thread owns some (head, chunk) pairs for all time steps:
their part of R (packed, it stays in that core's cache), their states and their outputs. Threads
that share a head meet at a barrier once a step: what they exchange (s_0 forward, gate gradients
backward) is written to one place while another is read.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import njit

from .cpu_pointwise import W
from .cpu_product import product
from .cpu_storage import add_row, copy_row, fill_row, round_row, sum_row, widen

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
    K: int  # rows of a panel: D, or backward recurrent * D
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
def _initial(z, share, strips, length, first, B):
    """Previous states of every strip from the initial states [S, B, H, padded]."""
    together = max(1, W // z.chunk)
    strip = 0
    for pair in range(share.first_pair, share.last_pair):
        h, d0 = pair // z.chunks, pair % z.chunks * z.chunk
        for row in range(0, share.rows, together):
            for i in range(min(together, share.rows - row)):
                b = share.first_row + row + i
                for k in range(z.states):
                    to = strip * length + (z.gates + k) * W + i * z.chunk
                    start = ((k * B + b) * z.H + h) * z.padded + d0
                    copy_row(strips, to, first, start, z.chunk)
            strip += 1


@_compile
def forward_share(
    z, share, step, meet, strips, acc, from_x, from_R, Wx, at, sb, st, sg, sh, sd, bias, packed,
    first, reset, lengths, x, states, exact, gates,
):  # fmt: skip
    """All steps of one share. Shapes (flat arrays; B rows in all, `rows` in the share):

    strips: one for each pair and group of rows; Wx, states [S, B, T, H, D] in the task's dtype;
    bias [G, H, padded]; packed: pack_forward; first [S, B, H, padded]; x [2, H, rows, K]: s_0;
    exact: states in compute precision, or empty; gates [B, T, G, H, D] pre-activations, or empty.
    """
    rows, chunk = share.rows, z.chunk
    B = lengths.size
    together = max(1, W // chunk)
    length = (z.gates + 2 * z.states) * W
    _initial(z, share, strips, length, first, B)
    for t in range(z.T):
        now, after = t & 1, 1 - (t & 1)
        base = 0  # of the strip
        for pair in range(share.first_pair, share.last_pair):
            h, d0 = pair // z.chunks, pair % z.chunks * chunk
            n = min(chunk, z.D - d0)
            fill_row(acc, 0, 0, z.panels * rows * W)
            for p in range(z.panels):
                columns = min(z.per_panel, z.recurrent - p * z.per_panel) * chunk
                product(
                    acc, p * rows * W, x, (now * z.H + h) * rows * z.K, z.K,
                    packed, (pair * z.panels + p) * z.K * W, z.K, columns, rows,
                )  # fmt: skip
            for row in range(0, rows, together):
                m = min(together, rows - row)
                w = strips[base : base + length]
                base += length
                all_alive = True
                for i in range(m):
                    b = share.first_row + row + i
                    all_alive &= t < lengths[b]
                    for q in range(z.gates):
                        to, r = q * W + i * chunk, from_R[q]
                        bias_at = (q * z.H + h) * z.padded + d0
                        if from_x[q] >= 0:
                            start = at + b * sb + t * st + from_x[q] * sg + h * sh + d0 * sd
                            sum_row(w, to, bias, bias_at, Wx, start, sd, n)
                        else:
                            copy_row(w, to, bias, bias_at, n)
                        if r >= 0:
                            start = (r // z.per_panel * rows + row + i) * W
                            add_row(w, to, acc, start + r % z.per_panel * chunk, 1, n)
                        if gates.size:
                            start = (((b * z.T + t) * z.gates + q) * z.H + h) * z.D + d0
                            copy_row(gates, start, w, to, n)
                step(w, m * chunk)
                new = (z.gates + z.states) * W
                round_row(w, new, states, m * chunk)
                if all_alive:
                    for k in range(z.states):
                        copy_row(w, (z.gates + k) * W, w, new + k * W, m * chunk)
                for i in range(m):
                    b = share.first_row + row + i
                    alive = t < lengths[b]
                    restart = t + 1 < lengths[b] and reset[b * z.T + t + 1]
                    for k in range(z.states):
                        s_at = (z.gates + k) * W + i * chunk
                        if alive and not all_alive:
                            copy_row(w, s_at, w, new + k * W + i * chunk, n)
                        to = (((k * B + b) * z.T + t) * z.H + h) * z.D + d0
                        copy_row(states, to, w, s_at, n)
                        if exact.size:
                            copy_row(exact, to, w, s_at, n)
                        if restart:
                            copy_row(w, s_at, first, ((k * B + b) * z.H + h) * z.padded + d0, n)
                    to = ((after * z.H + h) * rows + row + i) * z.K + d0
                    copy_row(x, to, w, z.gates * W + i * chunk, n)
        if share.barrier:
            meet(share.barrier)


@_compile
def backward_share(
    z, share, step, meet, strips, acc, from_R, packed, first, reset, lengths, clip, exact, gates,
    dstates, at, ss, sb, st, sh, sd, ds, dfirst, dgates, previous,
):  # fmt: skip
    """All steps of one share, last to first. Shapes as in forward_share, and:

    packed: pack_backward; dstates [S, B, T, H, D] in the task's dtype, or one number: none;
    ds [S, B, H, padded]: in: gradient of the last states, out: of the first step's previous ones;
    dfirst [S, B, H, padded]: what resets send to the initial states; dgates [B, T, G, H, D];
    previous [B, T, H, D]: s_0 before each step. clip: 0 for none. The carried gradient stays in
    the cotangent rows of the strips.
    """
    rows, chunk = share.rows, z.chunk
    B = lengths.size
    together = max(1, W // chunk)
    cotangent, out = z.gates + z.states, z.gates + 2 * z.states
    length = (2 * z.gates + 3 * z.states) * W
    groups = -(-rows // together)
    _carry(z, share, strips, length, ds, B, True)
    for t in range(z.T - 1, -1, -1):
        base = 0
        for pair in range(share.first_pair, share.last_pair):
            h, d0 = pair // z.chunks, pair % z.chunks * chunk
            n = min(chunk, z.D - d0)
            for row in range(0, rows, together):
                m = min(together, rows - row)
                w = strips[base : base + length]
                base += length
                all_alive = True
                for i in range(m):
                    b = share.first_row + row + i
                    all_alive &= t < lengths[b]
                    for q in range(z.gates):
                        start = (((b * z.T + t) * z.gates + q) * z.H + h) * z.D + d0
                        copy_row(w, q * W + i * chunk, gates, start, n)
                    restarted = t == 0 or (reset[b * z.T + t] and t < lengths[b])
                    for k in range(z.states):
                        to = (z.gates + k) * W + i * chunk
                        if restarted:
                            copy_row(w, to, first, ((k * B + b) * z.H + h) * z.padded + d0, n)
                        else:
                            start = (((k * B + b) * z.T + t - 1) * z.H + h) * z.D + d0
                            copy_row(w, to, exact, start, n)
                        if dstates.size > 1:
                            start = at + k * ss + b * sb + t * st + h * sh + d0 * sd
                            add_row(w, (cotangent + k) * W + i * chunk, dstates, start, sd, n)
                    to = ((b * z.T + t) * z.H + h) * z.D + d0
                    copy_row(previous, to, w, z.gates * W + i * chunk, n)
                step(w, m * chunk)
                if all_alive:
                    for k in range(z.states):
                        start = (out + z.gates + k) * W
                        copy_row(w, (cotangent + k) * W, w, start, m * chunk)
                for i in range(m):
                    b = share.first_row + row + i
                    alive = t < lengths[b]
                    for q in range(z.gates):
                        to = (((b * z.T + t) * z.gates + q) * z.H + h) * z.D + d0
                        if alive:
                            copy_row(dgates, to, w, (out + q) * W + i * chunk, n)
                        else:  # the state was kept: its gradient passes, the gates get none
                            fill_row(dgates, to, 0, n)
                    if alive and not all_alive:
                        for k in range(z.states):
                            start = (out + z.gates + k) * W + i * chunk
                            copy_row(w, (cotangent + k) * W + i * chunk, w, start, n)
        if share.barrier:
            meet(share.barrier)
        for pair in range(share.first_pair, share.last_pair):
            h, d0 = pair // z.chunks, pair % z.chunks * chunk
            n = min(chunk, z.D - d0)
            fill_row(acc, 0, 0, rows * W)
            for q in range(z.gates):
                if from_R[q] >= 0:
                    start = (((share.first_row * z.T + t) * z.gates + q) * z.H + h) * z.D
                    product(
                        acc, 0, dgates, start, z.T * z.gates * z.H * z.D,
                        packed, (pair * z.K + from_R[q] * z.D) * W, z.D, chunk, rows,
                    )  # fmt: skip
            for row in range(rows):
                b = share.first_row + row
                if t >= lengths[b]:
                    continue
                strip = ((pair - share.first_pair) * groups + row // together) * length
                s_at = strip + cotangent * W + row % together * chunk
                add_row(strips, s_at, acc, row * W, 1, n)
                if clip > 0:
                    for j in range(s_at, s_at + n):
                        strips[j] = min(max(strips[j], -clip), clip)
                if reset[b * z.T + t]:
                    for k in range(z.states):
                        to = ((k * B + b) * z.H + h) * z.padded + d0
                        add_row(dfirst, to, strips, s_at + k * W, 1, n)
                        fill_row(strips, s_at + k * W, 0, n)
    _carry(z, share, strips, length, ds, B, False)


@_compile
def _carry(z, share, strips, length, ds, B, load):
    """Move the carried gradient between ds [S, B, H, padded] and the strips."""
    together = max(1, W // z.chunk)
    strip = 0
    for pair in range(share.first_pair, share.last_pair):
        h, d0 = pair // z.chunks, pair % z.chunks * z.chunk
        for row in range(0, share.rows, together):
            for i in range(min(together, share.rows - row)):
                b = share.first_row + row + i
                for k in range(z.states):
                    inside = strip * length + (z.gates + z.states + k) * W + i * z.chunk
                    outside = ((k * B + b) * z.H + h) * z.padded + d0
                    if load:
                        copy_row(strips, inside, ds, outside, z.chunk)
                    else:
                        copy_row(ds, outside, strips, inside, z.chunk)
            strip += 1
