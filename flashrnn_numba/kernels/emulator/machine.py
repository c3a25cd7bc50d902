"""The launch: blocks, clusters, who runs next, and what is said when nobody can."""

import contextlib
import contextvars
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np
from greenlet import GreenletExit, getcurrent

from .copies import Pending
from .errors import DeadlockError, EmulatorError, KernelError
from .memory import GlobalMemory, Memory, Shared
from .races import Order
from .sync import ClusterBarrier, Meeting, Warp
from .thread import Thread
from .where import KernelCode, describe_line

Shape = tuple[int, int, int]
_IDLE_ROUNDS = 100  # so often may all threads spin without anybody writing


class Block:
    """The threads that share a shared memory."""

    def __init__(self, machine: "Machine", cluster: "Cluster", position: Shape, rank: int) -> None:
        self.machine = machine
        self.cluster = cluster
        self.position = position
        self.rank = rank
        self.name = f"block {position}"
        self.shared = Shared(self, machine.shared_bytes, machine.races)
        self.mbarriers: dict[int, Any] = {}
        self.named: dict[int, Meeting] = {}
        self.threads: list[Thread] = []
        self.size = math.prod(machine.block_shape)
        self.alive = self.size
        self.barrier = Meeting("syncthreads", self.size)

    def add_threads(self, first_slot: int, run: Callable[[], None]) -> None:
        self.threads = [
            Thread(self.machine, self, i, first_slot + i, run) for i in range(self.size)
        ]
        for first in range(0, self.size, 32):
            lanes = self.threads[first : first + 32]
            warp = Warp(f"{self.name} warp {first // 32}", lanes)
            for thread in lanes:
                thread.warp = warp

    def named_barrier(self, number: int, threads: int) -> Meeting:
        meeting = self.named.get(number)
        if meeting is None or not meeting.arrived:
            meeting = Meeting(f"named barrier {number}", threads, same_line=False)
            self.named[number] = meeting
        if meeting.size != threads:
            raise EmulatorError(
                f"named barrier {number} is waited for with {meeting.size} and with {threads} "
                "threads"
            )
        return meeting


class Cluster:
    """The blocks that can reach each other's shared memory."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.barrier = ClusterBarrier([])


class Machine:
    """All blocks that live at the same time, and a scheduler for their threads."""

    def __init__(
        self,
        grid: Shape,
        block: Shape,
        cluster: Shape,
        shared_bytes: int,
        schedule: int | None,
        races: bool,
        arrays: dict[str, Any],
    ) -> None:
        self.grid_shape, self.block_shape, self.cluster_shape = grid, block, cluster
        self.shared_bytes = shared_bytes
        self.races = races
        self.random = None if schedule is None else random.Random(schedule)
        self.codes = KernelCode()
        self.globals = GlobalMemory(arrays, races)
        self.slots = 0
        self.nothing_seen: list[int] = []
        self.threads: list[Thread] = []
        self.ready: deque[Thread] = deque()
        self.spinning: list[Thread] = []
        self.pending: list[Pending] = []
        self.atomics: dict[tuple[int, int], Order] = {}
        self.grid_barrier: Meeting | None = None
        self.progress = 0  # grows whenever something happened that a spinning thread may wait for

    def run_group(self, positions: list[Shape], kernel: Callable[[], None], together: bool) -> None:
        """Run these blocks at once, until all their threads have left the kernel."""
        blocks = self._make_blocks(positions)
        self.slots = len(blocks) * math.prod(self.block_shape)
        self.nothing_seen = [0] * (2 * self.slots)
        for i, block in enumerate(blocks):
            block.add_threads(i * block.size, kernel)
        self.threads = [thread for block in blocks for thread in block.threads]
        for cluster in {id(block.cluster): block.cluster for block in blocks}.values():
            members = [thread for block in cluster.blocks for thread in block.threads]
            cluster.barrier = ClusterBarrier(members)
        self.grid_barrier = Meeting("grid sync", len(self.threads)) if together else None
        self.atomics = {}
        for thread in self.threads:
            thread.gr_context = contextvars.copy_context()  # NumPy's error state
        try:
            self._schedule()
        finally:
            self._clean_up()

    # Called by threads

    def wake(self, threads: list[Thread], result: Any = None) -> None:
        self.progress += 1
        for thread in threads:
            thread.result = result
        self.ready.extend(threads)

    def preempt(self, thread: Thread) -> None:
        """Let the others run for a while; only with a schedule seed."""
        self.ready.append(thread)
        thread.parent.switch()

    def atomic_order(self, memory: Memory, offset: int) -> Order:
        key = (memory.start, offset)
        if key not in self.atomics:
            self.atomics[key] = Order()
        return self.atomics[key]

    def start_copy(self, copy: Pending) -> None:
        if self.random is not None and self.random.random() < 0.5:
            copy.land()
        else:
            self.pending.append(copy)

    # The scheduler

    def _make_blocks(self, positions: list[Shape]) -> list[Block]:
        clusters: dict[Shape, Cluster] = {}
        blocks = []
        for position in positions:
            size = self.cluster_shape
            where = (position[0] // size[0], position[1] // size[1], position[2] // size[2])
            cluster = clusters.setdefault(where, Cluster())
            inside = [position[i] % size[i] for i in range(3)]
            rank = inside[0] + size[0] * (inside[1] + size[1] * inside[2])
            block = Block(self, cluster, position, rank)
            cluster.blocks.append(block)
            blocks.append(block)
        for cluster in clusters.values():
            cluster.blocks.sort(key=lambda block: block.rank)
        return blocks

    def _schedule(self) -> None:
        self.ready = deque(self.threads)
        alive, idle, seen = len(self.threads), 0, self.progress
        while alive:
            if self.ready:
                thread = self._next()
                self._resume(thread)
                if thread.dead:
                    alive -= 1
                    self._leave(thread)
            elif self.spinning and (self.progress != seen or idle < _IDLE_ROUNDS):
                idle = idle + 1 if self.progress == seen else 0
                if idle and self.pending:
                    self._land_one()
                seen = self.progress
                self.ready.extend(self.spinning)
                self.spinning.clear()
            elif self.pending:
                self._land_one()
            else:
                raise DeadlockError(self._report())

    def _next(self) -> Thread:
        if self.random is not None and len(self.ready) > 1:
            self.ready.rotate(self.random.randrange(len(self.ready)))
        return self.ready.popleft()

    def _land_one(self) -> None:
        index = self.random.randrange(len(self.pending)) if self.random is not None else 0
        self.pending.pop(index).land()

    def _resume(self, thread: Thread) -> None:
        try:
            thread.switch()
        except Exception as error:
            raise self._located(thread, error) from error

    def _leave(self, thread: Thread) -> None:
        """The thread has left the kernel; whoever waits for it must hear of it."""
        self.progress += 1
        block = thread.block
        block.barrier.leave(thread)
        if self.grid_barrier is not None:
            self.grid_barrier.leave(thread)
        thread.warp.leave(thread)
        block.cluster.barrier.leave(thread)
        block.alive -= 1
        if block.alive:
            return
        for copy in self.pending:
            if block in copy.blocks:
                raise EmulatorError(
                    f"{block.name} has left the kernel while an asynchronous copy issued by "
                    f"{copy.thread.name} still uses its shared memory; wait for it, or end the "
                    "kernel with a cluster barrier"
                )

    def _located(self, thread: Thread, error: Exception) -> Exception:
        """The error with the place in the kernel where it happened."""
        if type(error).__name__ == "BdbQuit":
            return error  # the user has left the debugger
        place, trace = "", error.__traceback__
        while trace is not None:
            if id(trace.tb_frame.f_code) in self.codes.codes:
                place = describe_line(trace.tb_frame.f_code, trace.tb_lasti)
            trace = trace.tb_next
        where = f"{thread.name} at {place}"
        if isinstance(error, EmulatorError):
            return type(error)(f"{error}\n  in {where}")
        return KernelError(f"{type(error).__name__}: {error}\n  in {where}")

    def _report(self) -> str:
        groups: Counter[Any] = Counter()
        examples: dict[Any, str] = {}
        for thread in self.threads:
            if not thread.dead and thread.waiting is not None:
                what, (code, instruction) = thread.waiting
                key = (thread.block.name, what, describe_line(code, instruction))
                groups[key] += 1
                examples.setdefault(key, thread.name)
        lines = [
            f"  {count} of {block} wait in {what} at {place} (the first is {examples[key]})"
            for key, count in groups.items()
            for block, what, place in [key]
        ]
        gone = sum(thread.dead for thread in self.threads)
        return "deadlock: nobody can run\n" + "\n".join([*lines, f"  {gone} have left the kernel"])

    def _clean_up(self) -> None:
        for thread in self.threads:
            if thread and thread is not getcurrent():
                with contextlib.suppress(Exception):  # the kernel's own handlers, at the end
                    thread.throw(GreenletExit)
        for memory in self.globals.memories:
            if memory.detector is not None:
                memory.detector.next_group()
        self.ready.clear()
        self.spinning.clear()
        self.pending.clear()


def quiet_numpy() -> Any:
    """Overflow and division by zero are as silent as on the GPU."""
    return np.errstate(all="ignore")
