"""The list of all models. Those of one backend stand in the order in which it tries them: the first
that has a tiling is what runs. A new kernel adds one line."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from .common import Model

# module and class; imported when asked for, since a model may bring its kernel's arithmetic along
ENTRIES = (
    ("tensor_cores", "TensorCores"),
    ("grid", "Grid"),
    ("portable", "Portable"),
    ("alternating", "Alternating"),
)


@cache
def models() -> tuple[Model, ...]:
    return tuple(
        getattr(import_module(f".{module}", __package__), name)() for module, name in ENTRIES
    )


def model(name: str) -> Model:
    """The model of this name. ValueError says which there are."""
    for one in models():
        if one.name == name:
            return one
    raise ValueError(f"name: no model {name!r}; there are {', '.join(m.name for m in models())}")
