"""Products that cuBLAS does not have: a row of float32 times a float32 matrix, rounded to 16 bits.

cuBLAS would leave float32 behind and a second kernel to round it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from ..arrays import dtype_name
from .formats import FORMATS
from .fused_source import header
from .launch import Program, prepare
from .template import Function, specialise

if TYPE_CHECKING:
    from .cublas import View

THREADS = 32  # of a block: few columns are spread over many multiprocessors
AT_ONCE = 16  # rows that a thread asks for before it needs the first


class NarrowProduct:
    """`product(out, a, b)`: out [1, 1, r] = a [1, 1, q] @ b [1, q, r] on the current CuPy stream.

    a and b are float32, out has 16 bits; all begin where their arrays do, without gaps.
    """

    def __init__(self, out: View, a: View, b: View) -> None:
        import cupy

        _check(out, a, b)
        self._program, (_, count, width) = program(dtype_name(out)), b.shape
        self._grid, self._sizes = (-(-width // THREADS), 1, 1), (count, width)
        self._device = cupy.cuda.device.get_device_id
        self._launches: dict[int, Callable[..., None]] = {}
        self._launch()

    def _launch(self) -> Callable[..., None]:
        device = self._device()
        if device not in self._launches:
            self._launches[device] = prepare(self._program, self._grid, self._sizes)
        return self._launches[device]

    def __call__(self, out: Any, a: Any, b: Any) -> None:
        self._launch()(a, b, out)


def _check(out: View, a: View, b: View) -> None:
    _, count, width = b.shape
    expected = (out.shape, a.shape, b.shape) == ((1, 1, width), (1, 1, count), (1, count, width))
    gaps = [v.strides[-1] != v.dtype.itemsize for v in (out, a, b)]
    gaps += [b.strides[1] != width * b.dtype.itemsize, out.offset, a.offset, b.offset]
    if not expected or any(gaps):
        raise ValueError(
            f"a {a}, b {b}, out {out}: from float32 to 16 bits, expected one row times one matrix, "
            "without gaps"
        )


@cache
def program(dtype: str) -> Program:
    """One kernel for all sizes. dtype -- of what comes out."""
    form, values = FORMATS[dtype], {"THREADS": THREADS, "AT_ONCE": AT_ONCE}
    function = Function("narrow_product_kernel.py", "narrow_product")
    return Program(
        name="narrow_product",
        text=header(f"A row times a matrix, {dtype}", dtype) + specialise(function, values),
        arguments=(f"{form.real}*", f"{form.real}*", f"{form.element}*", "int64", "int64"),
        threads=THREADS,
        plan=f"a row times a matrix, {dtype}",
    )
