"""A short list of cases for compute-sanitizer: small, but every kernel and every phase of it.

compute-sanitizer --tool memcheck python -m benchmarks.sanitized_cases

Memory is not poisoned here, as it is in tests/gpu, but new: to initcheck, poison is a value.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests"


def new_memory() -> None:
    """The pool gives what nobody has written."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()


def poison_products() -> None:
    """What cuBLAS writes, initcheck may not see: dR computed alone, without any kernel of ours, is
    'uninitialized' to the last byte. So its results are poisoned before; it adds to none."""
    import cupy

    from flashrnn_numba.kernels import cublas

    def poison(memory: Any) -> None:
        memory.fill((1 << 8 * memory.itemsize) - 1)

    class Poisoned(cublas._Multiply):
        def __init__(self, out: Any, *others: Any) -> None:
            super().__init__(out, *others)
            self._out = out

        def __call__(self, out: Any, a: Any, b: Any) -> None:
            place, bits = self._out, f"uint{8 * self._out.dtype.itemsize}"
            poison(cupy.ndarray(place.shape, bits, out.data + place.offset, place.strides))
            super().__call__(out, a, b)

    for bits in ("uint16", "uint32", "uint64"):
        poison(cupy.ndarray(1, bits))  # CuPy's kernel: none can be loaded under capture
    cublas._Multiply = Poisoned  # type: ignore[misc]


def with_tilings(case: Any, forward: Any, backward: Any) -> None:
    """What the solver would take for larger problems only, where the tools would need too long.
    None: the solver's."""
    from device_support import arrays_back, arrays_there  # type: ignore[import-not-found]
    from gpu_support import compare  # type: ignore[import-not-found]

    from flashrnn_numba.kernels import tensor, tensor_backward_run
    from flashrnn_numba.kernels.machine import gpu

    task, inputs, dstates, dlast = arrays_there(case)
    new_memory()
    states, last, kept = tensor.forward(gpu(), task, inputs, True, forward)
    gradients = tensor_backward_run.run_backward(
        gpu(), task, inputs, kept, dstates, dlast, backward
    )
    compare(case, *arrays_back(states, last, gradients))
    print("agrees:", case, forward, backward)


def main() -> None:
    sys.path += [str(TESTS / "kernels"), str(TESTS / "gpu")]
    from device_support import check  # type: ignore[import-not-found]
    from gpu_corners import one_cluster_too_many  # type: ignore[import-not-found]
    from gpu_support import Case  # type: ignore[import-not-found]

    from flashrnn_numba.kernels.machine import gpu
    from flashrnn_numba.kernels.tensor_backward import Tiling as Backward
    from flashrnn_numba.kernels.tensor_layout import Tiling as Forward

    plain_cases = [
        Case("lstm", "float32", B=5, T=4, H=3, D=20, strided=True, clip=0.5),
        Case("slstm", "bfloat16", B=3, T=3, H=2, D=33),
        Case("gru", "float16", B=2, T=3, H=2, D=7, states=False),
        Case("elman", "float64", B=3, T=2, H=1, D=16, lengths=False),
    ]
    # one block a head, and clusters
    tensor_cases = [
        Case("lstm", "bfloat16", B=5, T=4, H=2, D=64, clip=0.5),
        Case("lstm", "bfloat16", B=9, T=4, H=1, D=256),
        Case("gru", "float16", B=3, T=3, H=1, D=200),
        Case("slstm", "bfloat16", B=3, T=3, H=2, D=33),
        Case("lstm", "float32", B=3, T=3, H=1, D=40, precision="tf32"),
    ]
    poison_products()
    through_l2 = Backward(4, 8, 1, each=1, half=True, grid=True)
    for tiling in (Forward(4, 1, 2, 2, 99, 1, grid=True), Forward(2, 1, 1, 2, 99, 1, grid=True)):
        with_tilings(Case("lstm", "bfloat16", B=11, T=6, H=1, D=64), tiling, through_l2)
    if gpu().device().max_cluster >= 16:
        case, clusters = one_cluster_too_many(gpu().device())
        with_tilings(case, None, clusters)
    for name, cases in {
        "tensor cores": tensor_cases,
        "portable": plain_cases,
        "alternating": plain_cases,
    }.items():
        for case in cases:
            check(case, name, new_memory)
            print("agrees:", name, case)


if __name__ == "__main__":
    main()
