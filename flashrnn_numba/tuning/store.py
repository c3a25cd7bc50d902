"""The domains during search: bounds, value sets, an undo trail, and the queue of propagators.

A domain is an interval `lo..hi`, or, where there are holes, a sorted immutable sequence of values
beside its bounds. The sequence is a tuple or a `range` with a step, so multiples of 16 below ten
million take no memory. An interval turns into a sequence only when something cuts a hole into it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import gcd

__all__ = ["Fail", "Store", "divisors"]

# A run of propagation is cut short after this many steps a propagator. Bounds that creep
# (x < y and y < x over a million values) are then halved by the search instead.
CREEP = 24
LOOK = 64  # steps of propagation, or ...
TRIALS = 256  # ... values tried, between two looks at the clock
DIVISORS = 1 << 16  # of a number, at most


class Fail(Exception):  # noqa: N818 -- an event of the search, never an error of the user's
    """Some domain became empty."""


class Store:
    """Domains of numbered nodes (variables and auxiliary results) and who watches them."""

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        self.look = look  # at the clock: raises Limit
        self.lo: list[int] = []
        self.hi: list[int] = []
        self.vals: list[Sequence[int] | None] = []
        self.trail: list[tuple[int, int, int, Sequence[int] | None]] = []
        self.run: list[Callable[[], None]] = []
        self.scope: list[tuple[int, ...]] = []  # variables to blame when a propagator fails
        self.settled: list[bool] = []  # a second run right after the first changes nothing
        self.quick: list[list[int]] = []  # node -> cheap propagators that watch it
        self.late: list[list[int]] = []  # node -> dear propagators that watch it
        self.queued: list[bool] = []
        self.quick_queue: deque[int] = deque()
        self.late_queue: deque[int] = deque()
        self.weight: list[int] = []  # of each node, for the search order
        self.propagations = 0

    def node(self, lo: int, hi: int, vals: Sequence[int] | None = None) -> int:
        """A new node with the domain given; returns its number."""
        self.lo.append(lo)
        self.hi.append(hi)
        self.vals.append(vals)
        self.quick.append([])
        self.late.append([])
        self.weight.append(1)
        return len(self.lo) - 1

    def post(
        self,
        run: Callable[[], None],
        nodes: Sequence[int],
        scope: tuple[int, ...],
        late: bool = False,
        settled: bool = False,
    ) -> None:
        """Add a propagator that runs whenever one of `nodes` changes, and now."""
        number = len(self.run)
        self.run.append(run)
        self.scope.append(scope)
        self.settled.append(settled)
        self.queued.append(True)
        for node in set(nodes):
            (self.late if late else self.quick)[node].append(number)
        (self.late_queue if late else self.quick_queue).append(number)

    def size(self, i: int) -> int:
        vals = self.vals[i]
        return self.hi[i] - self.lo[i] + 1 if vals is None else len(vals)

    def values(self, i: int) -> Sequence[int]:
        vals = self.vals[i]
        return range(self.lo[i], self.hi[i] + 1) if vals is None else vals

    # -- narrowing ---------------------------------------------------------------------------

    def set_lo(self, i: int, v: int) -> None:
        """Remove all values below v. The caller has checked that v > lo[i]."""
        if v > self.hi[i]:
            raise Fail
        vals = self.vals[i]
        self.trail.append((i, self.lo[i], self.hi[i], vals))
        if vals is not None:
            vals = vals[bisect_left(vals, v) :]
            self.vals[i] = vals
            v = vals[0]
        self.lo[i] = v
        self._wake(i)

    def set_hi(self, i: int, v: int) -> None:
        """Remove all values above v. The caller has checked that v < hi[i]."""
        if v < self.lo[i]:
            raise Fail
        vals = self.vals[i]
        self.trail.append((i, self.lo[i], self.hi[i], vals))
        if vals is not None:
            vals = vals[: bisect_right(vals, v)]
            self.vals[i] = vals
            v = vals[-1]
        self.hi[i] = v
        self._wake(i)

    def set_values(self, i: int, vals: Sequence[int]) -> None:
        """Replace the domain by `vals`, a sorted subset of it."""
        if not vals:
            raise Fail
        self.trail.append((i, self.lo[i], self.hi[i], self.vals[i]))
        self.lo[i] = vals[0]
        self.hi[i] = vals[-1]
        # Without holes the interval says it all, and is cheaper to narrow.
        self.vals[i] = None if vals[-1] - vals[0] == len(vals) - 1 else vals
        self._wake(i)

    def fix(self, i: int, v: int) -> None:
        """Make v the only value. The caller vouches that v is in the domain."""
        self.trail.append((i, self.lo[i], self.hi[i], self.vals[i]))
        self.lo[i] = self.hi[i] = v
        self.vals[i] = None
        self._wake(i)

    def keep_congruent(self, i: int, modulus: int, residue: int) -> None:
        """Keep the values v with v % modulus == residue."""
        vals = self.values(i)
        if isinstance(vals, range):
            kept: Sequence[int] = _congruent(vals, modulus, residue)
        else:
            kept = tuple([v for v in vals if v % modulus == residue])
        if len(kept) < len(vals):
            self.set_values(i, kept)

    def keep_divisors(self, i: int, number: int, power: int = 1) -> None:
        """Keep the values v with v ** power dividing `number`, which is not 0."""
        vals = self.values(i)
        if len(vals) > 256:
            candidates = divisors(abs(number))
            if candidates is None:
                return
            if self.lo[i] < 0:
                candidates = (*[-d for d in reversed(candidates)], *candidates)
            members = vals if isinstance(vals, range) else frozenset(vals)
            vals = [d for d in candidates if d in members]
        if power == 1:
            kept = [v for v in vals if v and number % v == 0]
        else:
            kept = [v for v in vals if v and number % v**power == 0]
        if len(kept) < self.size(i):
            self.set_values(i, tuple(kept))

    def _wake(self, i: int) -> None:
        queued = self.queued
        for p in self.quick[i]:
            if not queued[p]:
                queued[p] = True
                self.quick_queue.append(p)
        for p in self.late[i]:
            if not queued[p]:
                queued[p] = True
                self.late_queue.append(p)

    # -- fixpoint and undo -------------------------------------------------------------------

    def propagate(self) -> bool:
        """Run the queue until nothing changes. False if a domain became empty. May raise Limit."""
        quick, late = self.quick_queue, self.late_queue
        queued, run, settled = self.queued, self.run, self.settled
        budget = left = CREEP * (len(run) + 4)
        p = -1
        try:
            while left and (quick or late):
                self.look()
                pause = max(0, left - LOOK)
                while left > pause:
                    if quick:
                        p = quick.popleft()
                    elif late:
                        p = late.popleft()
                    else:
                        break
                    left -= 1
                    if settled[p]:
                        run[p]()
                        queued[p] = False
                    else:
                        queued[p] = False
                        run[p]()
        except Fail:
            queued[p] = False
            self.drop_queue()
            weight = self.weight
            for i in self.scope[p]:
                weight[i] += 1
            return False
        finally:
            self.propagations += budget - left
        if not left:
            self.drop_queue()
        return True

    def drop_queue(self) -> None:
        queued = self.queued
        for queue in (self.quick_queue, self.late_queue):
            for p in queue:
                queued[p] = False
            queue.clear()

    def undo(self, mark: int) -> None:
        """Take back every change since the trail was `mark` long."""
        trail, lo, hi, vals = self.trail, self.lo, self.hi, self.vals
        while len(trail) > mark:
            i, lo[i], hi[i], vals[i] = trail.pop()


def _congruent(vals: range, modulus: int, residue: int) -> range:
    """The members of an ascending range that are `residue` modulo `modulus`."""
    start, step = vals.start, vals.step
    common = gcd(step, modulus)
    if (residue - start) % common:
        return range(0)
    # start + step * t == residue (mod modulus): solve for the first t >= 0.
    period = modulus // common
    first = (residue - start) // common * pow(step // common, -1, period) % period
    return vals[first::period]


@lru_cache(maxsize=4096)
def divisors(number: int) -> tuple[int, ...] | None:
    """All positive divisors of a positive number, ascending, by trial division.

    None where that would take long: two prime factors above 2 ** 16, a number of thousands of
    bits, or too many divisors.
    """
    if number.bit_length() > 4096:
        return None
    found = [1]
    rest, prime = number, 2
    while prime * prime <= rest:
        if prime > 1 << 16:
            return None
        if rest % prime == 0:
            powers = [1]
            while rest % prime == 0:
                rest //= prime
                powers.append(powers[-1] * prime)
            if len(found) * len(powers) > DIVISORS:
                return None
            found = [d * q for d in found for q in powers]
        prime += 1 if prime == 2 else 2
    if rest > 1:
        found += [d * rest for d in found]
    return tuple(sorted(found))
