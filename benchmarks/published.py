"""FlashRNN's own constraints in its own words, where its package is installed.

Its licence does not let us copy them, so they are read from the package's source at run time. The
package itself is not imported: that needs PyTorch and a GPU.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flashrnn_numba.tuning import Device

__all__ = ["PublishedError", "lstm"]

FILE = Path("flashrnn", "flashrnn.py")  # within the package


class PublishedError(RuntimeError):
    """The text cannot be had here; says why."""


def lstm(head_dim: int, heads: int, device: Device, batch: int = 16) -> tuple[str, dict[str, str]]:
    """(text, what each variable is tried by first) for the fused bfloat16 LSTM."""
    path = _path()
    nodes = {
        target.id: node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    names = _names(head_dim, heads, device, batch)
    try:
        text, order = (
            _value(nodes[name], path, names) for name in ("constraint_str", "value_refinements")
        )
    except (KeyError, NameError, AttributeError) as error:
        raise PublishedError(f"{path} is not as in flashrnn 1.0.5: {error!r}") from None
    return text, dict(order)


def _path() -> Path:
    spec = importlib.util.find_spec("flashrnn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / FILE).is_file():
            return path
    raise PublishedError("the package flashrnn is not installed (1.0.5 has the text)")


def _value(node: ast.expr, path: Path, names: dict[str, Any]) -> Any:
    return eval(compile(ast.Expression(node), str(path), "eval"), {"__builtins__": {}}, names)


def _names(head_dim: int, heads: int, device: Device, batch: int) -> dict[str, Any]:
    """What the text is made from there."""
    return {
        "gpu_info": {
            "maxThreadsPerBlock": device.threads_per_block,
            "regsPerMultiprocessor": device.registers_per_sm,
            "multiProcessorCount": device.sms,
            "sharedMemPerBlockOptin": device.shared_per_block,
        },
        "config": SimpleNamespace(
            dtype="bfloat16",
            num_gates_r=4,
            num_gates_w=4,
            hidden_dim=head_dim * heads,
            num_heads=heads,
            batch_size=batch,
            _internal_dtype_size=2,
            _internal_acc_dtype_size=4,
        ),
        "round_to_multiple": lambda number, step: -(-number // step) * step,
        "min": min,
        "VR": lambda name, order: (name, order),
        "LF": "largest",
        "SF": "smallest",
    }
