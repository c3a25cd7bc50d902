"""Interleaved timing: every implementation once a round, medians over rounds, ratios last."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Milliseconds: median, smallest and largest of the rounds."""

    milliseconds: float
    low: float
    high: float


def interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int = 7, seconds: float = 20.0
) -> dict[str, Timing]:
    """Time the functions in turn, so that a slow spell of the machine hits all of them.

    Stops after `rounds`, or after `seconds` if at least three rounds are done by then.
    """
    for function in functions.values():
        function()
    taken: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    for done in range(rounds):
        if done >= 3 and time.perf_counter() > end:
            break
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            taken[name].append(1e3 * (time.perf_counter() - begin))
    return {
        name: Timing(statistics.median(times), min(times), max(times))
        for name, times in taken.items()
    }
