"""`plan`: which kernel, which tiling, what it takes of the device and what it will cost, and why.

Needs no GPU and imports neither Numba nor CuPy. docs/plan.md shows how to read `explain`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ..arrays import DTYPES
from ..cells import Cell, get_cell
from ..kernels.backends import AUTO
from ..kernels.interface import Task, check_precision
from .candidates import Candidate, Refusal, evaluate_model
from .hardware import Device, DeviceNotFoundError
from .models.common import DIRECTIONS, Direction, Model, limits
from .models.registry import models

__all__ = ["Pass", "Plan", "plan"]


def plan(
    *,
    B: int,
    T: int,
    H: int,
    D: int,
    function: str | Cell = "lstm",
    dtype: Any = "bfloat16",
    device: str | Device | None = None,
    precision: str = "auto",
) -> Plan:
    """How `flashrnn` would run a problem, without running it.

    B, T, H, D -- rows of the batch, steps, heads, head dimension.
    function -- a cell or the name of one; dtype -- float64, float32, float16 or bfloat16.
    device -- a name (`Device.named`), a `Device`, "cpu", or None: the GPU of this machine if there
        is one, else the CPU.
    precision -- as in `flashrnn`.

    `print(plan.explain())` shows it all. Raises ValueError or TypeError naming the argument.
    """
    sizes = {
        name: _size(name, value, least)
        for name, value, least in (("B", B, 0), ("T", T, 0), ("H", H, 1), ("D", D, 1))
    }
    check_precision(precision)
    found, why = _device(device)
    kind = "numpy" if found is None else "cupy"
    task = Task(get_cell(function), **sizes, dtype=_dtype(dtype), kind=kind, precision=precision)
    return plan_task(task, found, why)


def plan_task(
    task: Task, device: Device | None, why: str = "", among: Iterable[Model] | None = None
) -> Plan:
    """The plan of a task; `among` overrules the list of all models."""
    if device is None:
        return Plan(task, None, (), why)
    chosen = tuple(models() if among is None else among)
    passes = tuple(_pass(task, device, direction, chosen) for direction in DIRECTIONS)
    return Plan(task, device, passes, why)


@dataclass(frozen=True)
class Pass:
    """Every kernel for one direction: those that can do it, in the order of the registry, and the
    others."""

    direction: Direction
    able: tuple[Candidate, ...]
    refused: tuple[Refusal, ...]

    def first(self, backend: str) -> Candidate | None:
        """The kernel that a backend uses: the first that can."""
        return next((c for c in self.able if c.setting.model.backend == backend), None)


@dataclass(frozen=True)
class Plan:
    """Which kernel runs a task on a device (None: the CPU), and what else was looked at.

    passes -- forward and backward; empty on the CPU. why -- why this device.
    """

    task: Task
    device: Device | None
    passes: tuple[Pass, ...]
    why: str = ""

    @cached_property
    def backend(self) -> str:
        """What backend="auto" uses: the first of its list that can do both passes."""
        if not self.passes:
            return "cpu"
        able = self._backends()
        found = next((name for name in AUTO if name in able), None)
        if found is None:
            names = ", ".join(sorted({r.name for p in self.passes for r in p.refused}))
            raise ValueError(f"no kernel on {self.device} can do this; refused: {names}")
        return found

    def faster_backend(self) -> tuple[str, float] | None:
        """(backend, seconds) where the models hold another backend for clearly faster."""
        able = self._backends()
        if not able or self.seconds is None:
            return None
        name = min(able, key=lambda backend: able[backend])
        return (name, able[name]) if able[name] < 0.9 * self.seconds else None

    def _backends(self) -> dict[str, float]:
        """Backends that can do both passes, and their expected seconds."""
        both = {}
        for name in AUTO:
            found = [c for c in (p.first(name) for p in self.passes) if c is not None]
            if found and len(found) == len(self.passes):
                both[name] = sum(c.whole for c in found)
        return both

    def chosen(self, direction: Direction) -> Candidate | None:
        """The kernel that runs this direction; None on the CPU."""
        for part in self.passes:
            if part.direction == direction:
                return part.first(self.backend)
        return None

    @property
    def forward(self) -> Candidate | None:
        return self.chosen("forward")

    @property
    def backward(self) -> Candidate | None:
        return self.chosen("backward")

    @property
    def kernel(self) -> str:
        """The forward kernel: "tensor", "cluster", "grid", "portable", "alternating" or "cpu"."""
        return self.forward.kind if self.forward else "cpu"

    @property
    def seconds(self) -> float | None:
        """Expected time on the device, forward and backward with the weight gradients; None on the
        CPU, for which there is no model. Launches and the host's time are left out, but for one
        launch of each kernel."""
        found = [c for c in (self.forward, self.backward) if c is not None]
        return sum(c.whole for c in found) if found else None

    def explain(self, next_best: int = 3) -> str:
        """All of it as text; next_best -- how many other tilings to show."""
        from .explain import explain

        return explain(self, _size("next_best", next_best, 0))

    def __str__(self) -> str:
        return self.explain()

    def __repr__(self) -> str:
        t = self.task
        where = self.device.name if self.device else "cpu"
        return (
            f"<Plan {t.cell.name} {t.dtype} B={t.B} T={t.T} H={t.H} D={t.D} on {where}: "
            f"{self.kernel}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        t = self.task
        return {
            "task": {
                "cell": t.cell.name, "B": t.B, "T": t.T, "H": t.H, "D": t.D, "dtype": t.dtype,
                "precision": t.precision,
            },
            "device": self.device.name if self.device else "cpu",
            "backend": self.backend,
            "why": self.why,
            **{p.direction: self._direction(p) for p in self.passes},
        }  # fmt: skip

    def _direction(self, part: Pass) -> dict[str, Any]:
        chosen = self.chosen(part.direction)
        assert chosen is not None
        return {
            **_as_dict(chosen),
            "limits": [row._asdict() for row in limits(chosen.footprint, chosen.setting.device)],
            "binding": [asdict(row) for row in chosen.binding()],
            "others": [_as_dict(c) for c in part.able if c is not chosen],
            "refused": [
                {
                    "kernel": r.name,
                    "reason": r.reason,
                    "conflict": r.conflict(),
                    "shortfalls": r.shortfalls(),
                    "would_fit": r.remedies(),
                }
                for r in part.refused
            ],
        }


def _as_dict(candidate: Candidate) -> dict[str, Any]:
    return {
        "kernel": candidate.kind,
        "solution": candidate.solution,
        "tiling": candidate.tiling,
        "footprint": asdict(candidate.footprint),
        "residency": asdict(candidate.residency),
        "parts_ns": candidate.parts,
        "step_ns": candidate.step_ns,
        "seconds": candidate.seconds,
        "weight_gradients_seconds": candidate.after,
    }


def _pass(task: Task, device: Device, direction: Direction, among: tuple[Model, ...]) -> Pass:
    found = [evaluate_model(model, task, device, direction) for model in among]
    able = tuple(c for c in found if isinstance(c, Candidate))
    return Pass(direction, able, tuple(r for r in found if isinstance(r, Refusal)))


def _size(name: str, value: Any, least: int) -> int:
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None
    if size < least:
        raise ValueError(f"{name} must be at least {least}, got {size}")
    return size


def _dtype(dtype: Any) -> str:
    """The name of a dtype given by name, as NumPy's or as a type that NumPy knows."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None)
    name = name or getattr(dtype, "__name__", None) or str(dtype)
    name = str(name).removeprefix("torch.")
    if name not in DTYPES:
        raise TypeError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return name


def _device(device: str | Device | None) -> tuple[Device | None, str]:
    """(the device, None for the CPU; why)."""
    if isinstance(device, Device):
        return device, "as given"
    if isinstance(device, str):
        if device.lower() == "cpu":
            return None, "as asked"
        return Device.named(device, "device"), "by name, from figures on record"
    if device is not None:
        raise TypeError(
            f"device must be a name such as 'H200', a Device, 'cpu' or None, got "
            f"{type(device).__name__}"
        )
    try:
        return Device.query(), "the GPU of this machine"
    except DeviceNotFoundError as error:
        return None, f"no GPU was found: {error}"
