"""The map of which kernel serves which (head dimension, batch), and the largest heads they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..kernels.interface import Task
from .explain import columns
from .hardware import Device
from .heads import largest_head
from .models.common import DIRECTIONS
from .models.registry import models
from .plan import plan_task

HEAD_DIMS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
BATCHES = (1, 4, 16, 64, 256)
MOST = 8192  # head dimensions above are not looked at


@dataclass(frozen=True)
class Place:
    """One point of the map: the kernels forward and backward, expected nanoseconds of a step."""

    D: int
    B: int
    forward: str
    backward: str
    forward_ns: float
    backward_ns: float


@dataclass(frozen=True)
class Sweep:
    """The map for one cell, dtype, number of heads and device.

    largest -- (kernel, direction) -> largest head dimension that it can hold at 16 rows; MOST means
    no limit up to there.
    """

    task: Task
    device: Device
    places: tuple[Place, ...]
    largest: dict[tuple[str, str], int]

    @property
    def head_dims(self) -> list[int]:
        return sorted({place.D for place in self.places})

    @property
    def batches(self) -> list[int]:
        return sorted({place.B for place in self.places})

    def at(self, D: int, B: int) -> Place:
        return next(place for place in self.places if (place.D, place.B) == (D, B))

    @property
    def title(self) -> str:
        t = self.task
        heads = "1 head" if t.H == 1 else f"{t.H} heads"
        return f"{t.cell.name}, {t.dtype}, {heads}, on {self.device.name}"

    def text(self) -> str:
        """Rows: head dimensions; columns: batches; in each: the kernels and us a step."""
        lines = [self.title, "forward / backward kernel, expected us of a step", ""]
        rows = [["head dim", *(f"B = {B}" for B in self.batches)]]
        rows += [[str(D), *(_entry(self.at(D, B)) for B in self.batches)] for D in self.head_dims]
        lines += columns(rows)
        lines += ["", "largest head dimension that a kernel can hold, at 16 rows:"]
        lines += [f"  {line}" for line in self.largest_heads()]
        return "\n".join(lines)

    def largest_heads(self) -> list[str]:
        lines = []
        for name in dict.fromkeys(name for name, _ in self.largest):
            parts = [
                f"{direction} {_head(self.largest[name, direction])}"
                for direction in DIRECTIONS
                if (name, direction) in self.largest
            ]
            lines.append(f"{name}: {', '.join(parts)}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "places": [vars(place) for place in self.places],
            "largest": [
                {"kernel": name, "direction": direction, "head_dim": D}
                for (name, direction), D in self.largest.items()
            ],
        }


def sweep(
    task: Task,
    device: Device,
    head_dims: Sequence[int] = HEAD_DIMS,
    batches: Sequence[int] = BATCHES,
    done: Callable[[], object] = lambda: None,
) -> Sweep:
    """Plan every point; `task` gives cell, heads, dtype and precision. `done` is called after each
    of the points."""
    places = []
    for D in head_dims:
        for B in batches:
            made = plan_task(replace(task, D=D, B=B), device)
            forward, backward = made.forward, made.backward
            assert forward is not None
            assert backward is not None
            places.append(
                Place(D, B, forward.kind, backward.kind, forward.step_ns, backward.step_ns)
            )
            done()
    largest: dict[tuple[str, str], int] = {}
    for model in models():
        for direction in DIRECTIONS:
            at = replace(task, B=16)
            # what it refuses at a head dimension that suits all kernels it refuses at any
            if model.refuses(replace(at, D=64), device, direction) is None:
                for kind, alone in model.kinds().items():
                    largest[kind, direction] = largest_head(alone, at, device, direction, MOST)
    return Sweep(task, device, tuple(places), largest)


def _entry(place: Place) -> str:
    kernels = place.forward
    if place.backward != place.forward:
        kernels += f" / {place.backward}"
    return f"{kernels} {place.forward_ns / 1e3:.2f} / {place.backward_ns / 1e3:.2f}"


def _head(D: int) -> str:
    return "any" if D >= MOST else str(D) if D else "none"
