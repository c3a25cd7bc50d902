"""The time loops on the CPU: one thread's share of a sequence, forward and backward.

The units of a head are cut into chunks. A thread owns some (head, chunk) pairs for all time steps:
their part of R (packed, it stays in that core's cache), their states and their outputs. Threads
that share a head meet once a step: what they exchange (s_0 forward, gate gradients
backward) is written to one place while another is read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from .cpu_pointwise import W
from .cpu_product import product
from .cpu_storage import add_row, copy_row, fill_row, round_row, sum_row, widen
from .cpu_threads import meet

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
    me: int  # number of this thread in its team
    threads: int  # of the team that must meet at each step, 1 where no head is shared


@_compile
def pack_forward(z, begin, end, R, at, sg, sh, sn, sp, packed):
    """packed[pair, panel, k, (gate, unit)] = R[gate, head, unit, k] for pairs begin to end."""
    for pair in range(begin, end):
        h, d0 = pair // z.chunks, pair % z.chunks * z.chunk
        n = min(z.chunk, z.D - d0)
        for r in range(z.recurrent):
            to = (pair * z.panels + r // z.per_panel) * z.K * W + r % z.per_panel * z.chunk
            start = at + r * sg + h * sh + d0 * sn
            # 16 units at a time: whole cache lines are written, 16 rows are read alongside
            for j0 in range(0, n, 16):
                for k in range(z.D):
                    for j in range(j0, min(j0 + 16, n)):
                        packed[to + k * W + j] = widen(R[start + j * sn + k * sp])


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
def _pairs(z, share):
    """Head, first unit and number of units of each pair of the share (divisions are slow)."""
    count = share.last_pair - share.first_pair
    head, unit = np.empty(count, np.int64), np.empty(count, np.int64)
    width = np.empty(count, np.int64)
    for p in range(count):
        pair = share.first_pair + p
        head[p], unit[p] = pair // z.chunks, pair % z.chunks * z.chunk
        width[p] = min(z.chunk, z.D - unit[p])
    return head, unit, width


@_compile
def _places(z, share, length):
    """Where each row of the batch stands in a pair's strips, and the length of these together."""
    together = max(1, W // z.chunk)
    place = np.empty(share.rows, np.int64)
    for row in range(share.rows):
        place[row] = row // together * length + row % together * z.chunk
    return place, -(-share.rows // together) * length


@_compile
def _initial(z, share, strips, length, first, B):
    """Previous states of every strip from the initial states [S, B, H, padded]."""
    head, unit, _ = _pairs(z, share)
    place, pair_length = _places(z, share, length)
    for p in range(head.size):
        for row in range(share.rows):
            for k in range(z.states):
                to = p * pair_length + place[row] + (z.gates + k) * W
                start = ((k * B + share.first_row + row) * z.H + head[p]) * z.padded + unit[p]
                copy_row(strips, to, first, start, z.chunk)


@_compile
def forward_share(
    z, share, step, progress, give_way, strips, acc, from_x, from_R, Wx, at, sb, st, sg, sh, sd,
    bias, packed, first, reset, lengths, x, states, exact, gates,
):  # fmt: skip
    """All steps of one share. Shapes (flat arrays; B rows in all, `rows` in the share):

    strips: one for each pair and group of rows; Wx, states [S, B, T, H, D] in the task's dtype;
    bias [G, H, padded]; packed: pack_forward; first [S, B, H, padded]; x [2, H, rows, K]: s_0;
    exact: states in compute precision, or empty; gates [B, T, G, H, D] pre-activations, or empty.
    """
    rows, chunk, B = share.rows, z.chunk, lengths.size
    together = max(1, W // chunk)
    length = (z.gates + 2 * z.states) * W
    new = (z.gates + z.states) * W
    head, unit, width = _pairs(z, share)
    place, pair_length = _places(z, share, length)
    in_acc = np.empty(z.gates, np.int64)  # where a gate's columns start in acc
    for q in range(z.gates):
        in_acc[q] = from_R[q] // z.per_panel * rows * W + from_R[q] % z.per_panel * chunk
    _initial(z, share, strips, length, first, B)
    for t in range(z.T):
        now, after = t & 1, 1 - (t & 1)
        # arrays are read and written in the order of their memory, for all pairs of the share
        # together: short runs far apart would wait for memory one by one
        for row in range(rows):
            b = share.first_row + row
            for q in range(z.gates):
                for p in range(head.size):
                    h, d0, n = head[p], unit[p], width[p]
                    to = p * pair_length + place[row] + q * W
                    bias_at = (q * z.H + h) * z.padded + d0
                    if from_x[q] >= 0:
                        start = at + b * sb + t * st + from_x[q] * sg + h * sh + d0 * sd
                        sum_row(strips, to, bias, bias_at, Wx, start, sd, n)
                    else:
                        copy_row(strips, to, bias, bias_at, n)
        for p in range(head.size):
            h, d0, n = head[p], unit[p], width[p]
            fill_row(acc, 0, 0, z.panels * rows * W)
            for panel in range(z.panels):
                columns = min(z.per_panel, z.recurrent - panel * z.per_panel) * chunk
                product(
                    acc, panel * rows * W, x, (now * z.H + h) * rows * z.K, z.K, packed,
                    ((share.first_pair + p) * z.panels + panel) * z.K * W, z.K, columns, rows,
                )  # fmt: skip
            for row in range(rows):
                for q in range(z.gates):
                    if from_R[q] >= 0:
                        to = p * pair_length + place[row] + q * W
                        add_row(strips, to, acc, in_acc[q] + row * W, 1, n)
            for row in range(0, rows, together):
                w = strips[p * pair_length + place[row] :][:length]
                count = min(together, rows - row) * chunk
                step(w, count)
                round_row(w, new, states, count)
            for row in range(rows):
                b = share.first_row + row
                s_at = p * pair_length + place[row] + z.gates * W
                if t < lengths[b]:
                    for k in range(z.states):
                        copy_row(strips, s_at + k * W, strips, s_at + (z.states + k) * W, n)
                to = ((after * z.H + h) * rows + row) * z.K + d0
                if t + 1 < lengths[b] and reset[b * z.T + t + 1]:
                    copy_row(x, to, first, (b * z.H + h) * z.padded + d0, n)
                else:
                    copy_row(x, to, strips, s_at, n)
        for row in range(rows):
            b = share.first_row + row
            restart = t + 1 < lengths[b] and reset[b * z.T + t + 1]
            for k in range(z.states):
                for p in range(head.size):
                    h, d0, n = head[p], unit[p], width[p]
                    s_at = p * pair_length + place[row] + (z.gates + k) * W
                    to = (((k * B + b) * z.T + t) * z.H + h) * z.D + d0
                    copy_row(states, to, strips, s_at, n)
                    if exact.size:
                        copy_row(exact, to, strips, s_at, n)
                    if restart:
                        start = ((k * B + b) * z.H + h) * z.padded + d0
                        copy_row(strips, s_at, first, start, n)
            if gates.size:
                for q in range(z.gates):
                    for p in range(head.size):
                        to = (((b * z.T + t) * z.gates + q) * z.H + head[p]) * z.D + unit[p]
                        start = p * pair_length + place[row] + q * W
                        copy_row(gates, to, strips, start, width[p])
        if share.threads > 1:
            meet(progress, share.threads, share.me, t + 1, give_way)


@_compile
def backward_share(
    z, share, step, progress, give_way, strips, acc, from_R, packed, first, reset, lengths, clip,
    exact, gates, dstates, at, ss, sb, st, sh, sd, ds, dfirst, dgates, previous,
):  # fmt: skip
    """All steps of one share, last to first. Shapes as in forward_share, and:

    packed: pack_backward; dstates [S, B, T, H, D] in the task's dtype, or one number: none;
    ds [S, B, H, padded]: in: gradient of the last states, out: of the first step's previous ones;
    dfirst [S, B, H, padded]: what resets send to the initial states; dgates [B, T, G, H, D];
    previous [B, T, H, D]: s_0 before each step. clip: 0 for none. The carried gradient stays in
    the cotangent rows of the strips.
    """
    rows, chunk, B = share.rows, z.chunk, lengths.size
    together = max(1, W // chunk)
    cotangent, out = z.gates + z.states, z.gates + 2 * z.states
    length = (2 * z.gates + 3 * z.states) * W
    head, unit, width = _pairs(z, share)
    place, pair_length = _places(z, share, length)
    _carry(z, share, strips, length, ds, B, True)
    for t in range(z.T - 1, -1, -1):
        for row in range(rows):
            b = share.first_row + row
            restarted = t == 0 or (reset[b * z.T + t] and t < lengths[b])
            for q in range(z.gates):
                for p in range(head.size):
                    start = (((b * z.T + t) * z.gates + q) * z.H + head[p]) * z.D + unit[p]
                    to = p * pair_length + place[row] + q * W
                    copy_row(strips, to, gates, start, width[p])
            for k in range(z.states):
                for p in range(head.size):
                    h, d0, n = head[p], unit[p], width[p]
                    to = p * pair_length + place[row] + (z.gates + k) * W
                    if restarted:
                        start = ((k * B + b) * z.H + h) * z.padded + d0
                        copy_row(strips, to, first, start, n)
                    else:
                        start = (((k * B + b) * z.T + t - 1) * z.H + h) * z.D + d0
                        copy_row(strips, to, exact, start, n)
                    if k == 0:
                        copy_row(previous, ((b * z.T + t) * z.H + h) * z.D + d0, strips, to, n)
                    if dstates.size > 1:
                        start = at + k * ss + b * sb + t * st + h * sh + d0 * sd
                        add_row(strips, to + z.states * W, dstates, start, sd, n)
        for p in range(head.size):
            for row in range(0, rows, together):
                w = strips[p * pair_length + place[row] :][:length]
                step(w, min(together, rows - row) * chunk)
        for row in range(rows):
            b = share.first_row + row
            alive = t < lengths[b]
            for q in range(z.gates):
                for p in range(head.size):
                    to = (((b * z.T + t) * z.gates + q) * z.H + head[p]) * z.D + unit[p]
                    start = p * pair_length + place[row] + (out + q) * W
                    if alive:
                        copy_row(dgates, to, strips, start, width[p])
                    else:  # the state was kept: its gradient passes, the gates get none
                        fill_row(dgates, to, 0, width[p])
            if alive:
                for p in range(head.size):
                    for k in range(z.states):
                        to = p * pair_length + place[row] + (cotangent + k) * W
                        start = p * pair_length + place[row] + (out + z.gates + k) * W
                        copy_row(strips, to, strips, start, width[p])
        if share.threads > 1:
            meet(progress, share.threads, share.me, z.T - t, give_way)
        for p in range(head.size):
            h, d0, n = head[p], unit[p], width[p]
            fill_row(acc, 0, 0, rows * W)
            for q in range(z.gates):
                if from_R[q] >= 0:
                    start = (((share.first_row * z.T + t) * z.gates + q) * z.H + h) * z.D
                    product(
                        acc, 0, dgates, start, z.T * z.gates * z.H * z.D, packed,
                        ((share.first_pair + p) * z.K + from_R[q] * z.D) * W, z.D, chunk, rows,
                    )  # fmt: skip
            for row in range(rows):
                b = share.first_row + row
                if t >= lengths[b]:
                    continue
                s_at = p * pair_length + place[row] + cotangent * W
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
    head, unit, _ = _pairs(z, share)
    place, pair_length = _places(z, share, length)
    for p in range(head.size):
        for row in range(share.rows):
            for k in range(z.states):
                inside = p * pair_length + place[row] + (z.gates + z.states + k) * W
                outside = ((k * B + share.first_row + row) * z.H + head[p]) * z.padded + unit[p]
                if load:
                    copy_row(strips, inside, ds, outside, z.chunk)
                else:
                    copy_row(ds, outside, strips, inside, z.chunk)
