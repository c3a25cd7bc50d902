"""Which kernel runs a problem on a device, with which tiling, what that takes of the device and is
expected to cost, what else was looked at, and why some kernels cannot do it.

Needs no GPU where --device names one. docs/plan.md tells how to read it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..arrays import DTYPES
from ..kernels.interface import PRECISIONS
from ..tuning import Device
from ..tuning.plan import plan
from . import UsageError
from .find_cell import find_cell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--head-dim", type=_positive, default=64, help="units of a head (D)")
    parser.add_argument("--heads", type=_positive, default=1, help="heads (H)")
    parser.add_argument("--batch", type=_positive, default=16, help="rows of the batch (B)")
    parser.add_argument("--steps", type=_positive, default=1024, help="time steps (T)")
    parser.add_argument(
        "--cell", default="lstm", help="a registered cell, or path/to/file.py:name for your own"
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument(
        "--device",
        help="a name such as H200, A100 or 'RTX 4090', or cpu; without it the GPU of this machine "
        "if there is one, else the CPU",
    )
    parser.add_argument("--next", type=_count, default=3, help="how many other tilings to show")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument(
        "--sweep",
        nargs="?",
        const="",
        metavar="FILE",
        help="the map of which kernel serves which head dimension and batch, as text or drawn "
        "into FILE (.png or .svg); --head-dim and --batch play no part",
    )


def run(arguments: argparse.Namespace) -> int:
    a = arguments
    cell = find_cell(a.cell, "--cell")
    _check_device(a.device)
    given = {"T": a.steps, "H": a.heads, "function": cell, "dtype": a.dtype, "device": a.device}
    if a.sweep is not None:
        return _sweep(a, given)
    made = plan(B=a.batch, D=a.head_dim, precision=a.precision, **given)
    print(json.dumps(made.to_dict(), indent=2) if a.json else made.explain(a.next))
    return 0


def _check_device(name: str | None) -> None:
    if name is None or name.lower() == "cpu":
        return
    try:
        Device.named(name, "--device")
    except ValueError as error:
        raise UsageError(str(error)) from None


def _sweep(a: argparse.Namespace, given: dict) -> int:
    from tqdm import tqdm

    from ..tuning.sweep import BATCHES, HEAD_DIMS, sweep

    path = Path(a.sweep) if a.sweep else None
    if path is not None:
        _check_picture(path)
    made = plan(B=1, D=16, precision=a.precision, **given)
    if made.device is None:
        raise UsageError(f"--sweep needs a GPU to plan for: name one with --device ({made.why})")
    points = len(HEAD_DIMS) * len(BATCHES)
    with tqdm(total=points, desc="planning", disable=None, leave=False) as bar:
        found = sweep(made.task, made.device, done=bar.update)
    if a.json:
        print(json.dumps(found.to_dict(), indent=2))
    elif path is None:
        print(found.text())
    if path is not None:
        from .plan_picture import draw

        draw(found, path)
    return 0


def _check_picture(path: Path) -> None:
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"--sweep must end in .png or .svg, got {str(path)!r}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--sweep: there is no directory {str(path.absolute().parent)!r}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(
            "--sweep FILE needs matplotlib; install it with: pip install 'flashrnn-numba[plot]', "
            "or leave FILE out for a map in text"
        ) from None


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)
