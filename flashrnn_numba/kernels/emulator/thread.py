"""One emulated thread: what the twins of the PTX blocks and of cuda.* call on it."""

from collections.abc import Callable, Sequence
from typing import Any

from greenlet import greenlet

from .copies import Copies
from .errors import EmulatorError, OutOfBoundsError
from .memory import RESERVED, WINDOW, ArrayView, Memory, layout
from .races import Order
from .sync import MBarrier
from .where import Site

FULL_WARP = 0xFFFFFFFF


class Thread(Copies, greenlet):
    """A greenlet: it runs until it has to wait, then switches to the scheduler (its parent)."""

    def __init__(self, machine: Any, block: Any, index: int, slot: int, run: Any) -> None:
        super().__init__(run)
        self.machine = machine
        self.block = block
        self.index = index  # in the block
        self.slot = slot  # among the threads that live at the same time
        self.lane = index % 32
        x, y = machine.block_shape[:2]
        self.position = (index % x, index // x % y, index // (x * y))
        self.warp: Any = None
        self.waiting: tuple[str, Site] | None = None
        self.result: Any = None
        self.cluster_phase: int | None = None
        self.cluster_met = False  # has passed a cluster barrier
        # Clocks (races.py)
        self.own = 1
        self.seen: list[int] = machine.nothing_seen
        self.fenced: list[int] | None = None  # what a threadfence would let an atomic publish
        self.to_acquire: list[Order] = []
        self.proxy_fence = 0  # ordinary writes up to this count are visible to bulk copies
        self.init_copies()

    @property
    def name(self) -> str:
        return f"{self.block.name} thread {self.position}"

    # Waiting

    def site(self) -> Site:
        return self.machine.codes.site()

    def park(self, what: str, site: Site) -> Any:
        """Let others run until somebody wakes this thread; the result is what the waker gives."""
        self.waiting = (what, site)
        self.parent.switch()
        self.waiting = None
        result, self.result = self.result, None
        return result

    def pause(self, what: str = "nanosleep") -> None:
        """Let others run; go on when something may have changed."""
        self.waiting = (what, self.site())
        self.machine.spinning.append(self)
        self.parent.switch()
        self.waiting = None

    # Memory

    def touch(
        self, memory: Memory, offset: int, size: int, write: bool, atomic: bool = False
    ) -> None:
        """Called for every access before it happens: counts it, and looks for races."""
        machine = self.machine
        if machine.random is not None and machine.random.random() < 0.02:
            machine.preempt(self)
        if write and not atomic:
            machine.progress += 1
        detector = memory.detector
        if detector is not None:
            code, instruction = machine.codes.site()
            record = (self.slot, self.own, self, code, instruction, atomic)
            if write:
                detector.write(self, offset, size, record)
            else:
                detector.read(self, offset, size, record)

    def resolve(self, space: str, address: int, size: int, align: int) -> tuple[Memory, int]:
        """The memory and the offset in it of an address; raises if it is not all inside."""
        if address % align:
            raise OutOfBoundsError(
                f"{space} address {address:#x} is not aligned to the {align} bytes of the access"
            )
        if space in ("shared", "cluster"):
            memory: Memory = self._window(space, address)
            low = RESERVED
        else:
            memory, low = self.machine.globals.find(address), 0
        offset = address - memory.start
        if offset < low or offset + size > memory.used:
            raise OutOfBoundsError(
                f"{size} bytes at offset {offset - low} of {memory.name}, "
                f"which has {memory.used - low}"
            )
        return memory, offset

    def load(self, space: str, address: int, form: str) -> tuple[Any, ...]:
        structure = layout(form)
        size = structure.size
        memory, offset = self.resolve(space, address, size, size)
        if space == "global_nc" and memory.detector is not None:
            record = (self.slot, self.own, self, *self.site(), False)
            memory.detector.read_constant(offset, size, record)
        self.touch(memory, offset, size, False)
        return structure.unpack_from(memory.buffer, offset)

    def store(self, space: str, address: int, form: str, values: Any) -> None:
        structure = layout(form)
        memory, offset = self.resolve(space, address, structure.size, structure.size)
        self.touch(memory, offset, structure.size, True)
        structure.pack_into(memory.buffer, offset, *values)

    def shared_address(self, array: ArrayView) -> int:
        if array.memory is not self.block.shared:
            raise EmulatorError("shared_address: the array is not in this block's shared memory")
        return array.memory.start + array.origin

    def global_address(self, array: ArrayView) -> int:
        if array.memory is None:
            return 0  # an array without elements
        if array.memory is self.block.shared:
            raise EmulatorError("global_address: the array is in shared memory")
        return array.memory.start + array.origin

    def mapa(self, address: int, rank: int) -> int:
        size = len(self.block.cluster.blocks)
        if rank >= size:
            raise OutOfBoundsError(f"mapa: rank {rank} in a cluster of {size}")
        self._window("shared", address)
        return (rank + 1) * WINDOW + address % WINDOW

    # Atomics: relaxed unless they release; a threadfence before or after gives them order.

    def atomic(
        self,
        space: str,
        address: int,
        form: str,
        change: Callable[[Any], Any],
        release: bool = False,
    ) -> Any:
        """Replace a word by change(old); returns old."""
        structure = layout(form)
        memory, offset = self.resolve(space, address, structure.size, structure.size)
        self.touch(memory, offset, structure.size, True, atomic=True)
        (old,) = structure.unpack_from(memory.buffer, offset)
        mask = (1 << 8 * structure.size) - 1
        new = change(old) & mask
        structure.pack_into(memory.buffer, offset, new)
        self.after_atomic(memory, offset, release, new != old)
        return old

    def after_atomic(self, memory: Memory, offset: int, release: bool, changed: bool) -> None:
        """What an atomic write of this cell hands on, and what it may learn."""
        if changed:
            self.machine.progress += 1
        else:
            self.pause("an atomic in a loop")  # it may be polling
        if not self.machine.races:
            return
        order = self.machine.atomic_order(memory, offset)
        self.to_acquire.append(order)
        if release:
            order.release(self)
        elif self.fenced is not None:
            order.add((self.fenced, 0, 0))

    def spin_load(self, space: str, address: int, form: str, acquire: bool) -> tuple[Any, ...]:
        """A load that a thread may repeat until somebody else has written."""
        structure = layout(form)
        memory, offset = self.resolve(space, address, structure.size, structure.size)
        self.pause("a load in a loop")
        self.touch(memory, offset, structure.size, False, atomic=True)
        if self.machine.races:
            order = self.machine.atomic_order(memory, offset)
            if acquire:
                order.acquire(self)
            else:
                self.to_acquire.append(order)
        return structure.unpack_from(memory.buffer, offset)

    def spin_store(self, space: str, address: int, form: str, words: Sequence[int]) -> None:
        """Words that others poll, each written whole; with a schedule seed, others may see some of
        them before the rest."""
        structure = layout(form)
        size = structure.size
        whole = size * len(words)
        memory, offset = self.resolve(space, address, whole, whole)
        order, random = list(range(len(words))), self.machine.random
        if random is not None:
            random.shuffle(order)
        for i in order:
            if random is not None and random.random() < 0.2:
                self.pause("a store in parts")
            self.touch(memory, offset + size * i, size, True, atomic=True)
            structure.pack_into(memory.buffer, offset + size * i, words[i])
            self.machine.progress += 1

    def fence(self) -> None:
        """threadfence: atomics before it are acquired, atomics after it release."""
        if not self.machine.races:
            return
        for order in self.to_acquire:
            order.acquire(self)
        self.to_acquire = []
        self.fenced = list(self.seen)
        self.fenced[self.slot] = self.own
        self.own += 1

    # Warps and barriers

    def collective(self, name: str, value: Any, compute: Any, mask: int = FULL_WARP) -> Any:
        return self.warp.collective(self, name, value, compute, mask)

    def shuffle(self, name: str, mask: int, value: Any, n: int, source: Any) -> Any:
        """Each lane of the mask reads lane source(own lane, own n), or itself if that is none."""

        def distribute(lanes: list[Any]) -> list[Any]:
            results = []
            for lane, given in enumerate(lanes):
                other = source(lane, given[1]) if given else lane
                taken = lanes[other if 0 <= other < 32 else lane]
                if given and taken is None:
                    raise EmulatorError(
                        f"{name}: lane {lane} reads lane {other}, which is not in mask {mask:#x}"
                    )
                results.append(taken and taken[0])
            return results

        return self.collective(name, (value, n), distribute, mask)

    def sync_warp(self, mask: int) -> None:
        self.warp.sync(self, mask)

    def cluster_arrive(self, release: bool) -> None:
        self.block.cluster.barrier.arrive(self, release)

    def cluster_wait(self) -> None:
        self.block.cluster.barrier.wait(self)

    def named_barrier(self, number: int, threads: int, wait: bool) -> None:
        if number > 15 or threads % 32 or not threads:
            raise EmulatorError(
                f"named barrier {number} for {threads} threads: expected 0 to 15 "
                "and a multiple of 32"
            )
        self.block.named_barrier(number, threads).join(self, None, wait)

    # mbarriers

    def mbarrier_init(self, address: int, count: int) -> None:
        memory, offset = self.resolve("shared", address, 8, 8)
        self.touch(memory, offset, 8, True)
        self.block.mbarriers[offset] = MBarrier(self.block, count)

    def mbarrier_invalidate(self, address: int) -> None:
        self.find_mbarrier("shared", address)
        del self.block.mbarriers[address % WINDOW]

    def find_mbarrier(self, space: str, address: int) -> MBarrier:
        memory: Any
        memory, offset = self.resolve(space, address, 8, 8)
        self.touch(memory, offset, 8, False, atomic=True)  # after the initialisation
        if offset not in memory.block.mbarriers:
            raise EmulatorError(
                f"no mbarrier at offset {offset - RESERVED} of {memory.name}; call mbarrier_init"
            )
        found: MBarrier = memory.block.mbarriers[offset]
        return found

    def mbarrier_arrive(self, space: str, address: int) -> None:
        self.find_mbarrier(space, address).arrive(self)

    def mbarrier_expect(self, space: str, address: int, size: int) -> None:
        self.find_mbarrier(space, address).expect(self, size)

    def mbarrier_try(self, address: int, parity: int, cluster_scope: bool = False) -> bool:
        mbarrier = self.find_mbarrier("shared", address)
        if not mbarrier.is_complete(parity):
            self.pause("mbarrier try_wait")
        if mbarrier.is_complete(parity):
            mbarrier.acquire(self, cluster_scope)
            return True
        return False

    def mbarrier_wait(self, address: int, parity: int, cluster_scope: bool = False) -> None:
        mbarrier = self.find_mbarrier("shared", address)
        while not mbarrier.is_complete(parity):
            mbarrier.waiting.append(self)
            left = f"{mbarrier.pending} arrivals and {mbarrier.bytes} bytes missing"
            self.park(f"mbarrier, parity {parity}, {left}", self.site())
        mbarrier.acquire(self, cluster_scope)

    def _window(self, space: str, address: int) -> Any:
        """The shared memory that an address lies in, if this thread may touch it now."""
        rank = address // WINDOW - 1
        blocks = self.block.cluster.blocks
        if not 0 <= rank < len(blocks):
            raise OutOfBoundsError(f"{space} address {address:#x} lies in no block's window")
        block = blocks[rank]
        if block is self.block:
            return block.shared
        if space == "shared":
            raise OutOfBoundsError(
                f"shared address {address:#x} is that of {block.name}; "
                "use the cluster form of the instruction"
            )
        if not block.alive:
            raise EmulatorError(
                f"{block.name} has left the kernel: its shared memory is gone; "
                "end the kernel with a cluster barrier"
            )
        if not self.cluster_met and not self._has_met(block):
            raise EmulatorError(
                f"{block.name} may not have started yet: put a cluster barrier before the first "
                "access to another block's shared memory"
            )
        return block.shared

    def _has_met(self, block: Any) -> bool:
        return any(self.seen[thread.slot] for thread in block.threads) if self.seen else True
