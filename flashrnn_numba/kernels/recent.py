"""A bounded memory of what was worked out before."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any


class Recent:
    """Values by key; forgets what was not asked for while `size` others were put in.

    Two generations instead of an order of use: a look-up is one of a dict, without a lock. Holds
    `2 * size` values at most. Any thread may use it; two may work out the same value.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._young: dict[Hashable, Any] = {}
        self._old: dict[Hashable, Any] = {}

    def get(self, key: Hashable) -> Any:
        """The value, or None."""
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: Hashable, value: Any) -> None:
        with self._lock:
            if len(self._young) >= self._size:
                self._old, self._young = self._young, {}
            self._young[key] = value

    def clear(self) -> None:
        with self._lock:
            self._young, self._old = {}, {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())
