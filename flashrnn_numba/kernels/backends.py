"""Backends by name, and the choice between them."""

from __future__ import annotations

from importlib import import_module

from .interface import Backend, Task

_MODULES = {
    "fused": ".fused_backend",
    "alternating": ".alternating",
    "cpu": ".cpu",
    "reference": ".reference",
}
# what "auto" tries, in this order; each backend refuses the kinds of array that it cannot take
AUTO = ("fused", "alternating", "cpu")


def names() -> tuple[str, ...]:
    return tuple(_MODULES)


def get(name: str) -> Backend:
    return import_module(_MODULES[name], __package__)  # type: ignore[return-value]


def choose(task: Task, backend: str) -> Backend:
    """The backend of this name, or for "auto" the first that can do the task.

    ValueError if the name is unknown, or if the backend cannot do the task: why, and what could.
    """
    if backend == "auto":
        reasons = {}
        for name in AUTO:
            reason = get(name).refuses(task)
            if reason is None:
                return get(name)
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
