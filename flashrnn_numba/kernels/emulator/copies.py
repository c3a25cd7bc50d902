"""Asynchronous copies: cp.async, st.async and bulk copies, which complete as late as they may.

A cp.async lands when its thread waits for its group. What completes on an mbarrier lands when
nobody else can run, or at once if the schedule's seed says so. Sources are read when it lands.
"""

from collections.abc import Callable
from typing import Any

from .errors import EmulatorError, RaceError
from .memory import layout
from .races import Stamp, _who
from .sync import MBarrier


class Pending:
    """A copy under way that will complete on an mbarrier."""

    def __init__(self, thread: Any, blocks: set[Any], land: Callable[[], None]) -> None:
        self.thread = thread
        self.blocks = blocks  # whose shared memory it touches
        self.land = land


class Copies:
    """The part of a thread that issues copies."""

    machine: Any
    block: Any
    slot: int
    own: int
    seen: list[int]
    site: Any
    resolve: Any
    find_mbarrier: Any
    touch: Any

    def init_copies(self) -> None:
        self.issued = 0  # counts in the slot of this thread's copies
        self.open_group: list[Callable[[], None]] = []
        self.groups: list[tuple[int, list[Callable[[], None]]]] = []

    def fence_proxy_async(self) -> None:
        self.proxy_fence = self.own
        self.own += 1

    # cp.async

    def cp_async(self, target: int, source: int, size: int, valid: int) -> None:
        """Copy `valid` bytes, fill up to `size` with zeros."""
        if valid > size:
            raise EmulatorError(f"cp.async: {valid} valid bytes of {size}")
        to, at = self.resolve("shared", target, size, size)
        self.issued += 1
        if valid:
            origin, start = self.resolve("global", source, valid, size)
            self._record(origin, start, valid, False)
        self._record(to, at, size, True)

        def land() -> None:
            to.data[at : at + size] = 0
            if valid:
                to.data[at : at + valid] = origin.data[start : start + valid]

        self.open_group.append(land)

    def cp_async_commit(self) -> None:
        self.groups.append((self.issued, self.open_group))
        self.open_group = []

    def cp_async_wait(self, pending: int) -> None:
        """Land all groups but the latest `pending`."""
        finished = self.groups[: len(self.groups) - pending]
        self.groups = self.groups[len(finished) :]
        for _, copies in finished:
            for land in copies:
                land()
        if finished and self.machine.races:
            self.seen = list(self.seen)
            self.seen[self._copy_slot] = max(self.seen[self._copy_slot], finished[-1][0])
        self.machine.progress += 1

    # On mbarriers

    def st_async(self, target: int, form: str, values: Any, address: int) -> None:
        structure = layout(form)
        to, at = self.resolve("cluster", target, structure.size, structure.size)
        mbarrier = self._mbarrier_beside(to, address)
        self.issued += 1
        self._record(to, at, structure.size, True)
        stamps = self._stamps()

        def land() -> None:
            structure.pack_into(to.buffer, at, *values)
            mbarrier.complete(self.machine, structure.size, stamps, self)

        self.machine.start_copy(Pending(self, {to.block}, land))

    def bulk_copy(
        self, to_space: str, target: int, from_space: str, source: int, size: int, address: int
    ) -> None:
        if size % 16 or not size:
            raise EmulatorError(f"bulk copy: the size is {size}, expected a multiple of 16")
        to, at = self.resolve(to_space, target, size, 16)
        origin, start = self.resolve(from_space, source, size, 16)
        mbarrier = self._mbarrier_beside(to, address)
        self._check_proxy(origin, start, size)
        self.issued += 1
        self._record(origin, start, size, False)
        self._record(to, at, size, True)
        stamps = self._stamps()

        def land() -> None:
            to.data[at : at + size] = origin.data[start : start + size]
            mbarrier.complete(self.machine, size, stamps, self)

        blocks = {memory.block for memory in (to, origin) if hasattr(memory, "block")}
        self.machine.start_copy(Pending(self, blocks, land))

    @property
    def _copy_slot(self) -> int:
        slots: int = self.machine.slots
        return slots + self.slot

    def _record(self, memory: Any, offset: int, size: int, write: bool) -> None:
        """The access of a copy: ordered after what its thread has seen, before those who wait."""
        if memory.detector is not None:
            record = (self._copy_slot, self.issued, self, *self.site(), False)
            check = memory.detector.write if write else memory.detector.read
            check(self, offset, size, record)

    def _stamps(self) -> list[Stamp]:
        """What those who wait for the copy may see: the copy, and what came before it."""
        if not self.machine.races:
            return []
        before = (self.seen, self.slot, self.own)
        self.own += 1
        return [before, ([], self._copy_slot, self.issued)]

    def _mbarrier_beside(self, memory: Any, address: int) -> MBarrier:
        mbarrier: MBarrier = self.find_mbarrier("cluster", address)
        if mbarrier.block is not memory.block:
            raise EmulatorError(
                f"an asynchronous copy into {memory.name} names an mbarrier of "
                f"{mbarrier.block.name}: both must be of one block"
            )
        return mbarrier

    def _check_proxy(self, memory: Any, offset: int, size: int) -> None:
        """Ordinary stores are seen by a bulk copy only after fence.proxy.async."""
        if memory.detector is None:
            return
        for record in memory.detector.writers(offset, size):
            writer = record[2]
            if record[0] == writer.slot and record[1] > writer.proxy_fence:
                raise RaceError(
                    f"a bulk copy reads {memory.name}, bytes {offset} to {offset + size - 1}, "
                    f"written by ordinary stores without fence_proxy_async after them:\n"
                    f"  write by {_who(record)}"
                )
