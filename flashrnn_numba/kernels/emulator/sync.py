"""Where threads meet: block, grid, named and cluster barriers, warp operations, mbarriers."""

from collections.abc import Callable
from typing import Any

from .errors import DivergenceError, EmulatorError
from .races import Order, Stamp
from .where import Site, describe_line


class Meeting:
    """A barrier of `size` threads that all come to the same line of the kernel."""

    def __init__(self, name: str, size: int, same_line: bool = True) -> None:
        self.name = name
        self.size = size
        self.same_line = same_line
        self.arrived: list[tuple[Any, Any]] = []
        self.waiting: list[Any] = []
        self.site: Site | None = None
        self.left: Any = None  # a thread that has left the kernel

    def join(self, thread: Any, value: Any = None, wait: bool = True) -> Any:
        """Returns the values of all, when all are there."""
        site = thread.site()
        if self.left is not None:
            raise DivergenceError(
                f"{thread.name} comes to {self.name} at {describe_line(*site)}, "
                f"but {self.left.name} has left the kernel"
            )
        if self.same_line and self.arrived and site != self.site:
            other = self.arrived[0][0]
            raise DivergenceError(
                f"{thread.name} is at {self.name} at {describe_line(*site)}\n"
                f"  while {other.name} is at that of {describe_line(*_known(self.site))}"
            )
        self.site = site
        self.arrived.append((thread, value))
        if len(self.arrived) < self.size:
            if not wait:
                return None
            self.waiting.append(thread)
            return thread.park(self.name, site)
        return self._complete(thread, wait)

    def leave(self, thread: Any) -> None:
        """The thread has left the kernel: nobody may wait for it."""
        self.left = thread
        if self.arrived:
            raise DivergenceError(
                f"{thread.name} has left the kernel while {len(self.arrived)} threads wait "
                f"at {self.name} at {describe_line(*_known(self.site))}"
            )

    def _complete(self, last: Any, wait: bool) -> list[Any]:
        arrived, waiting = self.arrived, self.waiting
        self.arrived, self.waiting = [], []
        values = [value for _, value in arrived]
        if last.machine.races:
            order = Order()
            for thread, _ in arrived:
                order.release(thread)
            for thread in [*waiting, last] if wait else waiting:
                order.acquire(thread)
        last.machine.wake(waiting, values)
        return values


class Warp:
    """Up to 32 lanes, and the operations for which some of them have arrived."""

    def __init__(self, name: str, lanes: list[Any]) -> None:
        self.name = name
        self.lanes = lanes
        self.open: dict[int, tuple[str, Site, dict[int, Any]]] = {}  # by mask
        self.present = (1 << len(lanes)) - 1

    def collective(
        self,
        thread: Any,
        name: str,
        value: Any,
        compute: Callable[[list[Any]], list[Any]],
        mask: int,
    ) -> Any:
        """Gather the values of all lanes of the mask; `compute` makes a result for each lane."""
        site = thread.site()
        self._check(thread, name, mask)
        if mask not in self.open:
            self.open[mask] = (name, site, {})
        known_name, known_site, values = self.open[mask]
        if known_site != site or known_name != name:
            other = self.lanes[next(iter(values))]
            raise DivergenceError(
                f"{thread.name} executes {name} at {describe_line(*site)}\n"
                f"  while {other.name} executes {known_name} at {describe_line(*known_site)}"
            )
        values[thread.lane] = value
        if len(values) < mask.bit_count():
            return thread.park(f"{name} (mask {mask:#010x})", site)
        del self.open[mask]
        results = compute([values.get(lane) for lane in range(32)])
        for lane in values:
            if lane != thread.lane:
                thread.machine.wake([self.lanes[lane]], results[lane])
        return results[thread.lane]

    def sync(self, thread: Any, mask: int) -> None:
        """syncwarp: orders the memory accesses of the lanes."""

        def order_lanes(values: list[Any]) -> list[Any]:
            if thread.machine.races:
                members = [self.lanes[i] for i in range(32) if mask >> i & 1]
                order = Order()
                for member in members:
                    order.release(member)
                for member in members:
                    order.acquire(member)
            return values

        self.collective(thread, "syncwarp", None, order_lanes, mask)

    def leave(self, thread: Any) -> None:
        self.present &= ~(1 << thread.lane)
        for mask, (name, site, values) in self.open.items():
            if mask >> thread.lane & 1:
                raise DivergenceError(
                    f"{thread.name} has left the kernel while {len(values)} lanes of its warp "
                    f"wait for it in {name} at {describe_line(*site)}"
                )

    def _check(self, thread: Any, name: str, mask: int) -> None:
        if not mask >> thread.lane & 1:
            raise DivergenceError(f"{thread.name} executes {name}, but mask {mask:#x} lacks it")
        missing = mask & ~self.present
        if missing:
            lane = (missing & -missing).bit_length() - 1
            why = "does not exist" if lane >= len(self.lanes) else "has left the kernel"
            raise DivergenceError(
                f"{thread.name} executes {name} with mask {mask:#x}, but lane {lane} {why}"
            )


class ClusterBarrier:
    """barrier.cluster: arrive and wait are separate; threads that have left are not waited for."""

    def __init__(self, threads: list[Any]) -> None:
        self.absent = set(threads)  # those that have yet to arrive in this phase
        self.threads = threads
        self.phase = 0
        self.order, self.done = Order(), Order()
        self.waiting: list[Any] = []

    def arrive(self, thread: Any, release: bool) -> None:
        if thread.cluster_phase is not None:
            raise EmulatorError(
                f"{thread.name} arrives twice at the cluster barrier without waiting"
            )
        thread.cluster_phase = self.phase
        if release and thread.machine.races:
            self.order.release(thread)
        self.absent.discard(thread)
        self._check(thread.machine)

    def wait(self, thread: Any) -> None:
        if thread.cluster_phase is None:
            raise EmulatorError(f"{thread.name} waits at the cluster barrier without arriving")
        while thread.cluster_phase == self.phase:
            self.waiting.append(thread)
            thread.park("cluster barrier", thread.site())
        thread.cluster_phase = None
        thread.cluster_met = True
        if thread.machine.races:
            self.done.acquire(thread)

    def leave(self, thread: Any) -> None:
        self.threads = [other for other in self.threads if other is not thread]
        self.absent.discard(thread)
        if self.threads:
            self._check(thread.machine)

    def _check(self, machine: Any) -> None:
        if self.absent:
            return
        self.phase += 1
        self.done, self.order = self.order, Order()
        self.absent = set(self.threads)
        waiting, self.waiting = self.waiting, []
        machine.wake(waiting)


class MBarrier:
    """One mbarrier: arrivals and bytes still to come in this phase."""

    def __init__(self, block: Any, count: int) -> None:
        if not 1 <= count < 1 << 20:
            raise EmulatorError(f"mbarrier_init: count is {count}, expected 1 to 2^20 - 1")
        self.block = block
        self.count = self.pending = count
        self.bytes = 0
        self.phase = 0
        # All that was released in the current phase and in the last one, and the part of it that
        # this block's own threads released: all that a wait of block scope acquires.
        self.order, self.local = Order(), Order()
        self.done: tuple[Order, Order] = (Order(), Order())
        self.waiting: list[Any] = []

    def arrive(self, thread: Any) -> None:
        if thread.machine.races:
            stamp = (thread.seen, thread.slot, thread.own)
            thread.own += 1
            self._add(stamp, thread.block)
        self.pending -= 1
        if self.pending < 0:
            raise EmulatorError(
                f"mbarrier: more arrivals in a phase than its count of {self.count} "
                f"({self.bytes} bytes are still expected)"
            )
        self._check(thread.machine)

    def expect(self, thread: Any, size: int) -> None:
        self.bytes += size
        thread.machine.progress += 1
        self._check(thread.machine)

    def complete(self, machine: Any, size: int, stamps: list[Stamp], source: Any) -> None:
        """`size` bytes have arrived that thread `source` sent."""
        self.bytes -= size
        for stamp in stamps:
            self._add(stamp, source.block)
        self._check(machine)

    def is_complete(self, parity: int) -> bool:
        """Has the phase of this parity completed? The one before the first counts as parity 1."""
        return self.phase % 2 != parity

    def acquire(self, thread: Any, cluster_scope: bool) -> None:
        if thread.machine.races:
            self.done[0 if cluster_scope else 1].acquire(thread)

    def _add(self, stamp: Stamp, block: Any) -> None:
        self.order.add(stamp)
        if block is self.block:
            self.local.add(stamp)

    def _check(self, machine: Any) -> None:
        machine.progress += 1
        if self.pending or self.bytes:
            return
        self.phase += 1
        self.pending = self.count
        self.done = (self.order, self.local)
        self.order, self.local = Order(self.order), Order(self.local)
        waiting, self.waiting = self.waiting, []
        machine.wake(waiting)


def _known(site: Site | None) -> Site:
    if site is None:
        raise RuntimeError("a barrier with arrivals has a site")
    return site
