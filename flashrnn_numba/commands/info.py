"""Say what this installation finds: versions, processor, GPUs, directories, cells, backends."""

from __future__ import annotations

import argparse
import json

from ..cells import get_cell, list_cells
from ..kernels import backends
from ..kernels.generated import cache_directory
from .environment import environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(arguments: argparse.Namespace) -> int:
    found = environment()
    found["cache"] = str(cache_directory())
    found["backends"] = list(backends.names())
    found["cells"] = {name: _describe(name) for name in list_cells()}
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    versions, variables, cells = (found.pop(part) for part in ("versions", "variables", "cells"))
    lines = {**found, **variables, **versions}
    lines |= {f"cell {name}": text for name, text in cells.items()}
    width = max(map(len, lines))
    for name, value in lines.items():
        text = ", ".join(value) or "none" if isinstance(value, list) else str(value)
        print(f"{name:{width}}  {text}")
    return 0


def _describe(name: str) -> str:
    cell = get_cell(name)
    gates = ", ".join(f"{gate} ({sources})" for gate, sources in cell.gates.items())
    return f"gates {gates}; states {', '.join(cell.states)}"
