"""Accuracy over string length, one panel for each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..training import TRAINED

INK, FAINT, SHADE = "#24292f", "#8c959f", "#eaeef2"
COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df")  # blue, orange, green, violet


def draw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw runs (as the JSON record holds them): the mean over seeds, and each seed as a dot."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cells = list(dict.fromkeys(run["cell"] for run in runs))
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
    with mpl.rc_context(style):
        figure, axes = plt.subplots(
            1,
            len(cells),
            figsize=(1.2 + 2.1 * len(cells), 2.6),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for i, (cell, ax) in enumerate(zip(cells, axes[0], strict=True)):
            own = [run["accuracy"] for run in runs if run["cell"] == cell]
            _panel(ax, own, COLOURS[i % len(COLOURS)])
            seeds = "1 seed" if len(own) == 1 else f"{len(own)} seeds"
            ax.set_title(f"{cell}  ({seeds})", fontsize=10)
        axes[0, 0].set_ylabel("accuracy")
        figure.supxlabel("length of the bit string", fontsize=9)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=200, metadata=metadata)
        plt.close(figure)


def _panel(ax: Any, own: Sequence[Mapping[str, float]], colour: str) -> None:
    ax.axvspan(TRAINED.first, TRAINED.last, color=SHADE, linewidth=0)
    ax.text(TRAINED.last / 1.15, 0.44, "trained", ha="right", fontsize=8, color=FAINT)
    ax.axhline(0.5, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    ax.text(1100, 0.51, "chance", ha="right", fontsize=8, color=FAINT)
    middles, means = [], []
    for name in own[0]:
        first, last = map(int, name.split("-"))
        middle = (first * last) ** 0.5  # of the bucket, on a logarithmic axis
        values = [accuracy[name] for accuracy in own]
        mean = sum(values) / len(values)
        ax.plot([first, last], [mean, mean], color=colour, linewidth=3, solid_capstyle="butt")
        ax.plot([middle] * len(values), values, ".", color=colour, markersize=7)
        middles.append(middle)
        means.append(mean)
    ax.plot(middles, means, color=colour, linewidth=1)
    ax.set_xscale("log", base=2)
    ticks = [1, 4, 16, 40, 128, 512]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_xlim(0.9, 1200)
    ax.set_ylim(0.4, 1.05)
    ax.spines[["top", "right"]].set_visible(False)
