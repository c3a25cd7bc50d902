"""Beck, M. et al. (2024), xLSTM: extended long short-term memory, section 2.2 (sLSTM)."""

from .cell import cell
from .expression import exp, log_sigmoid, maximum, minimum, sigmoid, stop_gradient, tanh, where


@cell(gates=("i", "f", "z", "o"), states=("h", "c", "n", "m"))
def slstm(g, s):
    """LSTM with an exponential input gate, a normaliser n, and a stabiliser m.

    c and n are stored divided by exp(m), which cancels in h: h does not depend on m, and so no
    gradient flows through it. A unit whose n is 0 (nothing stored yet) takes m = i.
    """
    log_f = log_sigmoid(g.f) + stop_gradient(s.m)
    m = stop_gradient(where(s.n == 0, g.i, maximum(log_f, g.i)))
    # log_f - m > 0 only where n is 0; beyond 80 exp would leave float32, and inf * n is nan
    i, f = exp(g.i - m), exp(minimum(log_f - m, 80))
    c = f * s.c + i * tanh(g.z)
    n = f * s.n + i
    return sigmoid(g.o) * c / n, c, n, m
