"""Check a cell: its gradient against finite differences, every backend that runs here against the
float64 oracle, in all dtypes, with resets, lengths and initial states. Exit status 1 if that fails.
"""

from __future__ import annotations

import argparse
import sys

from ..kernels import backends
from ..testing import CellCheckError, check_cell
from .find_cell import find_cell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cell", help="a registered cell, or path/to/file.py:name")
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=backends.names(),
        help="the backends to check; otherwise all that can run here",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random problems")


def run(arguments: argparse.Namespace) -> int:
    cell = find_cell(arguments.cell, "cell")
    try:
        print(check_cell(cell, backends=arguments.backend, seed=arguments.seed))
    except CellCheckError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
