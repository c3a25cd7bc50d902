"""The tuning cache: which tiling won on which device, kept in a file between runs.

One JSON file per user. A write takes a lock, reads the file again, merges, and replaces the file
in one step, so a reader never sees half a file and two processes never lose each other's entries.
A file that cannot be used (not JSON, another format) is ignored with a warning and rebuilt.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..kernels.generated import cache_directory

try:
    import fcntl
except ImportError:  # Windows: writes are still atomic, but two at once may lose an entry
    fcntl = None  # type: ignore[assignment]

__all__ = ["CacheWarning", "Key", "TuningCache", "autotune", "cache_directory"]

FORMAT = "flashrnn_numba tuning cache"
VERSION = 1


class CacheWarning(UserWarning):
    """The cache file could not be used; tuning goes on without it."""


@dataclass(frozen=True)
class Key:
    """What a tuning result depends on.

    device -- its name; driver -- its driver's version; package -- this package's version;
    kernel -- which kernel; shape -- the class of shapes, such as "lstm bf16 H1 D768 B16".
    """

    device: str
    driver: str
    package: str
    kernel: str
    shape: str

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, str):
                raise TypeError(f"{name}: expected a str, got {value!r}")

    def text(self) -> str:
        return json.dumps(list(asdict(self).values()), ensure_ascii=False)


class TuningCache:
    """Winning tilings by `Key`, in `directory` (default: `cache_directory()`).

    Neither `get` nor `put` ever raises because of the file: a cache that cannot be read is
    empty, one that cannot be written keeps nothing, and both say so in a `CacheWarning`.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(directory or cache_directory()) / "tuning.json"

    def get(self, key: Key) -> dict[str, int] | None:
        """The tiling kept for `key`, or None."""
        entry = self._read().get(key.text())
        return dict(entry["tiling"]) if entry else None

    def put(self, key: Key, tiling: dict[str, int], seconds: float) -> None:
        """Keep `tiling`, which took `seconds`, for `key`."""
        entry = {"tiling": {k: int(v) for k, v in tiling.items()}, "seconds": float(seconds)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                entries = self._read()
                entries[key.text()] = entry
                self._replace(entries)
        except OSError as error:
            warnings.warn(
                f"the tuning cache {self.path} cannot be written ({error}); set "
                "FLASHRNN_NUMBA_CACHE_DIR to a writable directory",
                CacheWarning,
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, Any]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            return self._ignored(str(error))
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            return self._ignored(f"not JSON: {error}")
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            return self._ignored(f"it is not a {FORMAT}")
        if data.get("version") != VERSION:
            return self._ignored(f"version {data.get('version')!r}, expected {VERSION}")
        entries = data.get("entries")
        if not isinstance(entries, dict):
            return self._ignored("it has no entries")
        good = {key: entry for key, entry in entries.items() if _usable(entry)}
        if len(good) < len(entries):
            self._ignored(f"{len(entries) - len(good)} of its entries are damaged")
        return good

    def _ignored(self, why: str) -> dict[str, Any]:
        warnings.warn(
            f"the tuning cache {self.path} is ignored and will be rebuilt: {why}",
            CacheWarning,
            stacklevel=4,
        )
        return {}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # The lock is a file of its own: the cache file itself is replaced at each write.
        with open(self.path.with_suffix(".lock"), "a", encoding="utf-8") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # closing the file releases the lock

    def _replace(self, entries: dict[str, Any]) -> None:
        data = {"format": FORMAT, "version": VERSION, "entries": entries}
        handle, name = tempfile.mkstemp(prefix="tuning.", suffix=".tmp", dir=self.path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(data, file, indent=1, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def _usable(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("tiling"), dict):
        return False
    return all(type(v) is int for v in entry["tiling"].values())


def autotune(
    candidates: Iterable[dict[str, int]],
    measure: Callable[[dict[str, int]], float],
    key: Key,
    cache: TuningCache | None = None,
) -> dict[str, int]:
    """The fastest of `candidates`, measured once and remembered.

    candidates -- tilings, best guess first (`Problem.best`); not touched if the cache knows.
    measure -- seconds that a tiling takes. One that raises is passed over with a warning.

    Raises ValueError if there is no candidate, RuntimeError if none could be measured.
    """
    if cache is not None:
        known = cache.get(key)
        if known is not None:
            return known
    best, least, failed = None, float("inf"), 0
    for tiling in candidates:
        try:
            seconds = float(measure(tiling))
        except Exception as error:
            failed += 1
            warnings.warn(f"tiling {tiling} was passed over: {error!r}", stacklevel=2)
            continue
        if seconds < least:  # the first wins a tie; NaN never wins
            best, least = tiling, seconds
    if best is None:
        if not failed:
            raise ValueError("candidates: expected at least one tiling with a finite time")
        raise RuntimeError(f"none of {failed} tilings could be measured for {key}; see warnings")
    if cache is not None:
        cache.put(key, best, least)
    return dict(best)
