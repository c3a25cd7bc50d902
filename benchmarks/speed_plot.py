"""The speed table as a picture: how many times as long each peer takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {
    "flashrnn_fused": "#d1495b",
    "flashrnn_alternating": "#edae49",
    "cudnn_fp16": "#00798c",
    "cudnn_bf16": "#66a182",
    "cudnn_fp32": "#30638e",
    "torch_loop": "#8d96a3",
}


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of peer / ours, forward and forward + backward, one group a case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 6), sharey=True, layout="constrained")
    for ax, direction in zip(axes, ("forward", "forward+backward"), strict=True):
        labels, position = [], 0.0
        ours: dict[str, Any] = {}
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


def _case(ours: dict[str, Any]) -> str:
    """Cell, shape and what is not usual: dtype and backend."""
    unusual = [ours["dtype"]] if ours["dtype"] != "bfloat16" else []
    unusual += [ours["backend"]] if ours["backend"] != "auto" else []
    shape = f"{ours['head_dim']} x {ours['heads']}, B {ours['batch']}"
    return ", ".join([f"{ours['cell']} {shape}", *unusual])
