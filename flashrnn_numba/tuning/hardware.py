"""What a GPU can hold: limits of the devices, by query or by name, and occupancy.

Standard library only, so that a plan for a named device needs no GPU, no numba and no numpy. A
query speaks to the CUDA driver itself (`driver.py`).

Sources of the figures:

[guide]   CUDA C++ Programming Guide, "Compute Capabilities", table "Technical Specifications per
          Compute Capability": threads, warps, blocks, registers, shared memory, cluster sizes.
          Reserved shared memory (1 KiB a block from 8.0 on): section 20.x, "Shared Memory".
[occ]     cuda_occupancy.h of the CUDA Toolkit: how registers and shared memory are allocated.
[T4]      NVIDIA Turing GPU Architecture whitepaper (TU104) and the T4 datasheet.
[A100]    NVIDIA A100 Tensor Core GPU Architecture whitepaper; datasheet, 80 GB SXM.
[H100]    NVIDIA H100 Tensor Core GPU Architecture whitepaper; datasheet, SXM.
[H200]    NVIDIA H200 datasheet, SXM: the H100's chip with 4.8 TB/s.
[Ada]     NVIDIA Ada GPU Architecture whitepaper (RTX 4090, with FP32 accumulation), L40S datasheet.
[B200]    NVIDIA Blackwell architecture brief and HGX B200 datasheet (per GPU, dense).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .driver import DeviceNotFoundError, Driver

__all__ = ["Device", "DeviceNotFoundError"]

# [occ]: registers come in units of 256 a warp; an SM is four sub-partitions with a file each.
REGISTER_UNIT = 256
SUBPARTITIONS = 4
WARP = 32


@dataclass(frozen=True)
class Device:
    """The limits of one kind of GPU. Sizes in bytes, clock in GHz, bandwidth in GB/s.

    max_cluster -- blocks a cluster: the largest that any opt-in allows; portable_cluster without.
    gpcs -- SMs of each GPC (a cluster lives in one). For named devices a model, chosen low: which
        SMs are fused off differs from chip to chip of the same name.
    clusters -- (cluster size, clusters that fit with one block an SM), measured by `query`; where
        present it overrules `gpcs`.
    fp16_tflops, bf16_tflops -- dense tensor-core peak with float32 accumulation; 0: has none.
    """

    name: str
    compute_capability: tuple[int, int]
    sms: int
    shared_per_sm: int
    shared_per_block: int
    threads_per_sm: int
    blocks_per_sm_limit: int
    l2_bytes: int
    clock_ghz: float
    memory_gb_s: float
    fp32_lanes: int
    fp16_tflops: float
    bf16_tflops: float
    max_cluster: int = 1
    portable_cluster: int = 1
    gpcs: tuple[int, ...] = ()
    clusters: tuple[tuple[int, int], ...] = ()
    shared_reserved: int = 1024
    shared_unit: int = 128
    registers_per_sm: int = 65536
    registers_per_block: int = 65536
    registers_per_thread: int = 255
    threads_per_block: int = 1024
    driver: str | None = None

    @property
    def warps_per_sm(self) -> int:
        return self.threads_per_sm // WARP

    @property
    def sm(self) -> int:
        """The compute capability as in `sm_90`."""
        return self.compute_capability[0] * 10 + self.compute_capability[1]

    # -- occupancy ---------------------------------------------------------------------------

    def registers_per_warp(self, registers: int) -> int:
        """What the hardware allocates to a warp whose threads use `registers` each."""
        return -(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT

    def registers_allowed(self, threads: int, blocks: int = 1) -> int:
        """The most registers a thread may use so that `blocks` blocks of `threads` fit an SM."""
        _positive(threads=threads, blocks=blocks)
        most, unit = self.registers_per_thread, REGISTER_UNIT // WARP
        # those of one unit are allocated alike
        for registers in (most, *range((most - 1) // unit * unit, 0, -unit)):
            if self._blocks_by_registers(threads, registers) >= blocks:
                return registers
        return 0

    def blocks_per_sm(self, threads: int, registers: int, shared_bytes: int) -> int:
        """How many such blocks an SM holds at once; 0 if the block cannot run at all.

        threads a block, registers a thread, shared_bytes a block (static and dynamic, without
        the reserved kilobyte). The calculation of cuda_occupancy.h.
        """
        _positive(threads=threads, registers=registers)
        if shared_bytes < 0:
            raise ValueError(f"shared_bytes: expected at least 0, got {shared_bytes}")
        if threads > self.threads_per_block or shared_bytes > self.shared_per_block:
            return 0
        warps = -(-threads // WARP)
        need = shared_bytes + self.shared_reserved
        shared = -(-need // self.shared_unit) * self.shared_unit
        return min(
            self.blocks_per_sm_limit,
            self.warps_per_sm // warps,
            self._blocks_by_registers(threads, registers),
            self.shared_per_sm // shared if shared else self.blocks_per_sm_limit,
        )

    def _blocks_by_registers(self, threads: int, registers: int) -> int:
        if registers > self.registers_per_thread:
            return 0
        warps = -(-threads // WARP)
        per_warp = self.registers_per_warp(registers)
        # A block must fit as if its warps were spread evenly over the sub-partitions; beside
        # other blocks they are counted as they are.
        assumed = -(-warps // SUBPARTITIONS) * SUBPARTITIONS
        if per_warp * assumed > self.registers_per_block:
            return 0
        per_partition = self.registers_per_sm // SUBPARTITIONS // per_warp
        return per_partition * SUBPARTITIONS // warps

    def resident_blocks(self, threads: int, registers: int, shared_bytes: int) -> int:
        """How many such blocks the device holds at once: what a grid barrier may count on."""
        return self.sms * self.blocks_per_sm(threads, registers, shared_bytes)

    def resident_clusters(
        self,
        cluster_size: int,
        threads: int = 32,
        registers: int = 32,
        shared_bytes: int | None = None,
    ) -> int:
        """How many clusters of `cluster_size` such blocks run at once; 0 if it cannot run.

        Without shared_bytes: blocks that take a whole SM's shared memory, so one an SM. A lower
        bound: measured counts where `query` took them, else each GPC filled by itself.
        """
        _positive(cluster_size=cluster_size)
        if cluster_size > self.max_cluster:
            return 0
        shared = self.shared_per_block if shared_bytes is None else shared_bytes
        per_sm = self.blocks_per_sm(threads, registers, shared)
        if cluster_size == 1:
            return self.sms * per_sm
        measured = dict(self.clusters)
        if cluster_size in measured:
            return measured[cluster_size] * per_sm
        # With several blocks an SM, the one-block pattern repeats: no SM need be shared cleverly.
        return per_sm * sum(gpc // cluster_size for gpc in self.gpcs)

    # -- where it comes from -----------------------------------------------------------------

    @staticmethod
    def named(name: str, argument: str = "name") -> Device:
        """The limits of a GPU by its name: A100, H100, H200, L40S, RTX 4090, B200 or T4.

        Upper and lower case, spaces, hyphens and maker's prefixes do not matter. ValueError for
        any other name; argument -- what it calls the name. Plan with what `query` says where the
        device is at hand: boards of one name differ in clock, memory, and in the SMs of each GPC.
        """
        if not isinstance(name, str):
            raise TypeError(f"{argument}: expected a str such as 'H200', got {name!r}")
        device = NAMED.get(_plain(name))
        if device is None:
            known = ", ".join(d.name for d in _DEVICES)
            raise ValueError(
                f"{argument}: no device {name!r} on record; expected one of {known}. On a machine "
                "that has the device, Device.query() reads its limits"
            )
        return device

    @staticmethod
    def query(ordinal: int | None = None, measure_clusters: bool = True) -> Device:
        """The limits of a CUDA device of this machine, from its driver.

        ordinal -- which device; by default the one of the thread's current CUDA context, or 0.
        measure_clusters -- from compute capability 9.0 on, ask the driver how many clusters of
            each size fit (cuOccupancyMaxActiveClusters); this opens the device's primary context.

        Raises DeviceNotFoundError, with the reason, where there is no driver or no device.
        """
        driver = Driver()
        handle = driver.device(ordinal)
        device = _from_attributes(driver, handle)
        if measure_clusters and device.max_cluster > 1:
            sizes = [n for n in (2, 4, 8, 16) if n <= device.max_cluster]
            counts = driver.count_clusters(handle, device.shared_per_block, sizes)
            device = replace(device, clusters=counts)
        return device


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")


def _plain(name: str) -> str:
    text = name.upper().replace("-", " ")
    for word in ("NVIDIA", "GEFORCE", "TESLA", "SXM4", "SXM5", "SXM"):
        text = text.replace(word, " ")
    return "".join(text.split())


KIB, MIB = 1024, 1 << 20

# A 132-SM Hopper has 8 GPCs of up to 18 SMs with 12 SMs fused off, no matter where. This model has
# two GPCs of 14: 66, 30, 14 and 6 clusters of 2, 4, 8 and 16. One H200 (driver 580.159) reported
# 66, 30, 15 and 7, so the model is a step on the safe side of that chip.
HOPPER_GPCS = (18, 18, 18, 18, 16, 16, 14, 14)
# Our guess from the same rule for Blackwell: 8 GPCs of up to 20 SMs, 148 in all. Not measured.
B200_GPCS = (20, 20, 20, 20, 18, 18, 18, 14)

_H100 = Device(
    name="H100",
    compute_capability=(9, 0),
    sms=132,  # [H100]
    shared_per_sm=228 * KIB,  # [guide]
    shared_per_block=227 * KIB,  # [guide]
    threads_per_sm=2048,  # [guide]
    blocks_per_sm_limit=32,  # [guide]
    l2_bytes=50 * MIB,  # [H100]
    clock_ghz=1.98,  # highest boost clock that the driver reports
    memory_gb_s=3350,  # [H100]
    fp32_lanes=128,  # [H100]
    fp16_tflops=989.4,  # [H100], dense
    bf16_tflops=989.4,  # [H100], dense
    max_cluster=16,  # [guide], non-portable
    portable_cluster=8,  # [guide]
    gpcs=HOPPER_GPCS,
)

_DEVICES = (
    Device(
        name="A100",
        compute_capability=(8, 0),
        sms=108,  # [A100]
        shared_per_sm=164 * KIB,  # [guide]
        shared_per_block=163 * KIB,  # [guide]
        threads_per_sm=2048,  # [guide]
        blocks_per_sm_limit=32,  # [guide]
        l2_bytes=40 * MIB,  # [A100]
        clock_ghz=1.41,  # [A100]
        memory_gb_s=2039,  # [A100], 80 GB; the 40 GB card has 1555
        fp32_lanes=64,  # [A100]
        fp16_tflops=312,  # [A100], dense
        bf16_tflops=312,  # [A100], dense
    ),
    _H100,
    replace(
        _H100,
        name="H200",
        memory_gb_s=4800,  # [H200]
        l2_bytes=60 * MIB,  # as the driver reports it
    ),
    Device(
        name="L40S",
        compute_capability=(8, 9),
        sms=142,  # [Ada]
        shared_per_sm=100 * KIB,  # [guide]
        shared_per_block=99 * KIB,  # [guide]
        threads_per_sm=1536,  # [guide]
        blocks_per_sm_limit=24,  # [guide]
        l2_bytes=96 * MIB,  # [Ada]
        clock_ghz=2.52,  # [Ada]
        memory_gb_s=864,  # [Ada]
        fp32_lanes=128,  # [Ada]
        fp16_tflops=362,  # [Ada], dense
        bf16_tflops=362,  # [Ada], dense
    ),
    Device(
        name="RTX 4090",
        compute_capability=(8, 9),
        sms=128,  # [Ada]
        shared_per_sm=100 * KIB,  # [guide]
        shared_per_block=99 * KIB,  # [guide]
        threads_per_sm=1536,  # [guide]
        blocks_per_sm_limit=24,  # [guide]
        l2_bytes=72 * MIB,  # [Ada]
        clock_ghz=2.52,  # [Ada]
        memory_gb_s=1008,  # [Ada]
        fp32_lanes=128,  # [Ada]
        fp16_tflops=165.2,  # [Ada], dense, FP32 accumulation
        bf16_tflops=165.2,  # [Ada], dense, FP32 accumulation
    ),
    Device(
        name="B200",
        compute_capability=(10, 0),
        sms=148,  # as the driver reports it
        shared_per_sm=228 * KIB,  # [guide]
        shared_per_block=227 * KIB,  # [guide]
        threads_per_sm=2048,  # [guide]
        blocks_per_sm_limit=32,  # [guide]
        l2_bytes=126 * MIB,  # as the driver reports it
        clock_ghz=1.965,  # highest boost clock that the driver reports
        memory_gb_s=8000,  # [B200]
        fp32_lanes=128,  # [B200]
        fp16_tflops=2250,  # [B200], dense
        bf16_tflops=2250,  # [B200], dense
        max_cluster=16,  # [guide], non-portable
        portable_cluster=8,  # [guide]
        gpcs=B200_GPCS,
    ),
    Device(
        name="T4",
        compute_capability=(7, 5),
        sms=40,  # [T4]
        shared_per_sm=64 * KIB,  # [guide]
        shared_per_block=64 * KIB,  # [guide]
        threads_per_sm=1024,  # [guide]
        blocks_per_sm_limit=16,  # [guide]
        l2_bytes=4 * MIB,  # [T4]
        clock_ghz=1.59,  # [T4]
        memory_gb_s=320,  # [T4]
        fp32_lanes=64,  # [T4]
        fp16_tflops=65,  # [T4]
        bf16_tflops=0,  # no bfloat16 before 8.0
        shared_reserved=0,  # [guide]
        shared_unit=256,  # [occ]
    ),
)

NAMED = {_plain(device.name): device for device in _DEVICES} | {
    "4090": next(d for d in _DEVICES if d.name == "RTX 4090"),
    "A10080GB": _DEVICES[0],
    "H10080GBHBM3": _H100,
}

# By compute capability: FP32 lanes an SM, and dense bf16 multiply-adds an SM and clock with FP32
# accumulation (consumer boards have half, which is what is taken where both exist).
_PER_SM = {
    (7, 5): (64, 0),
    (8, 0): (64, 1024),
    (8, 6): (128, 256),
    (8, 7): (128, 512),
    (8, 9): (128, 256),
    (9, 0): (128, 2048),
    (10, 0): (128, 4096),
    (10, 3): (128, 4096),
    (12, 0): (128, 256),
}


def _from_attributes(driver: Driver, handle: int) -> Device:
    """A `Device` from CUdevice_attribute values (their numbers are those of cuda.h)."""

    def ask(attribute: int) -> int:
        return driver.attribute(handle, attribute)

    capability = (ask(75), ask(76))
    sms, clock = ask(16), ask(13) / 1e6
    lanes, tensor = _PER_SM.get(capability, (128, 0))
    tflops = round(2e-3 * tensor * sms * clock, 1)
    half = tflops if tensor else round(1e-3 * 1024 * sms * clock, 1)
    name = driver.name(handle)
    known = NAMED.get(_plain(name))
    if known is not None and known.sms == sms:  # the vendor's own figures, where they are on record
        half, tflops = known.fp16_tflops, known.bf16_tflops
    # 12.x is offered clusters of 8 at most; 16 is for 9.0 and 10.x, on request.
    portable = 8 if ask(120) else 1
    largest = 16 if portable == 8 and capability[0] in (9, 10) else portable
    return Device(
        name=name,
        compute_capability=capability,
        sms=sms,
        shared_per_sm=ask(81),
        shared_per_block=ask(97),
        threads_per_sm=ask(39),
        blocks_per_sm_limit=ask(106),
        l2_bytes=ask(38),
        clock_ghz=clock,
        # Two transfers a memory clock, over the bus width in bits.
        memory_gb_s=round(2 * ask(36) * 1e3 * ask(37) / 8 / 1e9, 1),
        fp32_lanes=lanes,
        fp16_tflops=half,
        bf16_tflops=tflops,
        max_cluster=largest,
        portable_cluster=portable,
        shared_reserved=ask(111),
        shared_unit=128 if capability[0] >= 8 else 256,
        registers_per_sm=ask(82),
        registers_per_block=ask(12),
        threads_per_block=ask(1),
        driver=driver.version(),
    )
