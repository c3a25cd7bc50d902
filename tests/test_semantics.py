"""What reset, lengths and the gradient clip mean, by equivalent calls without them."""

import numpy as np
import pytest

import flashrnn_numba as fr
from flashrnn_numba.testing import random_problem, relative_error, tolerance

B, T, H, D = 3, 7, 2, 5
pytestmark = [
    pytest.mark.parametrize("backend", ["reference", "cpu"]),
    pytest.mark.parametrize("name", fr.list_cells()),
]


def call(problem, backend, **changes):
    given = {**problem.inputs._asdict(), **changes}
    return fr.flashrnn_vjp(**given, function=problem.cell, backend=backend)


def close(got, expected):
    assert relative_error(got, expected) <= tolerance("float64", T, D, B)


def test_a_reset_splits_the_sequence_in_two(name, backend):
    problem = random_problem(fr.get_cell(name), "float64", (B, T, H, D), seed=1)
    first, at = problem.inputs.states, 3
    reset = np.zeros((B, T), bool)
    reset[:, at] = True
    states, last, vjp = call(problem, backend, reset=reset)
    gradients = vjp(problem.dstates, problem.dlast)
    parts = []
    for span, dlast in ((slice(None, at), None), (slice(at, None), problem.dlast)):
        part = call(problem, backend, Wx=problem.inputs.Wx[:, span], states=first)
        parts.append((*part[:2], part[2](problem.dstates[:, :, span], dlast)))
    (s1, _, g1), (s2, l2, g2) = parts
    close(states, np.concatenate([s1, s2], axis=2))
    close(last, l2)
    close(gradients.Wx, np.concatenate([g1.Wx, g2.Wx], axis=1))
    # the initial states are used twice: their gradient is the sum
    for key in ("R", "b", "states"):
        close(getattr(gradients, key), getattr(g1, key) + getattr(g2, key))
    assert g2.states.any()


def test_a_reset_before_the_first_step_changes_nothing(name, backend):
    problem = random_problem(fr.get_cell(name), "float64", (B, T, H, D), seed=2)
    reset = np.zeros((B, T), bool)
    reset[:, 0] = True
    states, _, vjp = call(problem, backend)
    states_reset, _, vjp_reset = call(problem, backend, reset=reset)
    np.testing.assert_array_equal(states, states_reset)
    for one, other in zip(vjp(problem.dstates), vjp_reset(problem.dstates), strict=True):
        close(one, other)


def test_lengths_are_truncated_calls(name, backend):
    problem = random_problem(fr.get_cell(name), "float64", (B, T, H, D), seed=3)
    lengths = np.array([0, 4, T])
    states, last, vjp = call(problem, backend, lengths=lengths)
    gradients = vjp(problem.dstates, problem.dlast)
    dR, db = np.zeros_like(problem.inputs.R), np.zeros_like(problem.inputs.b)
    for i, n in enumerate(lengths):
        row = slice(i, i + 1)
        one, one_last, one_vjp = call(
            problem, backend, Wx=problem.inputs.Wx[row, :n], states=problem.inputs.states[:, row]
        )
        close(states[:, row, :n], one)
        # the state stays as it is, and so all cotangents of the padding arrive at the last one
        np.testing.assert_array_equal(
            states[:, row, n:], np.broadcast_to(last[:, row], (len(states), 1, T - n, H, D))
        )
        close(last[:, row], one_last)
        padding = problem.dstates[:, row, n:].sum(2, keepdims=True)
        part = one_vjp(problem.dstates[:, row, :n], problem.dlast[:, row] + padding)
        close(gradients.Wx[row, :n], part.Wx)
        np.testing.assert_array_equal(gradients.Wx[row, n:], 0)
        close(gradients.states[:, row], part.states)
        dR, db = dR + part.R, db + part.b
    close(gradients.R, dR)
    close(gradients.b, db)


def test_numbers_in_the_padding_are_not_used(name, backend):
    problem = random_problem(fr.get_cell(name), "float64", (B, T, H, D), seed=4)
    lengths = np.array([0, 4, T])
    padded = problem.inputs.Wx.copy()
    for i, n in enumerate(lengths):
        padded[i, n:] = np.nan
    states, _, vjp = call(problem, backend, lengths=lengths)
    states_nan, _, vjp_nan = call(problem, backend, lengths=lengths, Wx=padded)
    np.testing.assert_array_equal(states, states_nan)
    for one, other in zip(vjp(problem.dstates), vjp_nan(problem.dstates), strict=True):
        np.testing.assert_array_equal(one, other)


def test_resets_in_the_padding_are_ignored(name, backend):
    problem = random_problem(fr.get_cell(name), "float64", (B, T, H, D), seed=5)
    lengths, reset = np.array([0, 4, T]), np.zeros((B, T), bool)
    states, last, vjp = call(problem, backend, lengths=lengths, reset=reset)
    reset_after = np.arange(T) >= lengths[:, None]
    states_reset, last_reset, vjp_reset = call(problem, backend, lengths=lengths, reset=reset_after)
    np.testing.assert_array_equal(states, states_reset)
    np.testing.assert_array_equal(last, last_reset)
    one, other = (f(problem.dstates, problem.dlast) for f in (vjp, vjp_reset))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_clip_bounds_what_flows_to_s0_of_the_step_before(name, backend):
    """Step by step, by calls of one step: the gradient of s_0 is clipped between them."""
    problem = random_problem(fr.get_cell(name), "float64", (B, T, H, D), seed=6)
    bound = 0.3
    states, _, vjp = call(problem, backend, recurrent_gradient_clip=bound)
    np.testing.assert_array_equal(states, call(problem, backend)[0])
    gradients = vjp(problem.dstates, problem.dlast)
    previous = np.concatenate([problem.inputs.states, states[:, :, :-1]], axis=2)
    carry, clipped, dR = problem.dlast, 0, 0.0
    for t in reversed(range(T)):
        step = call(
            problem, backend, Wx=problem.inputs.Wx[:, t : t + 1], states=previous[:, :, t : t + 1]
        )[2](problem.dstates[:, :, t : t + 1], carry)
        close(gradients.Wx[:, t : t + 1], step.Wx)
        carry = step.states.copy()
        clipped += np.sum(np.abs(carry[0]) > bound)
        carry[0] = np.clip(carry[0], -bound, bound)
        dR = dR + step.R
    assert clipped > 10
    close(gradients.states, carry)
    close(gradients.R, dR)


def test_a_wide_clip_changes_nothing(name, backend):
    problem = random_problem(fr.get_cell(name), "float64", (B, T, H, D), seed=7, reset=True)
    plain = call(problem, backend)[2](problem.dstates)
    wide = call(problem, backend, recurrent_gradient_clip=1e6)[2](problem.dstates)
    for one, other in zip(plain, wide, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_sequence_may_be_continued_from_its_last_states(name, backend, dtype):
    problem = random_problem(fr.get_cell(name), dtype, (B, T, H, D), seed=8)
    whole, at = call(problem, backend)[0].astype(float), 3
    first, last, _ = call(problem, backend, Wx=problem.inputs.Wx[:, :at])
    second = call(problem, backend, Wx=problem.inputs.Wx[:, at:], states=last)[0]
    joined = np.concatenate([first, second], axis=2).astype(float)
    if backend != "reference" and len(problem.cell.states) == 1:
        # s_0 is fed back as it is returned; other states, and the oracle's, are kept more exactly
        np.testing.assert_array_equal(joined, whole)
    assert relative_error(joined, whole) <= tolerance(dtype, T, D, B)
