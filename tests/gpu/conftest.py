"""Tests that need a CUDA device: skipped, each one, where there is none."""

from pathlib import Path

import device_support
import pytest


def _missing() -> str:
    try:
        import cupy

        return "" if cupy.cuda.runtime.getDeviceCount() else "no CUDA device"
    except Exception as error:  # not installed, no driver: each raises something else
        return f"no CUDA device ({type(error).__name__})"


def pytest_collection_modifyitems(items):
    here = [item for item in items if Path(item.path).parent == Path(__file__).parent]
    reason = _missing() if here else ""
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def poisoned():
    """Of all tests, also those that ask for no memory by way of device_support."""
    device_support.poison()
