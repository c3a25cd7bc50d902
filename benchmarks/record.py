"""What a recorded result says of where it comes from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "numba", "numba-cuda", "cupy-cuda13x", "cupy-cuda12x", "torch", "flashrnn")


def origin() -> dict[str, Any]:
    """Device, versions, date, commit and command."""
    return {
        "device": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), **_versions(), **_of_the_gpu()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """As JSON, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _of_the_gpu() -> dict[str, str]:
    """Of the driver's CUDA and of cuDNN, where this process uses them."""
    found = {}
    if cupy := sys.modules.get("cupy"):
        with suppress(Exception):
            found["driver_cuda"] = str(cupy.cuda.runtime.driverGetVersion())
    if torch := sys.modules.get("torch"):
        with suppress(Exception):
            found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def _commit() -> str:
    """COMMIT says it where files were copied without the repository's latest commits."""
    if told := os.environ.get("COMMIT"):
        return told
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    flags = next((x for x in lines if x.startswith("flags")), "")
    return model + (" (AVX-512)" if "avx512f" in flags else "")
