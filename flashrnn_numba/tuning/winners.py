"""The tiling that won when the solver's best were measured on this very device, for the backends.

With FLASHRNN_NUMBA_AUTOTUNE=k the first call of a shape measures the k best tilings of its kernels
(autotuning.py); the fastest is kept in the tuning cache. Every later call takes what the cache has,
in this process and in others, also without the variable. FLASHRNN_NUMBA_AUTOTUNE=0 takes the
model's best, whatever was measured.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

from ..kernels.interface import Task
from ..kernels.machine import CupyMachine, Machine
from ..kernels.recent import Recent
from .cache import TuningCache
from .models.common import Direction

__all__ = ["forget", "measures", "source", "winner"]

_known = Recent(1024)  # one tuple for each key, of the tiling or None
_measuring = threading.RLock()


def winner(on: Machine, name: str, task: Task, direction: Direction) -> Any:
    """What the kernel of model `name` is given for a task, if it was or is now measured; or None:
    the model decides. Only real devices have winners."""
    if not _measurable(on):
        return None
    # steps count only where indices within a tile of batch rows could run over
    task = replace(task, T=1 << max(0, task.T - 1).bit_length(), clip=None)
    switch = _switch()
    key = (name, direction, task, on.device(), switch)
    found = _known.get(key)
    if found is None:
        if switch == "0" or (switch in ("", "1") and not TuningCache().path.exists()):
            found = (None,)  # without the imports that a look-up needs
        elif on.capturing():
            return None  # nothing can be measured now; perhaps at the next call
        else:
            found = (_look_up(on, name, task, direction),)
        _known.put(key, found)
    return found[0]


def measures() -> bool:
    """Whether a call of a new shape has its kernels measured."""
    return _switch() not in ("", "0", "1")


def source() -> str:
    """Where winners come from: a digest of the cache file, or "" where there are none."""
    if _switch() == "0":
        return ""
    try:
        return hashlib.sha256(TuningCache().path.read_bytes()).hexdigest()
    except OSError:
        return ""


def forget() -> None:
    """What this process remembers; the next call reads the cache file again."""
    _known.clear()


def _switch() -> str:
    return os.environ.get("FLASHRNN_NUMBA_AUTOTUNE", "").strip()


def _measurable(on: Machine) -> bool:
    return isinstance(on, CupyMachine)


def _look_up(on: Machine, name: str, task: Task, direction: Direction) -> Any:
    # these bring all models along, and the kernels, which ask for winners
    from .autotuning import remembered, tries, tune
    from .candidates import Setting
    from .measure import kernel_tiling, measurer
    from .models.registry import model

    setting = Setting(model(name), task, on.device(), direction)
    if tries() < 2:
        solution = remembered(setting)
    else:
        start = cache(lambda: measurer(setting, on))
        # two threads that measure at once would disturb each other
        with _measuring:
            try:
                solution = tune(setting, lambda tiling: start()(tiling))
            except RuntimeError as error:
                warnings.warn(f"{error}; the model's best tiling is used", stacklevel=2)
                solution = None
    return None if solution is None else kernel_tiling(setting, solution)
