"""Templates: what specialise writes out."""

from __future__ import annotations

import pytest

from flashrnn_numba.kernels import template
from flashrnn_numba.kernels.template import Function, specialise

TEMPLATE = '''
def kernel(a: int, b) -> None:
    """Text that goes."""
    x = cuda.local.array(N * 2, real)
    for i in unroll(N):
        x[i * 2] = a[i + 1]
        if TABLE[i] > 0:
            x[i * 2 + 1] = b[i]
        else:
            part(i, x)
    while x[0] and FLAG:
        text()
    for j in range(b):
        shared[j + N] = x[max(1, N - 1)]


def part(k, array):
    array[k * 2 + 1] = -k


def without_values(s, b):
    x = names(3)
    for i in unroll(3):
        x[i] = pair(s) if i > 0 else one(s)
    if FLAG:
        y = x[1][0] + i * 4 + N - 1
    z = b + 2 - 5 if b else -b
    return tuple_of(x, 1, N)


def wrong(n):
    for i in unroll(n):
        pass


def also_wrong(n):
    x = cuda.local.array(2, real)
    x[n] = 1
'''


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "t.py").write_text(TEMPLATE)
    monkeypatch.setattr(template, "FOLDER", tmp_path)
    template._parse.cache_clear()
    yield
    template._parse.cache_clear()


def test_what_is_written_out():
    text = specialise(
        Function("t.py", "kernel"),
        {"N": 2, "TABLE": (0, 1), "FLAG": True},
        {"part": Function("t.py", "part"), "text": "y = x[1]\nbreak"},
        unsigned=("shared",),
    )
    assert text.splitlines() == [
        "def kernel(a, b):",
        "    x_0 = real(0)",
        "    x_1 = real(0)",
        "    x_2 = real(0)",
        "    x_3 = real(0)",
        "    x_0 = a[1]",
        "    x_1 = 0",
        "    x_2 = a[2]",
        "    x_3 = b[1]",
        "    while x_0:",
        "        y = x_1",
        "        break",
        "    for j in range(b):",
        "        shared[uint64(j + 2)] = x_1",
    ]


def test_variables_without_a_value_tuples_and_sums():
    text = specialise(Function("t.py", "without_values"), {"N": 2, "FLAG": True})
    assert text.splitlines() == [
        "def without_values(s, b):",
        "    x_0 = one(s)",
        "    x_1 = pair(s)",
        "    x_2 = pair(s)",
        "    y = x_1[0] + i * 4 + 1",
        "    z = b - 3 if b else -b",
        "    return (x_1, x_2)",
    ]


def test_what_is_not_constant_is_an_error():
    with pytest.raises(ValueError, match=r"unroll\(n\): the count is not constant"):
        specialise(Function("t.py", "wrong"), {})
    with pytest.raises(ValueError, match=r"x\[n\]: the index is not constant"):
        specialise(Function("t.py", "also_wrong"), {})
    with pytest.raises(ValueError, match=r"no function nothing in t\.py"):
        specialise(Function("t.py", "nothing"), {})
