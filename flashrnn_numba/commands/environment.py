"""What this process runs on: for `info`, and for the records of measurements."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from ..kernels.cpu_threads import thread_count

PACKAGES = (
    "flashrnn-numba",
    "numpy",
    "numba",
    "ml-dtypes",
    "numba-cuda",
    "cupy-cuda12x",
    "cupy-cuda13x",
)

VARIABLES = ("FLASHRNN_NUMBA_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    if "flashrnn-numba" not in found:  # run from a checkout
        found["flashrnn-numba"] = import_module(__package__.split(".")[0]).__version__
    return found


def processor() -> str:
    """The CPU's name, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpus() -> list[str]:
    """Names of the CUDA devices that numba.cuda or CuPy finds; empty where there is none."""
    for names in (_gpus_of_numba, _gpus_of_cupy):
        # without a driver, a package, or a device the two raise many kinds of error
        with suppress(Exception):
            return names()
    return []


def _gpus_of_numba() -> list[str]:
    cuda = import_module("numba.cuda")
    if not cuda.is_available():
        raise RuntimeError("numba.cuda finds no device")
    names = [device.name for device in cuda.list_devices()]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _gpus_of_cupy() -> list[str]:
    runtime = import_module("cupy").cuda.runtime
    count = runtime.getDeviceCount()
    return [runtime.getDeviceProperties(i)["name"].decode() for i in range(count)]


def environment() -> dict[str, Any]:
    """All of the above, as it goes into a record."""
    return {
        "cpu": processor(),
        "threads": thread_count(),
        "gpus": gpus(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
    }
