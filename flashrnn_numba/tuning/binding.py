"""What holds a kernel back on a device: its step, were there twice as much of one thing.

No single constraint tells: SMs stand in the cost alone, and registers decide how much of R lies in
shared memory. So each limit is raised on the device itself, and the kernel planned anew for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from .hardware import Device
from .models.common import whole

__all__ = ["Binding", "raised"]


@dataclass(frozen=True)
class Binding:
    """What the device has of a thing, and nanoseconds of a step if it had twice as much."""

    name: str
    there: str
    step_ns: float


def raised(device: Device) -> Iterator[tuple[str, str, Device]]:
    """(a limit, what there is, the device with twice as much of it)."""
    for name, there, more in _LIMITS:
        yield name, there(device), more(device)
    largest = device.max_cluster
    if 1 < largest < 16:  # beyond nothing was ever measured
        yield "cluster size", f"{largest} blocks", replace(device, max_cluster=2 * largest)


def _sms(d: Device) -> Device:
    """With as many clusters more."""
    return replace(
        d,
        sms=2 * d.sms,
        gpcs=2 * d.gpcs,
        clusters=tuple((size, 2 * count) for size, count in d.clusters),
        fp16_tflops=2 * d.fp16_tflops,
        bf16_tflops=2 * d.bf16_tflops,
    )


def _registers(d: Device) -> Device:
    return replace(
        d,
        registers_per_thread=2 * d.registers_per_thread,
        registers_per_block=2 * d.registers_per_block,
        registers_per_sm=2 * d.registers_per_sm,
    )


def _shared(d: Device) -> Device:
    return replace(d, shared_per_block=2 * d.shared_per_block, shared_per_sm=2 * d.shared_per_sm)


def _threads(d: Device) -> Device:
    return replace(
        d,
        threads_per_block=2 * d.threads_per_block,
        threads_per_sm=2 * d.threads_per_sm,
        blocks_per_sm_limit=2 * d.blocks_per_sm_limit,
    )


def _memory(d: Device) -> Device:
    return replace(d, memory_gb_s=2 * d.memory_gb_s, l2_bytes=2 * d.l2_bytes)


def _sms_there(d: Device) -> str:
    if d.max_cluster == 1:
        return f"{d.sms}"
    return f"{d.sms}; {d.resident_clusters(d.max_cluster)} clusters of {d.max_cluster} at once"


_LIMITS: tuple[tuple[str, Callable[[Device], str], Callable[[Device], Device]], ...] = (
    ("SMs", _sms_there, _sms),
    (
        "registers",
        lambda d: f"{whole(d.registers_per_sm)} an SM, {d.registers_per_thread} a thread",
        _registers,
    ),
    (
        "shared memory",
        lambda d: f"{whole(d.shared_per_sm)} bytes an SM, {whole(d.shared_per_block)} a block",
        _shared,
    ),
    (
        "threads",
        lambda d: f"{d.threads_per_sm} an SM, {d.threads_per_block} a block",
        _threads,
    ),
    (
        "memory",
        lambda d: f"{whole(round(d.memory_gb_s))} GB/s, {d.l2_bytes >> 20} MiB of L2",
        _memory,
    ),
)
