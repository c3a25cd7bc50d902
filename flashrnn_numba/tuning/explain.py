"""A plan as text. docs/plan.md explains each part."""

from __future__ import annotations

from collections.abc import Sequence

from .binding import TIGHT, Binding
from .candidates import Candidate, Refusal, evaluate_model
from .models.common import limits, whole
from .plan import Pass, Plan


def explain(plan: Plan, next_best: int) -> str:
    if plan.device is None:
        return "\n".join([_title(plan), *_cpu()])
    blocks = [_title(plan)]
    for part in plan.passes:
        chosen = plan.chosen(part.direction)
        assert chosen is not None
        blocks.append(_section(chosen, part, next_best))
    return "\n\n".join(blocks)


def _title(plan: Plan) -> str:
    t, device = plan.task, plan.device
    heads = "1 head" if t.H == 1 else f"{t.H} heads"
    problem = f"{t.cell.name}, {t.dtype}, {t.B} rows, {t.T} steps, {heads} of {t.D}"
    if t.precision != "auto":
        problem += f", precision {t.precision}"
    if device is None:
        return f"{problem}, on the CPU ({plan.why})"
    major, minor = device.compute_capability
    lines = [
        f"{problem}, on {device.name} (sm_{major}{minor}, {device.sms} SMs; {plan.why})",
        f"backend {plan.backend}: {_time(plan.seconds)} expected, forward and backward",
    ]
    faster = plan.faster_backend()
    if faster is not None:
        name, seconds = faster
        lines.append(f"by its model backend {name} would take less: {_time(seconds)}")
    return "\n".join(lines)


def _cpu() -> list[str]:
    return [
        "backend cpu: compiled for this cell, R packed for the cache, strips of units on threads",
        "threads: FLASHRNN_NUMBA_THREADS, else one for each core that the process may use",
        "No time is predicted for the CPU. To plan for a GPU, name one: device='H200'.",
    ]


def _section(chosen: Candidate, part: Pass, next_best: int) -> str:
    model = chosen.setting.model
    lines = [f"{part.direction.upper()}: {chosen.kind} ({model.label(chosen.solution)})"]
    if model.note:
        lines.append(f"  {model.note}")
    lines += _indent(_expected(chosen))
    lines += ["", "  tiling"]
    lines += _indent(columns([[k, v] for k, v in chosen.tiling.items()]), 4)
    lines += ["", *_indent(_limits(chosen))]
    lines += ["", *_indent(_binding(chosen.binding(), chosen))]
    lines += ["", *_indent(_next_tilings(chosen, next_best))]
    others = [*_other_kinds(chosen), *(c for c in part.able if c is not chosen)]
    others.sort(key=lambda c: c.seconds)
    if others:
        lines += ["", "  other kernels"]
        lines += _indent(columns([_other(c, chosen) for c in others], "<>><"), 4)
    if part.refused:
        lines += ["", "  out of the question"]
        for refusal in part.refused:
            lines += _indent(_refusal(refusal), 4)
    return "\n".join(lines)


def _expected(chosen: Candidate) -> list[str]:
    step = sum(chosen.parts.values())
    waves = chosen.residency.waves
    line = f"expected {_time(chosen.seconds)}: {chosen.setting.task.T} steps"
    line += f" of {_time(step * 1e-9)}"
    if waves > 1 and chosen.footprint.persistent:
        line += f" in each of {waves} waves"
    rows = [line]
    parts = [f"{name} {_time(ns * 1e-9)}" for name, ns in chosen.parts.items()]
    rows.append("  a step: " + " + ".join(parts))
    return rows


def _limits(chosen: Candidate) -> list[str]:
    rows = [["resource", "used", "limit", "share", ""]]
    for row in limits(chosen.footprint, chosen.setting.device):
        share = f"{100 * row.used / row.limit:.0f} %" if row.limit else ""
        rows.append([row.name, whole(row.used), whole(row.limit), share, row.unit])
    z, lies = chosen.footprint, chosen.residency
    if z.cluster > 1:
        total = f"{-(-z.blocks // z.cluster)} clusters of {z.cluster}, {lies.clusters} at once"
    else:
        total = f"{whole(z.blocks)} blocks, {whole(lies.blocks)} at once"
    waves = "1 wave" if lies.waves == 1 else f"{lies.waves} waves"
    together = "; all wait for each other" if z.together else ""
    return [*columns(rows, "<>>><"), f"in all {total}: {waves}{together}"]


def _binding(rows: list[Binding], chosen: Candidate) -> list[str]:
    if not rows:
        full = [
            row.name
            for row in limits(chosen.footprint, chosen.setting.device)
            if row.used >= TIGHT * row.limit and row.unit != "blocks"
        ]
        least = f"{100 * TIGHT:.0f} %"
        if full:
            return [f"binding: no constraint alone; at {least} of the device: {', '.join(full)}"]
        return [f"binding: nothing; no limit of the tiling is used to {least}"]
    table = [
        [row.name, f"{whole(row.left)} {row.sign} {whole(row.right)}", row.unit, _gain(row.without)]
        for row in rows
    ]
    return [f"binding (at {100 * TIGHT:.0f} % of the limit or more)", *_indent(columns(table))]


def _gain(without: float | None) -> str:
    if without is None:
        return "without it: not settled"
    percent = 100 * (1 - without)
    return f"without it: cost {percent:.0f} % lower" if percent >= 0.5 else "without it: the same"


def _next_tilings(chosen: Candidate, count: int) -> list[str]:
    best = chosen.best(count + 1) if count else [chosen]
    if len(best) == 1:
        return ["next best tilings: none asked for" if not count else "no other tiling fits"]
    rows = []
    for other in best[1:]:
        more = 100 * (other.cost / max(1, chosen.cost) - 1)
        changes = [
            f"{name} {chosen.solution[name]} -> {value}"
            for name, value in other.solution.items()
            if value != chosen.solution[name]
        ]
        rows.append([f"cost +{more:.1f} %", ", ".join(changes)])
    return ["next best tilings", *_indent(columns(rows))]


def _other(other: Candidate, chosen: Candidate) -> list[str]:
    ratio = f"x {other.seconds / chosen.seconds:.2f}" if chosen.seconds else ""
    backend = other.setting.model.backend
    where = "" if backend == chosen.setting.model.backend else f"backend {backend}"
    return [other.kind, _time(other.seconds), ratio, where]


def _other_kinds(chosen: Candidate) -> list[Candidate]:
    """The best of each kind of the chosen kernel that lost."""
    s = chosen.setting
    kinds = {kind: alone for kind, alone in s.model.kinds().items() if kind != chosen.kind}
    found = [evaluate_model(alone, s.task, s.device, s.direction) for alone in kinds.values()]
    return [c for c in found if isinstance(c, Candidate)]


def _refusal(refusal: Refusal) -> list[str]:
    if refusal.reason is not None:
        return [f"{refusal.name}: {refusal.reason}"]
    names = ", ".join(f"`{name}`" for name in refusal.conflict())
    at = ", ".join(f"{name} {value}" for name, value in refusal.closest().items())
    even = f", even with {at}" if at else ""
    lines = [f"{refusal.name}: no tiling{even}; these cannot hold together: {names}"]
    lines += [f"  {line}" for line in refusal.shortfalls()]
    remedies = refusal.remedies()
    if remedies:
        lines.append(f"  it would fit with {', or '.join(remedies)}")
    return lines


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def columns(rows: Sequence[Sequence[str]], sides: str = "") -> list[str]:
    """Rows in columns as wide as they need; sides: "<" or ">" for each column."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    sides = sides.ljust(len(widths), "<")
    return [
        "  ".join(f"{text:{s}{w}}" for text, s, w in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]


def _indent(lines: Sequence[str], by: int = 2) -> list[str]:
    return [" " * by + line if line else "" for line in lines]
