"""sLSTM against an independent version: the paper's equations, without the expression language."""

import numpy as np
import pytest

import flashrnn_numba as fr

B, T, H, D = 2, 6, 2, 3
random = np.random.default_rng(0)
WX, R, BIAS = (
    random.normal(size=(B, T, 4, H, D)),
    random.normal(size=(4, H, D, D)) / np.sqrt(D),
    random.normal(size=(4, H, D)),
)
WEIGHT = random.normal(size=(B, T, H, D))


def unstabilised(Wx, R, b):
    """h of sLSTM by equations (8) to (14) of the paper, with i and f = sigmoid as they are."""
    h, c, n = np.zeros((3, B, H, D))
    outputs = []
    for t in range(T):
        i, f, z, o = np.moveaxis(Wx[:, t] + np.einsum("ghjk,bhk->bghj", R, h) + b, 1, 0)
        i, f = np.exp(i), 1 / (1 + np.exp(-f))
        c = f * c + i * np.tanh(z)
        n = f * n + i
        h = c / n / (1 + np.exp(-o))
        outputs.append(h)
    return np.stack(outputs, 1)


def test_h_is_that_of_the_equations_without_stabiliser():
    states, _ = fr.flashrnn(WX, R, BIAS, function="slstm", backend="reference")
    np.testing.assert_allclose(states[0], unstabilised(WX, R, BIAS), rtol=1e-13)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_its_gradient_is_that_of_the_equations_without_stabiliser(which):
    """No gradient flows through m, yet the result is the true one: h does not depend on m."""
    vjp = fr.flashrnn_vjp(WX, R, BIAS, function="slstm", backend="reference")[2]
    cotangent = np.zeros((4, B, T, H, D))
    cotangent[0] = WEIGHT
    gradient = vjp(cotangent)[which]
    arrays = [WX, R, BIAS]
    for entry in np.ndindex(gradient.shape):
        moved = []
        for step in (-1e-5, 1e-5):
            changed = arrays[which].copy()
            changed[entry] += step
            inputs = [*arrays[:which], changed, *arrays[which + 1 :]]
            moved.append(np.sum(WEIGHT * unstabilised(*inputs)))
        assert gradient[entry] == pytest.approx((moved[1] - moved[0]) / 2e-5, rel=1e-6, abs=1e-8)


def test_large_input_gates_do_not_overflow():
    Wx = WX.copy()
    Wx[:, :, 0] += np.linspace(-800, 800, T)[:, None, None]
    states, _ = fr.flashrnn(Wx, R, BIAS, function="slstm", backend="reference")
    assert np.isfinite(states).all()
    with np.errstate(all="ignore"):
        assert not np.isfinite(unstabilised(Wx, R, BIAS)).all()


def test_an_empty_unit_takes_m_from_the_input_gate():
    states, _ = fr.flashrnn(WX, R, BIAS, function="slstm", backend="reference")
    np.testing.assert_array_equal(states[3, :, 0], (WX[:, 0] + BIAS)[:, 0])
