"""`check_cell`: everything that must hold of a cell, checked on random problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..arrays import DTYPES
from ..cells import Cell, get_cell
from ..kernels import backends as known_backends
from .conditioning import well_conditioned
from .gradients import (
    Difference,
    has_stop_gradient,
    pointwise_differences,
    sequence_differences,
)
from .problem import Problem, oracle_task, random_problem, run, solve
from .tolerances import relative_error, tolerance
from .transfer import kind_for

SHAPES = ((2, 1, 1, 3), (3, 6, 2, 5), (1, 9, 1, 17))  # B, T, H, D
CLIP = 0.5  # cotangents are N(0, 1): it bounds many of the gradients, not all


class CellCheckError(AssertionError):
    """A check failed; the message names cell, backend, dtype, problem, array, error, tolerance."""


class Row(NamedTuple):
    """One array compared: by a backend with the oracle, or a gradient with finite differences."""

    check: str  # a backend's name, or "gradient"
    dtype: str
    problem: str
    array: str
    error: float
    tolerance: float


@dataclass
class Report:
    """What `check_cell` compared (rows) and what it could not (notes); prints as a table."""

    cell: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def worst(self) -> list[Row]:
        """The row nearest to its tolerance for each check and dtype."""
        groups: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            key = row.check, row.dtype
            if key not in groups or _ratio(row) > _ratio(groups[key]):
                groups[key] = row
        return list(groups.values())

    def __str__(self) -> str:
        counts = Counter((r.check, r.dtype) for r in self.rows)
        lines = [f"cell {self.cell}: {len(self.rows)} comparisons"]
        head = ("check", "dtype", "arrays", "largest error", "tolerance", "of")
        table = [head] + [
            (r.check, r.dtype, str(counts[r.check, r.dtype]), f"{r.error:.1e}",
             f"{r.tolerance:.1e}", f"{r.array}, {r.problem}")
            for r in self.worst()
        ]  # fmt: skip
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines += [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def _ratio(row: Row) -> float:
    return row.error / row.tolerance


def check_cell(
    cell: str | Cell,
    backends: Iterable[str] | None = None,
    dtypes: Sequence[str] = tuple(DTYPES),
    shapes: Sequence[tuple[int, int, int, int]] = SHAPES,
    seed: int = 0,
) -> Report:
    """Check a cell; CellCheckError at the first failure, else a report to print.

    1. Its gradient, derived or hand-written, against finite differences in float64: of the
       pointwise function with stop_gradient frozen, and (without stop_gradient) of a sequence.
    2. Every backend (default: all that can run here) against the float64 oracle: states and all
       gradients, in all dtypes, at all shapes (B, T, H, D), with initial states, resets, lengths
       and a gradient clip.

    Tolerances: flashrnn_numba.testing.tolerance. Needs NumPy only.
    """
    cell = get_cell(cell)
    report = Report(cell.name)
    for difference in _differences(cell, seed):
        _add_difference(report, difference)
    chosen = _chosen_backends(backends)
    for dtype in dtypes:
        for problem, condition in _problems(cell, dtype, shapes, seed):
            if condition > 1:
                report.notes.append(
                    f"{dtype}, {problem}: left out, rounding alone changes the results by "
                    f"{condition:.1f} tolerances"
                )
            else:
                _check_backends(report, problem, chosen)
    _note_unchecked(report, chosen, explicit=backends is not None)
    return report


def _differences(cell: Cell, seed: int) -> Iterator[Difference]:
    yield from pointwise_differences(cell, seed)
    if not has_stop_gradient(cell):
        yield from sequence_differences(cell, seed)


def _add_difference(report: Report, difference: Difference) -> None:
    what, error, bound, compared = difference
    if not compared:
        report.notes.append(f"{what}: no point where finite differences converge, not checked")
        return
    row = Row("gradient", "float64", "finite differences", what, error, bound)
    if not error <= bound:
        raise CellCheckError(
            f"cell {report.cell!r}: {what} differs from finite differences by {error:.2g} "
            f"(relative; tolerance {bound:.0e})"
        )
    report.rows.append(row)


def _chosen_backends(names: Iterable[str] | None) -> dict[str, set[str]]:
    """The backends to check; for each the reasons why it refused problems, to be filled in."""
    known = known_backends.names()
    chosen = known if names is None else tuple(names)
    for name in chosen:
        if name not in known:
            raise ValueError(f"backends must be of {', '.join(known)}; got {name!r}")
    return {name: set() for name in chosen}


def _check_backends(report: Report, problem: Problem, chosen: dict[str, set[str]]) -> None:
    expected = solve(problem)
    for backend, refusals in chosen.items():
        kind, reason = kind_for(backend, oracle_task(problem.cell, problem.inputs))
        if kind is None:
            refusals.add(reason)
            continue
        for row in compare(problem, backend, kind, expected):
            if not row.error <= row.tolerance:
                raise CellCheckError(describe(problem, row))
            report.rows.append(row)


def _note_unchecked(report: Report, chosen: dict[str, set[str]], explicit: bool) -> None:
    """Notes on what was refused; an error if a backend asked for, or every one, refused all."""
    checked = {row.check for row in report.rows}
    for backend, refusals in chosen.items():
        part = "some problems" if backend in checked else "all problems"
        report.notes += [f"backend {backend} refused {part}: {why}" for why in sorted(refusals)]
        if explicit and backend not in checked:
            raise CellCheckError(
                f"cell {report.cell!r}: backend {backend!r} could not be checked\n{report}"
            )
    if not checked & set(chosen):
        raise CellCheckError(f"cell {report.cell!r}: nothing could be checked\n{report}")


def _problems(
    cell: Cell, dtype: str, shapes: Sequence[tuple[int, int, int, int]], seed: int
) -> Iterator[tuple[Problem, float]]:
    variants: tuple[dict, ...] = (
        {"states": False},
        {"reset": True, "lengths": True},
        {"reset": True, "lengths": True, "clip": CLIP},
    )
    for shape in shapes:
        for options in variants:
            yield well_conditioned(
                lambda i, shape=shape, options=options: random_problem(  # type: ignore[misc]
                    cell, dtype, shape, seed=seed + 1000 * i, **options
                )
            )


def compare(
    problem: Problem,
    backend: str,
    kind: str = "numpy",
    expected: dict[str, np.ndarray] | None = None,
) -> list[Row]:
    """A backend's results next to the oracle's, array by array."""
    expected = expected or solve(problem)
    got = run(problem, backend, kind)
    B, T, _, D = problem.shape
    bound = tolerance(problem.dtype, T, D, B)
    return [
        Row(
            backend,
            problem.dtype,
            str(problem),
            name,
            relative_error(got[name], array) if name in got else float("inf"),
            bound,
        )
        for name, array in expected.items()
    ]


def describe(problem: Problem, row: Row) -> str:
    return (
        f"cell {problem.cell.name!r}, backend {row.check!r}, {row.dtype}, {row.problem}: "
        f"{row.array} differs from the oracle by {row.error:.2g} "
        f"(relative; tolerance {row.tolerance:.2g})"
    )


def check_problem(problem: Problem, backend: str, kind: str = "numpy") -> None:
    """CellCheckError if a backend's results are not the oracle's, within the tolerance."""
    for row in compare(problem, backend, kind):
        if not row.error <= row.tolerance:
            raise CellCheckError(describe(problem, row))
