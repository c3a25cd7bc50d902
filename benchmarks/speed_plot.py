"""The speed benchmark as pictures: ratios of the table, curves of the sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

COLOURS = {
    "ours": "#222222",
    "flashrnn_fused": "#d1495b",
    "flashrnn_alternating": "#edae49",
    "cudnn_fp16": "#00798c",
    "cudnn_bf16": "#66a182",
    "cudnn_fp32": "#30638e",
    "torch_loop": "#8d96a3",
}
DIRECTIONS = ("forward", "forward+backward")
Row = dict[str, Any]


def bars(result: dict[str, Any], path: Path) -> None:
    """Bars of peer / ours, forward and forward + backward, one group a case."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(11, 6), sharey=True, layout="constrained")
    for ax, direction in zip(axes, DIRECTIONS, strict=True):
        labels, position = [], 0.0
        ours: Row = {}
        for row in (r for r in result["rows"] if r["direction"] == direction):
            if row["implementation"] == "ours":
                ours = row
                continue
            ratio = row["milliseconds"] / ours["milliseconds"]
            name = row["implementation"]
            ax.barh(position, ratio, color=COLOURS[name], height=0.8)
            ax.text(ratio, position, f" {ratio:.1f}", va="center", fontsize=7)
            labels.append((position, f"{_case(ours)}: {name}"))
            position += 1
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set_yticks([p for p, _ in labels], [text for _, text in labels], fontsize=7)
        ax.set_xscale("log")
        ax.set_xlabel("time of the peer / time of flashrnn_numba")
        ax.set_title(f"{direction}, T = 1024, {result['device']}", fontsize=9)
    axes[0].invert_yaxis()
    figure.savefig(path)


# what each column of the sweep varies, and which rows it takes
PANELS: tuple[tuple[str, str, Callable[[Row], bool]], ...] = (
    ("head_dim", "head dimension (B 16, T 1024)", lambda r: (r["batch"], r["steps"]) == (16, 1024)),
    ("batch", "batch (T 1024)", lambda r: r["steps"] == 1024 and _often(r)),
    ("steps", "steps (B 16)", lambda r: r["batch"] == 16 and _often(r)),
)


def curves(result: dict[str, Any], path: Path) -> None:
    """Milliseconds over head dimension, batch and steps; a line for each implementation, and for
    each shape where there are two: 64 x 12 (solid) and 768 x 1 (dashed)."""
    plt = _pyplot()
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.5), layout="constrained")
    for line, direction in zip(axes, DIRECTIONS, strict=True):
        for ax, (axis, label, takes) in zip(line, PANELS, strict=True):
            rows = [r for r in result["rows"] if r["direction"] == direction and takes(r)]
            for name in dict.fromkeys(r["implementation"] for r in rows):
                _lines(ax, axis, [r for r in rows if r["implementation"] == name])
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.yaxis.set_minor_formatter("")
            ax.set_xlabel(label, fontsize=8)
            ax.set_ylabel(f"{direction}, ms", fontsize=8)
            ax.tick_params(labelsize=7)
            ax.xaxis.set_major_formatter("{x:.0f}")
    handles = {h.get_label(): h for ax in axes.flat for h in ax.get_legend_handles_labels()[0]}
    axes[0][0].legend(handles=list(handles.values()), fontsize=7)
    figure.suptitle(f"LSTM, bfloat16, {result['device']}", fontsize=9)
    figure.savefig(path)


def _lines(ax: Any, axis: str, rows: Iterable[Row]) -> None:
    # with 768 units in all, heads share them; larger heads and 768 x 1 stand alone
    parts: dict[bool, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["heads"] == 1, []).append(row)
    for alone, own in parts.items():
        own.sort(key=lambda r: r[axis])
        name, style = own[0]["implementation"], "--" if alone else "-"
        label = f"{name}, {'one head' if alone else 'several heads'}"
        points = [r[axis] for r in own], [r["milliseconds"] for r in own]
        ax.plot(*points, style, marker=".", color=COLOURS[name], label=label, linewidth=1)


def _often(row: Row) -> bool:
    return (row["head_dim"], row["heads"]) in ((64, 12), (768, 1))


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _case(ours: Row) -> str:
    """Cell, shape and what is not usual: dtype and backend."""
    unusual = [ours["dtype"]] if ours["dtype"] != "bfloat16" else []
    unusual += [ours["backend"]] if ours["backend"] != "auto" else []
    shape = f"{ours['head_dim']} x {ours['heads']}, B {ours['batch']}"
    return ", ".join([f"{ours['cell']} {shape}", *unusual])
