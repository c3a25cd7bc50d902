"""A plan as text. docs/plan.md explains each part."""

from __future__ import annotations

from collections.abc import Sequence

from .candidates import Candidate, Refusal
from .models.common import limits, whole
from .models.floors import origin_of_times
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
        f"backend {plan.backend}: {_time(plan.seconds)} expected, forward and backward, on the "
        "device (without launches and the host)",
        origin_of_times(device),
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
    lines += ["", *_indent(_binding(chosen))]
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
    z, waves = chosen.footprint, chosen.residency.waves
    line = f"expected {_time(chosen.seconds)}: {chosen.setting.task.T} steps"
    line += f" of {_time(step * 1e-9)}"
    if waves > 1 and z.persistent:
        line += f" in each of {waves} waves"
    if z.launches > 1:
        line += f" in each of {z.launches} launches, one after another"
    rows = [line]
    parts = [f"{name} {_time(ns * 1e-9)}" for name, ns in chosen.parts.items()]
    rows.append("  a step: " + " + ".join(parts))
    if chosen.after:
        rows.append(f"weight gradients {_time(chosen.after)}: a matrix product over all steps")
    return rows


def _limits(chosen: Candidate) -> list[str]:
    rows = [["resource", "used", "limit", "share", ""]]
    for row in limits(chosen.footprint, chosen.setting.device):
        share = f"{100 * row.used / row.limit:.0f} %" if row.limit else ""
        rows.append([row.name, whole(row.used), whole(row.limit), share, row.unit])
        if row.name == "registers a thread" and chosen.footprint.needed is not None:
            rows[-1][-1] += f" allowed; by estimate {chosen.footprint.needed} needed"
    return [*columns(rows, "<>>><"), _in_all(chosen)]


def _in_all(chosen: Candidate) -> str:
    z, lies = chosen.footprint, chosen.residency
    if z.cluster > 1:
        total = f"{-(-z.blocks // z.cluster)} clusters of {z.cluster}, {lies.clusters} at once"
    else:
        total = f"{whole(z.blocks)} blocks, {whole(lies.blocks)} at once"
    if z.launches > 1:
        total = f"{z.launches} launches of up to {whole(z.blocks)} blocks, one after another"
        return f"in all {total}; those of a launch wait for each other"
    waves = "1 wave" if lies.waves == 1 else f"{lies.waves} waves"
    return f"in all {total}: {waves}{'; all wait for each other' if z.together else ''}"


def _binding(chosen: Candidate) -> list[str]:
    """What the device's limits cost: those that matter as a table, the others by name."""
    now, rows, others = chosen.step_ns, [], []
    for row in chosen.binding():
        less = 100 * (1 - row.step_ns / now) if now else 0.0
        if less >= 0.5:
            to = f"{_time(now * 1e-9)} -> {_time(row.step_ns * 1e-9)}"
            rows.append([f"{row.name} ({row.there})", to, f"{less:.0f} % less"])
        else:
            others.append(row.name)
    lines = ["binding: a step of the best tiling, had the device twice as much"]
    lines += _indent(columns(rows))
    if others:
        lines.append(f"  no difference: {', '.join(others)}")
    return lines


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
        rows.append([f"cost {more:+.1f} %", ", ".join(changes)])
    return ["next best tilings", *_indent(columns(rows))]


def _other(other: Candidate, chosen: Candidate) -> list[str]:
    ratio = f"x {other.seconds / chosen.seconds:.2f}" if chosen.seconds else ""
    backend = other.setting.model.backend
    where = "" if backend == chosen.setting.model.backend else f"backend {backend}"
    return [other.kind, _time(other.seconds), ratio, where]


def _other_kinds(chosen: Candidate) -> list[Candidate]:
    """The best of each kind of the chosen kernel that lost."""
    found = [chosen.of_kind(kind) for kind in chosen.setting.model.kinds() if kind != chosen.kind]
    return [c for c in found if c is not None]


def _refusal(refusal: Refusal) -> list[str]:
    if refusal.reason is not None:
        return [f"{refusal.name}: {refusal.reason}"]
    names = ", ".join(f"`{name}`" for name in refusal.conflict())
    even = f", even with {closest}" if (closest := refusal.closest()) else ""
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
