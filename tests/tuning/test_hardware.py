"""Device limits and occupancy, against figures worked out by hand or reported by a driver."""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from flashrnn_numba.tuning import Device, DeviceNotFoundError

NAMES = ["A100", "H100", "H200", "L40S", "RTX 4090", "B200", "T4"]


def has_gpu() -> bool:
    try:
        Device.query(measure_clusters=False)
    except DeviceNotFoundError:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_limits_are_consistent(name):
    d = Device.named(name)
    assert d.name == name
    assert d.sms > 0
    assert d.shared_per_block + d.shared_reserved <= d.shared_per_sm
    assert d.warps_per_sm * 32 == d.threads_per_sm
    assert d.portable_cluster <= d.max_cluster
    assert (d.max_cluster > 1) == bool(d.gpcs)
    assert sum(d.gpcs) in (0, d.sms)
    # The tensor cores' peak is a whole power of two of multiply-adds an SM and clock, within
    # the difference between the boost clock of the datasheet and the highest clock.
    per_clock = d.fp16_tflops * 1e12 / (2 * d.sms * d.clock_ghz * 1e9)
    nearest = 2 ** round(math.log2(per_clock))
    assert 0.85 < per_clock / nearest < 1.05


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("h200", "H200"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("nvidia geforce rtx 4090", "RTX 4090"),
        ("rtx-4090", "RTX 4090"),
        ("RTX4090", "RTX 4090"),
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("l40s", "L40S"),
    ],
)
def test_names_are_forgiving(alias, name):
    assert Device.named(alias) is Device.named(name)


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"no device 'V100'.*A100, H100.*T4.*Device.query"):
        Device.named("V100")
    with pytest.raises(TypeError, match="expected a str"):
        Device.named(90)
    with pytest.raises(ValueError, match=r"^device: no device 'H300'") as error:
        Device.named("H300", "device")
    assert all(str(error.value).count(f"{name},") <= 1 for name in NAMES)


def test_device_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Device.named("T4").sms = 41


# threads, registers, shared bytes, blocks an SM. Worked out from the rules of cuda_occupancy.h;
# the limit that binds is named.
@pytest.mark.parametrize(
    ("name", "threads", "registers", "shared", "blocks"),
    [
        ("H200", 1024, 32, 0, 2),  # threads: 2048 / 1024
        ("H200", 32, 16, 0, 32),  # blocks
        ("H200", 256, 128, 0, 2),  # registers: 128 * 32 = 4096 a warp, 16 warps
        ("H200", 256, 129, 0, 1),  # 129 * 32 rounds up to 4352: 3 warps a sub-partition, 12 in all
        ("H200", 96, 255, 0, 2),  # 8192 a warp: 8 warps, 3 a block
        ("H200", 512, 255, 0, 0),  # 16 warps of 8192 are 131072 registers
        ("H200", 128, 32, 232_448, 1),  # all that a block may have
        ("H200", 128, 32, 232_449, 0),
        ("H200", 128, 32, 113 * 1024, 2),  # 2 * (113 + 1) KiB == 228 KiB
        ("H200", 128, 32, 113 * 1024 + 1, 1),
        ("H200", 160, 200, 0, 1),  # 6400 a warp: 8 warps, 5 a block
        ("H200", 288, 176, 0, 0),  # 9 warps of 5632 would fit, but a block counts as 12
        ("H200", 1025, 32, 0, 0),
        ("A100", 128, 32, 163 * 1024, 1),
        ("A100", 128, 32, 40 * 1024, 4),  # 4 * 41 == 164 KiB
        ("RTX 4090", 1024, 32, 0, 1),  # threads: 1536 / 1024
        ("RTX 4090", 64, 32, 0, 24),  # blocks
        ("L40S", 128, 32, 49 * 1024, 2),  # 2 * 50 KiB
        ("T4", 128, 32, 32 * 1024, 2),  # nothing is reserved before 8.0
        ("T4", 256, 32, 0, 4),
        ("T4", 32, 32, 0, 16),
    ],
)
def test_blocks_per_sm(name, threads, registers, shared, blocks):
    assert Device.named(name).blocks_per_sm(threads, registers, shared) == blocks


ORACLE = r"""
#include <cstdio>
#include "cuda_occupancy.h"
int main() {
    cudaOccDeviceProp p;
    cudaOccFuncAttributes f;
    cudaOccDeviceState state;
    state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    unsigned long per_block, per_sm, reserved, dynamic;
    int threads;
    while (std::scanf("%d %d %d %lu %lu %lu %d %d %lu", &p.computeMajor, &p.computeMinor,
                      &p.maxThreadsPerMultiprocessor, &per_sm, &per_block, &reserved,
                      &threads, &f.numRegs, &dynamic) == 9) {
        p.maxThreadsPerBlock = 1024;
        p.regsPerBlock = p.regsPerMultiprocessor = 65536;
        p.warpSize = 32;
        p.numSms = 1;
        p.sharedMemPerBlock = 49152;
        p.sharedMemPerMultiprocessor = per_sm;
        p.sharedMemPerBlockOptin = per_block;
        p.reservedSharedMemPerBlock = reserved;
        f.maxThreadsPerBlock = 1024;
        f.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
        f.maxDynamicSharedSizeBytes = per_block;
        f.numBlockBarriers = 1;
        cudaOccResult r;
        if (cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &f, &state, threads, dynamic))
            r.activeBlocksPerMultiprocessor = 0;
        std::printf("%d\n", r.activeBlocksPerMultiprocessor);
    }
}
"""
HEADERS = Path(sysconfig.get_path("purelib"), "nvidia")


def test_blocks_per_sm_as_the_toolkit_counts_them(tmp_path):
    found = sorted(HEADERS.glob("**/cuda_occupancy.h"))
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not found or compiler is None:
        pytest.skip("needs a C++ compiler and cuda_occupancy.h (package nvidia-cuda-runtime)")
    (tmp_path / "oracle.cpp").write_text(ORACLE)
    program = tmp_path / "oracle"
    command = [compiler, "-w", f"-I{found[-1].parent}", str(tmp_path / "oracle.cpp")]
    subprocess.run([*command, "-o", str(program)], check=True)
    rng = random.Random(0)
    cases = [
        (
            Device.named(rng.choice(NAMES)),
            rng.randint(1, 1024),
            rng.randint(1, 255),
            rng.choice([0, rng.randint(0, 20_000), rng.randint(0, 240_000)]),
        )
        for _ in range(20_000)
    ]
    lines = "".join(
        f"{d.compute_capability[0]} {d.compute_capability[1]} {d.threads_per_sm} "
        f"{d.shared_per_sm} {d.shared_per_block} {d.shared_reserved} {t} {r} {s}\n"
        for d, t, r, s in cases
    )
    answer = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
    expected = [int(line) for line in answer.stdout.split()]
    assert len(expected) == len(cases)
    for (device, *case), blocks in zip(cases, expected, strict=True):
        assert device.blocks_per_sm(*case) == blocks, (device.name, case)


@pytest.mark.parametrize("threads", [32, 96, 128, 256, 384, 512, 768, 1024])
@pytest.mark.parametrize("blocks", [1, 2])
def test_registers_allowed_is_the_largest_that_fits(threads, blocks):
    d = Device.named("H200")
    most = d.registers_allowed(threads, blocks)
    assert d.blocks_per_sm(threads, most, 0) >= blocks
    assert most == 255 or d.blocks_per_sm(threads, most + 1, 0) < blocks


def test_clusters_that_fit():
    d = Device.named("H200")
    counts = {n: d.resident_clusters(n) for n in (1, 2, 4, 8, 16)}
    # One H200 reported (2, 66), (4, 30), (8, 15), (16, 7); the model must not promise more.
    assert counts == {1: 132, 2: 66, 4: 30, 8: 14, 16: 6}
    assert d.resident_clusters(32) == 0
    assert Device.named("A100").resident_clusters(2) == 0
    assert Device.named("A100").resident_clusters(1) == 108
    assert d.resident_clusters(8, threads=256, registers=64, shared_bytes=100 * 1024) == 28
    assert d.resident_clusters(8, threads=512, registers=255, shared_bytes=0) == 0


def test_measured_clusters_overrule_the_model():
    d = dataclasses.replace(Device.named("H200"), clusters=((2, 66), (4, 30), (8, 15), (16, 7)))
    assert d.resident_clusters(16) == 7
    assert d.resident_clusters(8) == 15


def test_resident_blocks():
    assert Device.named("H200").resident_blocks(256, 128, 0) == 264


def test_bad_arguments_are_named():
    d = Device.named("H200")
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        d.blocks_per_sm(0, 32, 0)
    with pytest.raises(ValueError, match="shared_bytes: expected at least 0, got -1"):
        d.blocks_per_sm(32, 32, -1)
    with pytest.raises(ValueError, match="cluster_size"):
        d.resident_clusters(0)


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_query_without_a_gpu_says_so():
    with pytest.raises(DeviceNotFoundError, match=r"Device.named\('H200'\)"):
        Device.query()


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="needs a CUDA device")
def test_query_of_a_real_device():
    d = Device.query()
    assert d.sms > 0
    assert d.driver is not None
    known = [n for n in NAMES if n in d.name]
    for name in known:
        record = Device.named(name)
        same = ["compute_capability", "shared_per_sm", "shared_per_block", "threads_per_sm"]
        same += ["blocks_per_sm_limit", "shared_reserved", "max_cluster", "registers_per_sm"]
        assert {k: getattr(d, k) for k in same} == {k: getattr(record, k) for k in same}
        if d.sms == record.sms:
            for size in (2, 4, 8, 16):
                assert record.resident_clusters(size) <= d.resident_clusters(size)
