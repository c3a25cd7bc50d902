"""The map of `plan --sweep` as a picture: a square for each head dimension and batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..tuning.models.registry import models
from ..tuning.sweep import Sweep
from .parity_plot import COLOURS, FAINT, INK

MORE = ("#9a6700", "#57606a")  # olive, grey


def draw(found: Sweep, path: Path) -> None:
    """Forward and backward side by side; numbers are the expected microseconds of a step."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style: Any = {
        "svg.hashsalt": "flashrnn_numba",  # the same file for the same numbers
        "svg.fonttype": "none",
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    rows, columns = len(found.head_dims), len(found.batches)
    with mpl.rc_context(style):
        size = (2.6 + 1.3 * columns, 2.4 + 0.26 * rows)
        figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
        for ax, direction in zip(axes, ("forward", "backward"), strict=True):
            _panel(ax, found, direction)
        axes[0].set_ylabel("head dimension")
        figure.suptitle(f"{found.title}: kernel, and expected µs a step", fontsize=10)
        _legend(figure, found)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=200, metadata=metadata)
        plt.close(figure)


def _colours() -> dict[str, str]:
    """A colour for each kind of kernel, the same in every map."""
    palette = (*COLOURS, *MORE)
    kinds = [kind for model in models() for kind in model.kinds()]
    return {kind: palette[i % len(palette)] for i, kind in enumerate(kinds)}


def _panel(ax: Any, found: Sweep, direction: str) -> None:
    from matplotlib.patches import Rectangle

    colours = _colours()
    for y, D in enumerate(found.head_dims):
        for x, B in enumerate(found.batches):
            place = found.at(D, B)
            kernel = getattr(place, direction)
            step = getattr(place, f"{direction}_ns") / 1e3
            ax.add_patch(Rectangle((x, y), 0.96, 0.94, color=colours[kernel], linewidth=0))
            label = f"{step:.2f}" if step < 10 else f"{step:.0f}"
            ax.text(x + 0.48, y + 0.47, label, ha="center", va="center", color="white", fontsize=8)
    ax.set_xlim(0, len(found.batches))
    ax.set_ylim(0, len(found.head_dims))
    ax.set_xticks([x + 0.48 for x in range(len(found.batches))], [str(B) for B in found.batches])
    ax.set_yticks(
        [y + 0.47 for y in range(len(found.head_dims))], [str(D) for D in found.head_dims]
    )
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(direction, fontsize=10)
    ax.set_xlabel("batch rows")


def _legend(figure: Any, found: Sweep) -> None:
    from matplotlib.patches import Patch

    colours = _colours()
    used = {kernel for place in found.places for kernel in (place.forward, place.backward)}
    handles = []
    for line in found.largest_heads():
        name, _, largest = line.partition(":")
        if name in used:
            text = f"{name}, largest head:{largest}"
            handles.append(Patch(color=colours[name], label=text))
    figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize=8)
