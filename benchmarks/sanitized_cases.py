"""A short list of cases for compute-sanitizer: small, but every kernel and every phase of it.

compute-sanitizer --tool memcheck python -m benchmarks.sanitized_cases
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"


def main() -> None:
    sys.path += [str(TESTS / "kernels"), str(TESTS / "gpu")]
    from device_support import run  # type: ignore[import-not-found]
    from gpu_support import Case, compare  # type: ignore[import-not-found]

    cases = [
        Case("lstm", "float32", B=5, T=4, H=3, D=20, strided=True, clip=0.5),
        Case("slstm", "bfloat16", B=3, T=3, H=2, D=33),
        Case("gru", "float16", B=2, T=3, H=2, D=7, states=False),
        Case("elman", "float64", B=3, T=2, H=1, D=16, lengths=False),
    ]
    # tensor cores: one block a head, and clusters
    tensor_cases = [
        Case("lstm", "bfloat16", B=5, T=4, H=2, D=64, clip=0.5),
        Case("lstm", "bfloat16", B=9, T=4, H=1, D=256),
        Case("gru", "float16", B=3, T=3, H=1, D=200),
    ]
    for case in tensor_cases:
        compare(case, *run(case, "fused"))
        print("agrees:", "fused", case)
    for case in cases:
        for backend in ("fused", "alternating"):
            compare(case, *run(case, backend))
            print("agrees:", backend, case)


if __name__ == "__main__":
    main()
