"""Backends by name, and the choice between them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .interface import Backend, Task

_MODULES = {
    "fused": ".fused_backend",
    "alternating": ".alternating",
    "cpu": ".cpu",
    "reference": ".reference",
}
# what "auto" tries, in this order; each backend refuses the kinds of array that it cannot take
# (tuning/plan.py chooses in the same way)
AUTO = ("fused", "alternating", "cpu")


def names() -> tuple[str, ...]:
    return tuple(_MODULES)


def get(name: str) -> Backend:
    return import_module(_MODULES[name], __package__)  # type: ignore[return-value]


def choose(task: Task, backend: str) -> Backend:
    """The backend of this name, or for "auto" the first that can do the task; "alternating" in
    place of "fused" where a head takes the whole device and heads or rows take turns, if that is
    expected to be clearly faster.

    ValueError if the name is unknown, or if the backend cannot do the task: why, and what could.
    """
    if backend == "auto":
        reasons = {}
        for name in AUTO:
            reason = get(name).refuses(task)
            if reason is None:
                return get(_fastest(task) if name == "fused" else name)
            reasons[name] = reason
        raise ValueError(
            "no backend can do this: " + "; ".join(f"{n}: {r}" for n, r in reasons.items())
        )
    if backend not in _MODULES:
        raise ValueError(f"backend must be one of auto, {', '.join(_MODULES)}; got {backend!r}")
    reason = get(backend).refuses(task)
    if reason is not None:
        others = [n for n in _MODULES if n != backend and get(n).refuses(task) is None]
        able = f"; these could: {', '.join(others)}" if others else ""
        raise ValueError(f"backend {backend!r} cannot do this: {reason}{able}")
    return get(backend)


def _fastest(task: Task) -> str:
    """Of a task that "fused" can do."""
    from .machine import gpu

    fused: Any = get("fused")
    device = gpu().device()
    if not fused.takes_turns(task, device):
        return "fused"
    from ..tuning.plan import preferred

    return preferred(task, device)
