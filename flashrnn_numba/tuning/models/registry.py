"""The list of all models. Those of one backend stand in the order in which it tries them: the first
that has a tiling is what runs. A new kernel adds one line."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from .common import Model

# module and class; imported when asked for, since a model may bring its kernel's arithmetic along
ENTRIES = (
    ("tensor_cores", "TensorCores"),
    ("portable", "Portable"),
    ("alternating", "Alternating"),
)


@cache
def models() -> tuple[Model, ...]:
    return tuple(
        getattr(import_module(f".{module}", __package__), name)() for module, name in ENTRIES
    )


def model(name: str) -> Model:
    """The model, or one kind of a model alone, by its name. ValueError says which there are."""
    named = {kind: alone for one in models() for kind, alone in one.kinds().items()}
    named |= {one.name: one for one in models()}
    if name not in named:
        raise ValueError(f"name: no model {name!r}; there are {', '.join(named)}")
    return named[name]
