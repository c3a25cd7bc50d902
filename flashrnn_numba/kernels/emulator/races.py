"""Which accesses are ordered: vector clocks for threads, records of accesses for memory.

Every thread counts its releases (`own`) and knows how far it has seen every other thread (`seen`, a
list by slot that is never changed in place, so that threads share it). An access is recorded as
(slot, count, thread, code, instruction, atomic); it is ordered before thread t if t has seen that
count of that slot. An asynchronous copy counts in a slot of its own, SLOTS + the thread's: not even
the thread that issued it sees it before it has waited.

FastTrack (Flanagan and Freund, 2009) is the idea; one record for the last write of a cell, one or
several for its reads since.
"""

from typing import Any

from .errors import RaceError
from .where import describe_line

Record = tuple[int, int, Any, Any, int, bool]
Stamp = tuple[list[int], int, int]  # what a thread had seen, and its own slot and count


class Order:
    """What a synchronisation object (a barrier's phase, an atomic's cell) hands on."""

    __slots__ = ("joined", "merged", "stamps")

    def __init__(self, before: "Order | None" = None) -> None:
        self.stamps: list[Stamp] = [(before.all(), 0, 0)] if before else []
        self.merged: list[int] | None = None
        self.joined: dict[int, tuple[list[int], list[int]]] = {}

    def release(self, thread: Any) -> None:
        """Publish all that the thread has done and seen; what it does next is not included."""
        self.add((thread.seen, thread.slot, thread.own))
        thread.own += 1

    def add(self, stamp: Stamp) -> None:
        self.stamps.append(stamp)
        self.merged = None
        self.joined.clear()

    def acquire(self, thread: Any) -> None:
        """Let the thread see all that was published. Threads that saw the same share the result."""
        if not self.stamps:
            return
        known = self.joined.get(id(thread.seen))
        if known is None:
            known = (thread.seen, list(map(max, thread.seen, self.all())))
            self.joined[id(thread.seen)] = known
        thread.seen = known[1]

    def all(self) -> list[int]:
        if self.merged is None:
            lists = list({id(seen): seen for seen, _, _ in self.stamps if seen}.values())
            merged = list(map(max, *lists)) if len(lists) > 1 else list(lists[0]) if lists else []
            for _, slot, count in self.stamps:
                if merged and count > merged[slot]:
                    merged[slot] = count
            self.merged = merged
            self.stamps = [(merged, 0, 0)] if merged else []
        return self.merged


class Detector:
    """The shadow of one memory: who wrote and who read each cell last.

    A cell is as many bytes as the narrowest access so far. Accesses of earlier blocks of an
    ordinary grid, which are ordered with nothing, stay in `past`.
    """

    def __init__(self, name: str, width: int = 16) -> None:
        self.name = name
        self.width = width
        self.writes: dict[int, Record] = {}
        self.reads: dict[int, Any] = {}  # a record, or a dict of them by slot
        self.past_writes: dict[int, Record] = {}
        self.past_reads: dict[int, Any] = {}
        self.constant: dict[int, Record] = {}  # cells read through the non-coherent path

    def read(self, thread: Any, offset: int, size: int, record: Record) -> None:
        if size < self.width:
            self._refine(size)
        width, seen, own, slot = self.width, thread.seen, thread.slot, record[0]
        writes, reads, last = self.writes, self.reads, None
        for cell in range(offset // width, (offset + size - 1) // width + 1):
            write = writes.get(cell)
            if write is not None and write is not last:
                if write[0] != own and seen[write[0]] < write[1] and not (write[5] and record[5]):
                    self._report(write, "write", record, "read", cell)
                last = write
            if self.past_writes and cell in self.past_writes:
                self._check_past(self.past_writes[cell], "write", record, "read", cell)
            known = reads.get(cell)
            if known is None:
                reads[cell] = record
            elif known.__class__ is dict:
                known[slot] = record
            elif known[0] == slot or known[0] == own or seen[known[0]] >= known[1]:
                reads[cell] = record
            else:
                reads[cell] = {known[0]: known, slot: record}

    def write(self, thread: Any, offset: int, size: int, record: Record) -> None:
        if size < self.width:
            self._refine(size)
        width, seen, own = self.width, thread.seen, thread.slot
        writes, reads, last, last_read = self.writes, self.reads, None, None
        for cell in range(offset // width, (offset + size - 1) // width + 1):
            write = writes.get(cell)
            if write is not None and write is not last:
                if write[0] != own and seen[write[0]] < write[1] and not (write[5] and record[5]):
                    self._report(write, "write", record, "write", cell)
                last = write
            known = reads.pop(cell, None) if reads else None
            if known is not None and known is not last_read:
                for read in known.values() if known.__class__ is dict else (known,):
                    if read[0] != own and seen[read[0]] < read[1] and not (read[5] and record[5]):
                        self._report(read, "read", record, "write", cell)
                last_read = known
            if self.past_writes or self.past_reads or self.constant:
                self._check_write(record, cell)
            writes[cell] = record

    def read_constant(self, offset: int, size: int, record: Record) -> None:
        """A read that the hardware may serve from a cache that sees no writes."""
        if size < self.width:
            self._refine(size)
        for cell in range(offset // self.width, (offset + size - 1) // self.width + 1):
            write = self.writes.get(cell) or self.past_writes.get(cell)
            if write is not None:
                raise RaceError(
                    f"ld.global.nc reads {self._cell(cell)} that this launch writes: "
                    f"{_who(record)} reads, {_who(write)} wrote; use ld.global or ld.global.cg"
                )
            self.constant[cell] = record

    def writers(self, offset: int, size: int) -> list[Record]:
        """The distinct last writes in a range of bytes."""
        cells = range(offset // self.width, (offset + size - 1) // self.width + 1)
        found = {id(self.writes[cell]): self.writes[cell] for cell in cells if cell in self.writes}
        return list(found.values())

    def next_group(self) -> None:
        """The blocks that ran are gone; the next ones are ordered with none of them."""
        self.past_writes.update(self.writes)
        self.past_reads.update(self.reads)
        self.writes.clear()
        self.reads.clear()

    def _check_write(self, record: Record, cell: int) -> None:
        if cell in self.past_writes:
            self._check_past(self.past_writes[cell], "write", record, "write", cell)
        if cell in self.past_reads:
            known = self.past_reads[cell]
            read = next(iter(known.values())) if known.__class__ is dict else known
            self._check_past(read, "read", record, "write", cell)
        if cell in self.constant:
            self._report(self.constant[cell], "ld.global.nc", record, "write", cell)

    def _check_past(self, old: Record, how: str, new: Record, now: str, cell: int) -> None:
        if not (old[5] and new[5]):
            self._report(old, how, new, now, cell)

    def _refine(self, size: int) -> None:
        """Split every cell into cells of `size` bytes."""
        parts = self.width // size
        for name in ("writes", "reads", "past_writes", "past_reads", "constant"):
            cells = getattr(self, name).items()
            finer = {
                cell * parts + i: dict(record) if record.__class__ is dict else record
                for cell, record in cells
                for i in range(parts)
            }
            setattr(self, name, finer)
        self.width = size

    def _cell(self, cell: int) -> str:
        return f"{self.name}, bytes {cell * self.width} to {(cell + 1) * self.width - 1},"

    def _report(self, old: Record, how: str, new: Record, now: str, cell: int) -> None:
        raise RaceError(
            f"race on {self._cell(cell)} with no barrier between\n"
            f"  {how} by {_who(old)}\n  {now} by {_who(new)}"
        )


def _who(record: Record) -> str:
    thread = record[2]
    what = " (asynchronous copy)" if record[0] != thread.slot else ""
    return f"{thread.name}{what} at {describe_line(record[3], record[4])}"
