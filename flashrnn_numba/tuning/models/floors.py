"""What a time step cannot avoid, in nanoseconds: measured on one H200 (132 SMs, driver 580) unless
it says "estimate". Other cards are planned with the same figures, or with the same cycles where a
model counts these.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from ..hardware import Device

GRID_BARRIER = {8: 629.0, 32: 815.0, 64: 829.0, 132: 875.0}  # blocks -> one atomic counter
CLUSTER_BARRIER = 200.0
# data through L2 within a cluster, its barrier included: bytes a block -> {blocks -> ns}
THROUGH_L2 = {
    256: {2: 668.0, 4: 674.0, 8: 696.0, 16: 717.0},
    1024: {2: 683.0, 4: 704.0, 8: 907.0, 16: 875.0},
    3072: {2: 924.0, 4: 952.0, 8: 1252.0, 16: 1436.0},
}

# Two dependent nodes of a replayed CUDA graph: from the end of one to the start of the next.
GRAPH_NODE = 1300.0  # estimate
SMALL_PRODUCT = 3500.0  # estimate: a cuBLAS product that fills no SM, from start to end
POINTWISE = 1500.0  # estimate: a kernel that loads, computes a cell and stores once
FITTED_GHZ = 1.98  # of the H200 that costs were fitted to
LAUNCH = 10_000.0  # one launch from Python with a few arguments


def origin_of_times(device: Device) -> str:
    """Where a plan's times come from, for people."""
    if "H200" in device.name:
        return "times: from measurements on an H200"
    if "H100" in device.name and device.sms == 132:
        return (
            "times: from measurements on an H200, the same chip with more memory; not on this card"
        )
    return "times: scaled from an H200 by clocks and tensor cores; not measured on this card"


def interpolate(table: Mapping[int, float], at: int) -> float:
    """Between the measured points along a straight line; beyond them the last slope goes on."""
    keys = sorted(table)
    if len(keys) == 1 or at <= keys[0]:
        return table[keys[0]]
    i = min(max(bisect_left(keys, at), 1), len(keys) - 1)
    low, high = keys[i - 1], keys[i]
    return table[low] + (table[high] - table[low]) * (at - low) / (high - low)


def grid_barrier(blocks: int) -> float:
    return interpolate(GRID_BARRIER, blocks)


def exchange_through_l2(blocks: int, bytes_each: int) -> float:
    """Every block gives so many bytes to all others through global memory, without a barrier."""
    by_bytes = {size: interpolate(row, blocks) for size, row in THROUGH_L2.items()}
    return interpolate(by_bytes, bytes_each) - CLUSTER_BARRIER


def products_per_clock(device: Device, dtype: str) -> float:
    """Dense multiply-adds of one SM and clock on the tensor cores; 0: it has none for the dtype."""
    peak = {"bfloat16": device.bf16_tflops, "float16": device.fp16_tflops}.get(dtype, 0.0)
    return peak * 1e12 / 2 / (device.sms * device.clock_ghz * 1e9)


def plain_products_per_clock(device: Device, dtype: str) -> float:
    """Multiply-adds of one SM and clock without tensor cores."""
    if dtype != "float64":
        return float(device.fp32_lanes)
    # data-centre chips have half as many float64 lanes, all others a 64th
    return device.fp32_lanes / (2 if device.compute_capability in ((8, 0), (9, 0), (10, 0)) else 64)
