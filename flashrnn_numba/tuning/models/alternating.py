"""The alternating kernel: one matrix product and one pointwise kernel a step, in CUDA graphs.

It holds nothing on the SMs, so it always fits. A step costs two nodes of the graph, the time to
bring R to the SMs again (from L2 where it fits there), and the pointwise work. The pointwise
kernel's block has one size for all problems, so nothing is left to choose.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...kernels.alternating_sizes import THREADS
from ...kernels.formats import FORMATS
from ...kernels.interface import Task
from ..hardware import WARP, Device
from ..problem import Problem
from . import floors
from .common import Direction, Footprint, Model, Solution, Statement

# Bytes of a unit and batch row at a step, for each gate and state of a 16-bit dtype: what the
# pointwise kernel reads and writes, and its staging buffers. Fitted to an H100: LSTM 1024 x 1 took
# 10.9 us a step of forward with 64 rows and 24.9 with 256, 2048 x 1 22.3 and 53.5 (by this model
# 10.8, 22.9, 22.2 and 53.3); with backward 20, 49, 41 and 101 more.
BYTES = {"forward": 25, "backward": 64}
REGISTERS = 96  # of a thread of the pointwise kernel, from above (built-in cells take up to 68)
L2_BYTES_PER_CLOCK = 32  # of one SM, estimate: about half of what the L2 can deliver at best


class Alternating:
    name = "alternating"
    title = "a matrix product and a pointwise kernel a step"
    backend = "alternating"
    note = "replayed as CUDA graphs; the times of their nodes are estimates"
    limits = frozenset({"SMs", "memory"})
    details = frozenset[str]()

    def kind(self, solution: Solution) -> str:
        return self.name

    def kinds(self) -> dict[str, Model]:
        return {self.name: self}

    def label(self, solution: Solution) -> str:
        return self.title

    def refuses(self, task: Task, device: Device, direction: Direction) -> str | None:
        return None

    def build(self, task: Task, device: Device, direction: Direction) -> tuple[Statement, ...]:
        """threads of a pointwise block, and how many blocks cover all units of all rows. The cost:
        the step's nanoseconds."""
        p = Problem()
        items = max(1, task.B) * task.H * task.D
        threads = p.variable("threads", [THREADS])
        blocks = p.variable("blocks", range(1, items + 1))
        p.require(threads <= device.threads_per_block, "threads a block", "threads")
        p.require(
            threads * REGISTERS <= device.registers_per_block, "registers a block", "registers"
        )
        p.require(blocks * threads >= items, "every unit has a thread", "threads")
        p.require((blocks - 1) * threads < items, "no idle block", "threads")
        cost = round(sum(self.step_ns(task, device, direction, {}).values()))
        return (Statement(lambda: (p, cost)),)

    def easiest(self, task: Task, device: Device, direction: Direction) -> Statement:
        return self.build(task, device, direction)[0]

    def head_dims(
        self, task: Task, device: Device, direction: Direction, most: int
    ) -> Iterable[int]:
        return (most,)

    def tiling(self, task: Task, direction: Direction, solution: Solution) -> dict[str, str]:
        # brings the kernel along, which only those who run it need
        from ...kernels.alternating_plan import piece_steps

        return {
            "pointwise kernel": f"{solution['blocks']} blocks of {solution['threads']} threads",
            "nodes of the graph": f"2 a step, {2 * piece_steps(task)} in the largest graph",
        }

    def fixed(self, statement: Statement) -> str:
        return ""

    def resources(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> Footprint:
        return Footprint(solution["threads"], REGISTERS, 0, solution["blocks"], persistent=False)

    def step_ns(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> dict[str, float]:
        items = max(1, task.B) * task.H * task.D
        parts = len(task.cell.gates) + len(task.cell.states)
        words = (4 + FORMATS[task.dtype].element_bytes) / 6  # about half of it is float32 anyway
        traffic = items * parts * BYTES[direction] * words / device.memory_gb_s
        work = items * 40 / (device.sms * WARP * device.clock_ghz)
        return {
            "graph nodes": 2 * floors.GRAPH_NODE,
            "matrix product": max(floors.SMALL_PRODUCT, *_product_ns(task, device)),
            "pointwise and staging": floors.POINTWISE + work + traffic,
        }


def _product_ns(task: Task, device: Device) -> tuple[float, float]:
    """(to bring R and the rows to the SMs, to multiply them)."""
    gates, B, H, D = len(task.cell.recurrent_gates), max(1, task.B), task.H, task.D
    size = FORMATS[task.dtype].element_bytes
    weights = gates * H * D * D * size
    rows = B * H * D * (gates + 1) * size
    in_l2 = weights <= device.l2_bytes // 2
    clock = device.clock_ghz
    rate = device.sms * L2_BYTES_PER_CLOCK * clock if in_l2 else device.memory_gb_s
    tensor = floors.products_per_clock(device, task.dtype)
    per_clock = tensor or floors.plain_products_per_clock(device, task.dtype)
    # products of a few rows reach an eighth of the peak, large ones half of it (estimate)
    share = min(1 / 2, 1 / 8 + B / 1024)
    compute = gates * H * D * D * B / (device.sms * per_clock * clock * share)
    return (weights + rows) / rate, compute
