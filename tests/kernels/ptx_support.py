"""What the tests of the PTX blocks and of the tiles share."""

import ml_dtypes
import numpy as np
import pytest
from numba import cuda

from flashrnn_numba.kernels.assemble import find_ptxas
from flashrnn_numba.kernels.emulator import emulate
from flashrnn_numba.kernels.ptx import formats

types = cuda.types
ARCHITECTURES = ((8, 0), (9, 0), (10, 0))

try:
    find_ptxas()
except FileNotFoundError as missing:
    needs_ptxas = pytest.mark.skip(reason=str(missing))
else:
    needs_ptxas = pytest.mark.filterwarnings("default")  # nothing: ptxas is there


def emulated(kernel, threads, shared_bytes=0):
    """One block in the emulator."""
    return emulate(kernel, 1, threads, shared_bytes=shared_bytes)


def on_gpu(kernel, threads, shared_bytes=0):
    """One block on the device: what the twins say is checked against the hardware."""
    return cuda.jit(kernel)[1, threads, 0, shared_bytes]


_no_gpu = pytest.mark.skipif(not cuda.is_available(), reason="needs a CUDA device")
launches = pytest.mark.parametrize(
    "launch", [emulated, pytest.param(on_gpu, marks=[pytest.mark.gpu, _no_gpu])]
)


def array(dtype, axes=1):
    return types.Array(dtype, axes, "C")


def encode(values, dtype):
    """float32 matrix -> (words of 32 bits, the values they stand for)."""
    if dtype == "tf32":
        bits = formats.f32_to_tf32(values)
        return bits, bits.view(np.float32)
    kind = ml_dtypes.bfloat16 if dtype == "bf16" else np.float16
    rounded = values.astype(kind)
    return rounded.view(np.uint32), rounded.astype(np.float32)


def line_of(function, text):
    """file:line of the line of a function that contains the text: what a message must name."""
    code = function.__code__
    with open(code.co_filename) as source:
        lines = source.readlines()
    for number in range(code.co_firstlineno, len(lines) + 1):
        if text in lines[number - 1]:
            return f"{code.co_filename}:{number}"
    raise AssertionError(f"{text!r} is not in {function.__name__}")
