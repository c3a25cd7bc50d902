"""Speed on a GPU beside FlashRNN, cuDNN and a PyTorch loop: python -m benchmarks.speed

T = 1024, bfloat16, through the public calls; forward without gradients, and forward + backward of
h.sum(). Every case is checked against a float64 oracle on the GPU first; a wrong result is not
timed. (A peer's gradients too: cuDNN's, whose inputs are its own, by that of its recurrent matrix.)
Cases are prepared side by side, a process each (compilers take most of the time); then they are
timed one after the other, all implementations of a case in turn, in another order each round:
what has run just before makes a difference of up to a tenth. cuDNN's times include its input
product.

    python -m benchmarks.speed --json benchmarks/results/speed-h200.json
    python -m benchmarks.speed --sweep             # more head dims, batches and lengths
    python -m benchmarks.speed --build             # no times: FlashRNN's builds, for runs to come
    python -m benchmarks.speed --plot docs/speed.svg --from benchmarks/results/speed-h200.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from .record import origin, write
from .speed_case import Case, build, work

FUSED, CUDNN = ("flashrnn_fused",), ("cudnn_fp16", "cudnn_bf16")
TABLE = (
    Case("lstm", 64, 12, 1, peers=FUSED),
    Case("lstm", 64, 12, 16, peers=(*FUSED, "flashrnn_alternating", "torch_loop")),
    Case("lstm", 64, 12, 128, peers=FUSED),
    Case("lstm", 128, 6, 16, peers=FUSED),
    Case("lstm", 256, 3, 16, peers=FUSED),
    Case("lstm", 512, 1, 16, peers=CUDNN),
    Case("lstm", 768, 1, 1, peers=(*FUSED, *CUDNN)),
    Case("lstm", 768, 1, 16, peers=(*FUSED, *CUDNN, "flashrnn_alternating")),
    Case("lstm", 768, 1, 128, peers=(*FUSED, *CUDNN)),
    Case("lstm", 1024, 1, 16, peers=CUDNN),
    Case("slstm", 64, 12, 16, peers=FUSED),
    Case("slstm", 768, 1, 16, peers=FUSED),
    Case("elman", 64, 12, 16, peers=FUSED),
    Case("gru", 64, 12, 16, peers=("flashrnn_alternating",)),
    Case("gru", 768, 1, 16, peers=CUDNN),
    # the portable kernel in float32, and alternating
    Case("lstm", 64, 12, 16, dtype="float32", backend="fused", peers=("torch_loop",)),
    Case("lstm", 64, 1, 16, dtype="float32", backend="fused", peers=("cudnn_fp32", "torch_loop")),
    Case("gru", 64, 1, 16, dtype="float32", backend="fused", peers=("cudnn_fp32",)),
    Case("lstm", 64, 12, 16, backend="alternating", peers=(*FUSED, "flashrnn_alternating")),
    Case("lstm", 768, 1, 16, backend="alternating", peers=("flashrnn_alternating", *CUDNN)),
    Case("gru", 768, 1, 16, backend="alternating", peers=("flashrnn_alternating", *CUDNN)),
)
TOGETHER = 11  # cases of the sweep whose arrays lie in the GPU's memory at a time
CHECKED = 4  # oracles at a time, up to 9 GB each
BUILDERS = 8  # of FlashRNN at a time: each starts several compilers
SWEEP = (
    *(Case("lstm", d, 768 // d, 16, peers=FUSED) for d in (16, 32, 64, 96, 128, 192, 256, 384)),
    *(Case("lstm", d, 1, 16, peers=CUDNN[:1]) for d in (768, 1024, 1536, 2048)),
    *(Case("lstm", 64, 12, b, peers=FUSED) for b in (1, 4, 8, 32, 64, 128, 256)),
    *(Case("lstm", 768, 1, b, peers=CUDNN[:1]) for b in (1, 8, 32, 64, 128, 256)),
    # one head fills the card: heads and rows in turns, or a product a step
    *(
        Case("lstm", d, 1, b, backend=k, peers=CUDNN[:1] if k == "fused" else ())
        for d, b in ((1024, 64), (1024, 256), (2048, 64), (2048, 256))
        for k in ("fused", "alternating")
    ),
    *(Case("lstm", 64, 12, 16, steps=t, peers=FUSED) for t in (256, 512, 2048, 4096)),
    *(Case("lstm", 768, 1, 16, steps=t, peers=CUDNN[:1]) for t in (256, 512, 2048, 4096)),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sweep", action="store_true", help="the sweep in place of the table")
    parser.add_argument("--build", action="store_true", help="only FlashRNN's builds, of all cases")
    parser.add_argument("--peers", default="all", help="names to keep, with commas; none; or all")
    parser.add_argument("--only", nargs="*", help="cases whose name has one of these texts")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="record the rows there")
    parser.add_argument("--plot", type=Path, help="draw the ratios to FILE.svg or FILE.png")
    parser.add_argument("--from", dest="source", type=Path, help="do not run; take these rows")
    arguments = parser.parse_args()
    if arguments.build:
        return build_all()
    cases: list[Case] = []
    if arguments.source:
        result = json.loads(arguments.source.read_text())
    else:
        cases = [_with_peers(c, arguments.peers) for c in (SWEEP if arguments.sweep else TABLE)]
        cases = [c for c in cases if any(t in c.name for t in arguments.only or [""])]
        result = {**origin(), "device": _device(), "rows": [], "notes": []}
        together = TOGETHER if arguments.sweep else len(TABLE)
        for rows, notes in measure(cases, arguments.rounds, together):
            result |= {"rows": rows, "notes": notes}
            if arguments.json:  # after each case: a lease may end at any time
                write(arguments.json, result)
    print_table(result["rows"])
    print(*result["notes"], sep="\n")
    if arguments.plot:
        from .speed_plot import bars, curves

        lengths = {row["steps"] for row in result["rows"]}
        (curves if len(lengths) > 1 else bars)(result, arguments.plot)
        print(f"drawn in {arguments.plot}")
    timed = {_key(row) for row in result["rows"] if row["implementation"] == "ours"}
    return 1 if len(timed) < len(cases) else 0


def build_all() -> int:
    """What FlashRNN compiles for each shape, once; those that fail are told when they are timed."""
    shapes = {(c.cell, c.head_dim, c.batch, peer): c for c in (*TABLE, *SWEEP) for peer in c.peers}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(BUILDERS, context, max_tasks_per_child=1) as pool:
        jobs = {
            pool.submit(build, Case(**{**vars(case), "peers": (peer,)})): (case, peer)
            for (*_, peer), case in shapes.items()
            if peer.startswith("flashrnn")
        }
        for job in as_completed(jobs):
            case, peer = jobs[job]
            print(f"{case.name}, {peer}: {job.exception() or 'built'}"[:300], flush=True)
    return 0


def _with_peers(case: Case, names: str) -> Case:
    if names == "all":
        return case
    keep = tuple(p for p in case.peers if p in names.split(","))
    return Case(**{**vars(case), "peers": keep})


def _device() -> str:
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()


def measure(
    cases: list[Case], rounds: int, together: int
) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """After each case: the rows so far, in the order of the cases, and notes. together -- cases
    that are prepared side by side; neighbours, which are of like size, are not."""
    found: dict[int, tuple[list[dict[str, Any]], list[str]]] = {}
    groups = -(-len(cases) // together)
    for first in range(groups):
        own = range(first, len(cases), groups)
        for i, rows, notes in _measure_together([cases[n] for n in own], rounds):
            found[own[i]] = rows, notes
            print(f"{cases[own[i]].name}: {'timed' if rows else 'not timed'}", flush=True)
            ordered = [found[n] for n in sorted(found)]
            yield [r for rows, _ in ordered for r in rows], [n for _, ns in ordered for n in ns]


def _measure_together(cases: list[Case], rounds: int) -> Iterator[tuple[int, list, list[str]]]:
    """(place, rows, notes) of each case."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        turn, prepared_all = manager.Lock(), manager.Barrier(len(cases))
        checking = manager.Semaphore(CHECKED)
        # a process a case: FlashRNN keeps one build of a name in a process
        with ProcessPoolExecutor(len(cases), context, max_tasks_per_child=1) as pool:
            futures = {
                pool.submit(work, case, prepared_all, checking, turn, rounds): i
                for i, case in enumerate(cases)
            }
            for future in as_completed(futures):
                i = futures[future]
                try:
                    yield i, *future.result()
                except Exception as problem:
                    yield i, [], [f"{cases[i].name}: {problem!r}"[:300]]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        row[k] for k in ("cell", "head_dim", "heads", "batch", "steps", "dtype", "backend")
    )


def grouped(rows: list[dict[str, Any]]) -> dict[tuple, dict[str, dict[str, Any]]]:
    """(case, direction) -> rows by implementation; ours comes first and names the backend."""
    groups: dict[tuple, dict[str, dict[str, Any]]] = {}
    backend = None
    for row in rows:
        backend = row["backend"] or backend
        key = (*_key({**row, "backend": backend}), row["direction"])
        groups.setdefault(key, {})[row["implementation"]] = row
    return groups


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line for each case and direction: milliseconds (low to high), ratios to ours last."""
    for (cell, D, H, B, T, dtype, backend, direction), found in grouped(rows).items():
        ours = found["ours"]
        times = [
            f"{n} {r['milliseconds']:.3f} ({r['low']:.3f} to {r['high']:.3f})"
            for n, r in found.items()
        ]
        ratios = [
            f"{n} / ours {r['milliseconds'] / ours['milliseconds']:.2f}"
            for n, r in found.items()
            if n != "ours"
        ]
        shape = f"{cell:5} {D:4} x {H:<2} B {B:<3} T {T} {dtype} {backend:11} {direction:16}"
        print(
            shape, "  ".join(times), " | ", "  ".join(ratios), f"error {ours['relative_error']:.1e}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
