"""The propagators: each narrows the domains of a few nodes until they agree on one relation.

Every function here returns a closure that reads and narrows bounds in a `Store`, for speed: the
lists are bound once and the inner loops touch nothing else. All are sound (they never remove a
value that is part of a solution); completeness comes from `filters.py` and from the check of each
complete assignment in `search.py`.

A product is a list of (node, exponent) with a coefficient; "plain" products have a positive
coefficient and factors that are never negative, which is what tile sizes are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd

from .store import Fail, Store

Run = Callable[[], None]
Factors = Sequence[tuple[int, int]]

__all__ = [
    "Run",
    "divides",
    "extremum",
    "first_range",
    "floor_divide",
    "linear_equal",
    "linear_less",
    "modulo",
    "plain_product_equal",
    "plain_product_less",
    "power",
    "product",
    "product_multiples",
]


def root(number: int, degree: int) -> int:
    """The largest r with r ** degree <= number, for number >= 0."""
    if degree == 1 or number < 2:
        return number
    r = (
        round(number ** (1.0 / degree))
        if number < 1 << 52
        else 1 << (-(-number.bit_length() // degree))
    )
    while r**degree > number:  # Newton's steps from above; at most a few
        r = min(((degree - 1) * r + number // r ** (degree - 1)) // degree, r - 1)
    while (r + 1) ** degree <= number:
        r += 1
    return r


def root_up(number: int, degree: int) -> int:
    """The smallest r with r ** degree >= number, for number >= 0."""
    r = root(number, degree)
    return r if degree == 1 or r**degree == number else r + 1


# -- sums ------------------------------------------------------------------------------------


def linear_less(store: Store, terms: Sequence[tuple[int, int]], constant: int) -> Run:
    """sum(c * x for (c, x) in terms) + constant <= 0; every x once."""
    lo, hi, set_lo, set_hi = store.lo, store.hi, store.set_lo, store.set_hi
    plus = [(c, x) for c, x in terms if c > 0]
    minus = [(-c, x) for c, x in terms if c < 0]

    def run() -> None:
        least = constant
        for c, x in plus:
            least += c * lo[x]
        for c, x in minus:
            least -= c * hi[x]
        if least > 0:
            raise Fail
        for c, x in plus:
            v = lo[x] + -least // c
            if v < hi[x]:
                set_hi(x, v)
        for c, x in minus:
            v = hi[x] - -least // c
            if v > lo[x]:
                set_lo(x, v)

    return run


def linear_equal(store: Store, terms: Sequence[tuple[int, int]], constant: int) -> Run:
    """sum(c * x for (c, x) in terms) + constant == 0; every x once."""
    lo, hi, set_lo, set_hi = store.lo, store.hi, store.set_lo, store.set_hi
    plus = [(c, x) for c, x in terms if c > 0]
    minus = [(-c, x) for c, x in terms if c < 0]

    def run() -> None:
        least = most = constant
        for c, x in plus:
            least += c * lo[x]
            most += c * hi[x]
        for c, x in minus:
            least -= c * hi[x]
            most -= c * lo[x]
        if least > 0 or most < 0:
            raise Fail
        for c, x in plus:
            low, high = lo[x], hi[x]
            if low != high:
                upper, lower = low + -least // c, high - most // c
                if upper < high:
                    set_hi(x, upper)
                if lower > lo[x]:
                    set_lo(x, lower)
        for c, x in minus:
            low, high = lo[x], hi[x]
            if low != high:
                upper, lower = low + most // c, high - -least // c
                if upper < high:
                    set_hi(x, upper)
                if lower > lo[x]:
                    set_lo(x, lower)

    return run


# -- products of numbers that are never negative -----------------------------------------------


def _shrink(store: Store, factors: Factors, least: int, most: int, low: int, high: int) -> None:
    """Bring the product of `factors`, now within least..most, into low..high."""
    lo, hi = store.lo, store.hi
    if high < most and least > 0:
        for x, e in factors:
            v = high // (least // lo[x] ** e)
            if e > 1:
                v = root(v, e)
            if v < hi[x]:
                store.set_hi(x, v)
    if low > least and most > 0:
        for x, e in factors:
            if hi[x] == 0:
                raise Fail
            v = -(-low // (most // hi[x] ** e))  # hi may have shrunk above: then this is weaker
            if e > 1:
                v = root_up(v, e)
            if v > lo[x]:
                store.set_lo(x, v)


def _range(lo: list[int], hi: list[int], c: int, factors: Factors) -> tuple[int, int]:
    least = most = c
    for x, e in factors:
        if e == 1:
            least *= lo[x]
            most *= hi[x]
        else:
            least *= lo[x] ** e
            most *= hi[x] ** e
    return least, most


def plain_product_equal(store: Store, c1: int, f1: Factors, c2: int, f2: Factors) -> Run:
    """c1 * product(f1) == c2 * product(f2), both plain."""
    lo, hi = store.lo, store.hi

    def run() -> None:
        least1, most1 = _range(lo, hi, c1, f1)
        least2, most2 = _range(lo, hi, c2, f2)
        low = least1 if least1 > least2 else least2
        high = most1 if most1 < most2 else most2
        if low > high:
            raise Fail
        if low > least1 or high < most1:
            _shrink(store, f1, least1, most1, low, high)
        if low > least2 or high < most2:
            _shrink(store, f2, least2, most2, low, high)

    return run


def plain_product_less(store: Store, c1: int, f1: Factors, c2: int, f2: Factors) -> Run:
    """c1 * product(f1) <= c2 * product(f2), both plain."""
    lo, hi = store.lo, store.hi

    def run() -> None:
        least1, most1 = _range(lo, hi, c1, f1)
        least2, most2 = _range(lo, hi, c2, f2)
        if least1 > most2:
            raise Fail
        if most1 > most2:
            _shrink(store, f1, least1, most1, least1, most2)
        if least2 < least1:
            _shrink(store, f2, least2, most2, least1, most2)

    return run


def _reduce(store: Store, c: int, factors: Factors) -> tuple[int, list[tuple[int, int]]]:
    """The product's known part, and the factors that are still open."""
    lo, hi = store.lo, store.hi
    known, rest = c, []
    for x, e in factors:
        if lo[x] == hi[x]:
            known *= lo[x] ** e
        else:
            rest.append((x, e))
    return known, rest


def product_multiples(store: Store, c1: int, f1: Factors, c2: int, f2: Factors) -> Run:
    """c1 * product(f1) == c2 * product(f2): what divisibility alone says."""

    def run() -> None:
        known1, open1 = _reduce(store, c1, f1)
        known2, open2 = _reduce(store, c2, f2)
        if (len(open1) > 1 and len(open2) > 1) or not known1 or not known2:
            return
        common = gcd(known1, known2)
        _one_side(store, known1 // common, open1, known2 // common, open2)
        _one_side(store, known2 // common, open2, known1 // common, open1)

    return run


def _one_side(store: Store, q1: int, open1: Factors, q2: int, open2: Factors) -> None:
    """q1 * open1 == q2 * open2 with q1 and q2 coprime: so q2 divides the product of open1."""
    if not open1:
        if q2 != 1 and q2 != -1:
            raise Fail
        for x, e in open2:
            store.keep_divisors(x, q1, e)
    elif len(open1) == 1 and open1[0][1] == 1 and q2 != 1 and q2 != -1:
        store.keep_congruent(open1[0][0], abs(q2), 0)


def divides(store: Store, c1: int, f1: Factors, c2: int, f2: Factors) -> Run:
    """c1 * product(f1) % (c2 * product(f2)) == 0, and the divisor is not 0."""
    lo, hi = store.lo, store.hi
    plain = c1 > 0 and c2 > 0 and all(lo[x] >= 0 for x, _ in (*f1, *f2))

    def run() -> None:
        for x, _ in f2:
            _not_zero(store, x)
        if plain:
            least1, most1 = _range(lo, hi, c1, f1)
            least2, most2 = _range(lo, hi, c2, f2)
            if least1 > 0 and most2 > most1:  # a divisor is no larger than its multiple
                if least2 > most1:
                    raise Fail
                _shrink(store, f2, least2, most2, least2, most1)
        known1, open1 = _reduce(store, c1, f1)
        known2, open2 = _reduce(store, c2, f2)
        if known1 == 0:
            return
        common = gcd(known1, known2)
        known2 //= common
        if not open1:
            if known2 != 1 and known2 != -1:
                raise Fail
            for x, e in open2:
                store.keep_divisors(x, known1 // common, e)
        elif len(open1) == 1 and open1[0][1] == 1 and known2 != 1 and known2 != -1:
            store.keep_congruent(open1[0][0], abs(known2), 0)

    return run


# -- anything that may be negative ---------------------------------------------------------------


def _corners(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    products = (a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1])
    return min(products), max(products)


def _power_range(low: int, high: int, e: int) -> tuple[int, int]:
    a, b = low**e, high**e
    if e % 2 == 0 and low < 0 < high:
        return 0, max(a, b)
    return min(a, b), max(a, b)


def product(store: Store, factors: Factors, z: int) -> Run:
    """product(factors) == z for any signs; z is a node."""
    lo, hi = store.lo, store.hi

    def run() -> None:
        parts = [_power_range(lo[x], hi[x], e) for x, e in factors]
        low, high = 1, 1
        for part in parts:
            low, high = _corners((low, high), part)
        if low > lo[z]:
            store.set_lo(z, low)
        if high < hi[z]:
            store.set_hi(z, high)
        for n, (x, e) in enumerate(factors):
            if e > 1 or lo[x] == hi[x]:
                continue
            others = (1, 1)
            for m, part in enumerate(parts):
                if m != n:
                    others = _corners(others, part)
            if others[0] <= 0 <= others[1]:
                continue
            # x == z / others as real numbers; the extremes are at the corners.
            pairs = [(a, b) for a in (lo[z], hi[z]) for b in others]
            _bound(store, x, min(-(-a // b) for a, b in pairs), max(a // b for a, b in pairs))

    return run


def _bound(store: Store, x: int, low: int, high: int) -> None:
    if low > store.lo[x]:
        store.set_lo(x, low)
    if high < store.hi[x]:
        store.set_hi(x, high)


def _not_zero(store: Store, y: int) -> None:
    if store.lo[y] == 0:
        if store.hi[y] == 0:
            raise Fail
        store.set_lo(y, 1)
    elif store.hi[y] == 0:
        store.set_hi(y, -1)


def _divisor_corners(low: int, high: int) -> list[int]:
    """Where a quotient by something in low..high is extreme; 0 is left out."""
    return [v for v in (low, high, -1, 1) if low <= v <= high and v]


def first_range(op: str, x: tuple[int, int], y: tuple[int, int]) -> tuple[int, int]:
    """Where x // y, x % y or x ** y can lie at all; (0, 0) where it is never defined."""
    if op == "**":
        most = max(abs(x[0]), abs(x[1]), 1) ** max(y[1], 0)
        return (0 if x[0] >= 0 else -most), most
    divisors = _divisor_corners(*y)
    if not divisors:
        return 0, 0
    if op == "%":
        high = max(y[1] - 1, 0)
        if x[0] >= 0 and y[0] > 0:
            high = min(high, x[1])
        return min(y[0] + 1, 0), high
    corners = [a // b for a in x for b in divisors]
    return min(corners), max(corners)


def floor_divide(store: Store, x: int, y: int, z: int) -> Run:
    """x // y == z."""
    lo, hi = store.lo, store.hi

    def run() -> None:
        _not_zero(store, y)
        corners = [a // b for a in (lo[x], hi[x]) for b in _divisor_corners(lo[y], hi[y])]
        _bound(store, z, min(corners), max(corners))
        if lo[y] > 0:
            # z * y <= x < (z + 1) * y
            _bound(
                store,
                x,
                min(lo[z] * lo[y], lo[z] * hi[y]),
                max((hi[z] + 1) * lo[y], (hi[z] + 1) * hi[y]) - 1,
            )
            if lo[x] >= 0 and hi[z] >= 0:
                low = lo[x] // (hi[z] + 1) + 1
                _bound(store, y, low, hi[x] // lo[z] if lo[z] > 0 else hi[y])

    return run


def modulo(store: Store, x: int, y: int, z: int) -> Run:
    """x % y == z."""
    lo, hi = store.lo, store.hi

    def run() -> None:
        _not_zero(store, y)
        _bound(store, z, min(lo[y] + 1, 0), max(hi[y] - 1, 0))
        if lo[y] > 0:
            if lo[x] >= 0:
                if hi[x] < hi[z]:
                    store.set_hi(z, hi[x])
                if lo[z] > lo[x]:
                    store.set_lo(x, lo[z])
            if lo[z] >= lo[y]:  # the remainder is smaller than the divisor
                store.set_lo(y, lo[z] + 1)
            if lo[x] >= 0 and hi[x] < lo[y]:  # nothing is taken off
                _bound(store, z, lo[x], hi[x])
                _bound(store, x, lo[z], hi[z])
            elif lo[y] == hi[y]:
                m = lo[y]
                base = lo[x] // m * m
                if base == hi[x] // m * m:
                    _bound(store, z, lo[x] - base, hi[x] - base)
                    _bound(store, x, lo[z] + base, hi[z] + base)
                elif lo[z] == hi[z]:
                    store.keep_congruent(x, m, lo[z])

    return run


def power(store: Store, x: int, y: int, z: int) -> Run:
    """x ** y == z with an exponent that is a variable; a negative one fails."""
    lo, hi = store.lo, store.hi

    def run() -> None:
        if lo[y] < 0:
            store.set_lo(y, 0)
        if lo[x] < 1:
            most = max(abs(lo[x]), abs(hi[x]), 1) ** hi[y]
            _bound(store, z, 0 if lo[x] >= 0 else -most, most)
            return
        _bound(store, z, lo[x] ** lo[y], hi[x] ** hi[y])
        if lo[x] > 1:
            high = _first(lo[y], hi[y], lambda e: lo[x] ** (e + 1) > hi[z])
            low = _first(lo[y], high, lambda e: hi[x] ** e >= lo[z])
            _bound(store, y, low, high)
        if lo[y] > 0:
            _bound(store, x, root_up(lo[z], hi[y]), root(hi[z], lo[y]))

    return run


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The smallest of low .. high for which something holds that then holds for all larger ones;
    `high` where there is none."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def extremum(store: Store, args: Sequence[int], z: int, largest: bool) -> Run:
    """z == max(args) if `largest`, else min(args)."""
    lo, hi = store.lo, store.hi

    def run_max() -> None:
        _bound(store, z, max([lo[x] for x in args]), max([hi[x] for x in args]))
        for x in args:
            if hi[x] > hi[z]:
                store.set_hi(x, hi[z])
        able = [x for x in args if hi[x] >= lo[z]]
        if len(able) == 1 and lo[able[0]] < lo[z]:
            store.set_lo(able[0], lo[z])

    def run_min() -> None:
        _bound(store, z, min([lo[x] for x in args]), min([hi[x] for x in args]))
        for x in args:
            if lo[x] < lo[z]:
                store.set_lo(x, lo[z])
        able = [x for x in args if lo[x] <= hi[z]]
        if len(able) == 1 and hi[able[0]] > hi[z]:
            store.set_hi(able[0], hi[z])

    return run_max if largest else run_min
