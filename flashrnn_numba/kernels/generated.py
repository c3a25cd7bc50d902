"""Generated source as modules on disk: numba can cache what has a file, and a user can read it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType


def cache_directory() -> Path:
    """Where generated source and compiled code are kept: $FLASHRNN_NUMBA_CACHE_DIR, else
    $XDG_CACHE_HOME/flashrnn_numba, else ~/.cache/flashrnn_numba."""
    own = os.environ.get("FLASHRNN_NUMBA_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flashrnn_numba"


@cache
def load(name: str, text: str, depends_on: str = "") -> ModuleType:
    """Import `text` from a file named by its content (and by what it depends on).

    The file is written once, atomically, so that compiled code cached beside it stays valid and
    several processes may come here at the same time. Where no directory can be written, a
    temporary one serves for this process.
    """
    digest = hashlib.sha256((text + "\0" + depends_on).encode()).hexdigest()[:16]
    path = _writable_directory() / f"{name}_{digest}.py"
    if not path.exists() or path.read_text() != text:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as f:
            f.write(text)
        os.replace(f.name, path)
    spec = importlib.util.spec_from_file_location(f"flashrnn_numba_generated_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # numba's cache imports it by name
    spec.loader.exec_module(module)
    return module


def write_at_once(path: Path, data: bytes) -> None:
    """A file in one step, so that no process reads half of it. OSError where it cannot be
    written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@cache
def _writable_directory() -> Path:
    directory = cache_directory() / "generated"
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK):
            return directory
    return Path(tempfile.mkdtemp(prefix="flashrnn_numba_"))


@cache
def digest_of(*paths: str) -> str:
    """A digest of the content of files: part of the name of what was generated from them."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]
