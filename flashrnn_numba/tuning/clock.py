"""The time limit of a search, wherever it is spent: in the model, in a table, in propagation."""

from __future__ import annotations

from time import perf_counter

__all__ = ["Clock", "Limit"]


class Limit(Exception):  # noqa: N818 -- inside the search: which limit was reached
    """Becomes a `SearchLimit` in `Problem`, which knows the names."""


class Clock:
    """start -- when the search began, by perf_counter; time_limit -- seconds from then, or None."""

    def __init__(self, start: float, time_limit: float | None = None) -> None:
        self.start = start
        self.time_limit = time_limit

    def seconds(self) -> float:
        return perf_counter() - self.start

    def look(self) -> None:
        """Raises Limit once the time is over."""
        if self.time_limit is not None and self.seconds() > self.time_limit:
            raise Limit(f"time_limit={self.time_limit}")
