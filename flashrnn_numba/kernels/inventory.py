"""Lists on disk of the compiled files that something needs, beside these files.

To work out which kernels other batch sizes will need takes seconds of Python. A process that finds
the list, and all that it names, has nothing to work out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .generated import digest_of, write_at_once

_PACKAGE = Path(__file__).parents[1]


def place(folder: Path, *facts: str) -> Path:
    """Where the list is of what these facts, this package's source and this Python make."""
    digest = hashlib.sha256("\0".join((*facts, _source(), sys.version)).encode())
    return folder / f"needed_{digest.hexdigest()[:24]}.json"


def write(path: Path, files: Iterable[Path]) -> None:
    """Nothing where nothing can be written."""
    with contextlib.suppress(OSError):
        write_at_once(path, json.dumps([file.name for file in files]).encode())


def complete(path: Path) -> bool:
    """Whether there is a list and all that it names. One that is damaged counts as missing."""
    try:
        names = json.loads(path.read_bytes())
        return isinstance(names, list) and all((path.parent / name).is_file() for name in names)
    except (OSError, ValueError, TypeError, RecursionError):
        return False


@cache
def _source() -> str:
    return digest_of(*sorted(str(file) for file in _PACKAGE.rglob("*.py")))
