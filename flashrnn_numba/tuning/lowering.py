"""From constraints to propagators.

Sums and products are brought to a normal form first: a sum of monomials with integer
coefficients. What is shared is computed once, two-sided products keep both sides whole (so that
divisibility sees them), and everything else becomes auxiliary nodes of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd

from . import propagators as pp
from .bounds import restricted
from .clock import Clock
from .expressions import (
    All,
    Any,
    Comparison,
    Constraint,
    Expression,
    Member,
    Truth,
    Variable,
    evaluator,
    is_partial,
    parts_of,
    variables_of,
)
from .filters import any_of, filter_by
from .spans import PowerGuard, Span, check_power
from .store import TRIALS, Fail, Store

__all__ = ["Model"]

Monomial = tuple[tuple[int, int], ...]  # sorted (node, exponent)
Posted = list[tuple[pp.Run, list[int], bool, bool]]  # run, watched nodes, late, settled

ROOT_VALUES = 1 << 14  # an exact filter looks at this many values at most, ...
PAIRS = 64  # ... or at this many pairs


class Linear:
    """constant + sum of coefficient * monomial."""

    __slots__ = ("constant", "terms")

    def __init__(self, terms: dict[Monomial, int], constant: int = 0) -> None:
        self.terms = terms
        self.constant = constant

    def plus(self, other: Linear, sign: int) -> Linear:
        terms = dict(self.terms)
        for monomial, c in other.terms.items():
            total = terms.get(monomial, 0) + sign * c
            if total:
                terms[monomial] = total
            else:
                terms.pop(monomial, None)
        return Linear(terms, self.constant + sign * other.constant)

    def scaled(self, by: int) -> Linear:
        if not by:
            return Linear({})
        return Linear({m: c * by for m, c in self.terms.items()}, self.constant * by)


class Model:
    """A store with everything posted, ready to search.

    `nodes` maps the place of a variable in `variables` to its node; `checks` are the exact tests
    of a complete assignment, as (function, nodes of its arguments). clock -- raises Limit in time,
    also while the model is built.
    """

    def __init__(
        self,
        variables: Sequence[Variable],
        constraints: Sequence[Constraint],
        objective: Expression | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.store = Store() if clock is None else Store(clock.look)
        self.variables = variables
        self.infeasible = False
        self.checks: list[tuple[Callable[..., int], list[int]]] = []
        self.objective: int | None = None
        self.cost: tuple[Callable[..., int], list[int]] | None = None
        self._known: dict[object, int] = {}
        self._forms: dict[int, Linear] = {}  # of the constraint at hand, whose parts are shared
        self._most: dict[tuple[tuple[Monomial, int], ...], int] = {}  # upper bounds of sums
        self._required = True  # False inside an alternative
        self._of: dict[int, int] = {}
        self.nodes = list(range(len(variables)))
        cut = restricted(variables, [part for whole in constraints for part in _flat(whole)])
        if cut is None:
            self.infeasible = True
            return
        domains, parts = cut
        for variable in variables:
            self._of[id(variable)] = self._declare(domains[id(variable)])
        inside = [parts_of(part) for part in parts]
        scopes = [[e for e in found if isinstance(e, Variable)] for found in inside]
        compiled: list[tuple[Expression | Constraint, list[Variable]]] = list(
            zip(parts, scopes, strict=True)
        )
        if objective is not None:
            compiled.append((objective, variables_of(objective)))
        tests = evaluator(compiled)
        for part, found, scope, test in zip(parts, inside, scopes, tests, strict=False):
            self.store.look()
            self._check_powers([e for e in found if e.op == "**"])
            self._post(part, tuple(self._of[id(v)] for v in scope), test)
        if objective is not None:
            self._scope: tuple[int, ...] = ()
            self._forms = {}
            self.objective = self._node(self._linear(objective))
            self.cost = (tests[-1], [self._of[id(v)] for v in compiled[-1][1]])

    def _declare(self, domain: Sequence[int]) -> int:
        dense = domain[-1] - domain[0] == len(domain) - 1
        return self.store.node(domain[0], domain[-1], None if dense else domain)

    def _check_powers(self, powers: list[Expression]) -> None:
        """Before a constraint is tried on anything."""
        if powers:
            guard = PowerGuard(self._span)
            for power in powers:
                guard.span(power)

    def _span(self, variable: Variable) -> Span:
        x = self._of[id(variable)]
        return self.store.lo[x], self.store.hi[x]

    # -- constraints -------------------------------------------------------------------------

    def _post(self, part: Constraint, scope: tuple[int, ...], test: Callable[..., int]) -> None:
        if isinstance(part, Truth) or not scope:
            if not _truth(test):
                self.infeasible = True
            return
        store = self.store
        if len(scope) == 1 and (
            store.size(scope[0]) <= ROOT_VALUES and not isinstance(part, Member)
        ):
            if not _filter_now(store, scope[0], test):
                self.infeasible = True
            return
        self._scope, self._forms = scope, {}
        if isinstance(part, Member):
            # The domain says it all, and stays exact from here on.
            if not _keep_members(store, self._node(self._linear(part.expression)), part.values):
                self.infeasible = True
            self.checks.append((test, list(scope)))
            return
        exact = False
        if isinstance(part, Comparison):
            posted, exact = self._comparison(part)
        else:
            assert isinstance(part, Any)
            posted = self._alternatives(part)
        for run, nodes, late, settled in posted:
            store.post(run, nodes, scope, late, settled)
        for v in scope:
            store.weight[v] += 1
        self.checks.append((test, list(scope)))
        if not exact:
            run = filter_by(store, test, scope, ROOT_VALUES, PAIRS)
            store.post(run, scope, scope, late=True, settled=True)

    def _alternatives(self, part: Any) -> Posted:
        branches: list[list[pp.Run]] = []
        watched: set[int] = set()
        for item in part.items:
            branch: list[pp.Run] = []
            # A partial operation would have to hold outside its own branch: leave it opaque.
            if not is_partial(item):
                self._required = False
                for piece in _flat(item):
                    if isinstance(piece, Comparison):
                        for run, nodes, _, _ in self._comparison(piece)[0]:
                            branch.append(run)
                            watched.update(nodes)
            branches.append(branch)
        self._required = True
        return [(any_of(self.store, branches), list(watched), True, True)]

    def _comparison(self, part: Comparison) -> tuple[Posted, bool]:
        """Propagators for a comparison, and whether they are exact with one variable open."""
        remainder = _divisibility(part)
        if remainder is not None:
            return self._divides(*remainder), False
        difference = self._linear(part.left).plus(self._linear(part.right), -1)
        if part.op == "!=":
            return [], False
        if part.op in (">", ">="):
            difference = difference.scaled(-1)
        if part.op in ("<", ">"):
            difference.constant += 1
        partial = part.op == "==" or is_partial(part)
        if not difference.terms:
            bad = difference.constant != 0 if part.op == "==" else difference.constant > 0
            return ([(_fail, list(self._scope), False, True)] if bad else []), False
        posted = self._relation(difference, part.op == "==")
        used = [x for monomial in difference.terms for x, _ in monomial]
        plain = all(self.store.lo[x] >= 0 for x in used) and len(set(used)) == len(used)
        return posted, plain and not partial

    def _relation(self, total: Linear, equal: bool) -> Posted:
        """total == 0 if `equal`, else total <= 0."""
        common = gcd(*total.terms.values())
        if equal and total.constant % common:
            return [(_fail, list(self._scope), False, True)]
        terms = {m: c // common for m, c in total.terms.items()}
        constant = -(-total.constant // common)
        if self._contradicts(terms, constant, equal):
            return [(_fail, list(self._scope), False, True)]
        sides = self._two_products(terms, constant)
        if sides is None:
            pairs = [(c, self._product(m)) for m, c in terms.items()]
            nodes = [x for _, x in pairs]
            if equal:
                return [(pp.linear_equal(self.store, pairs, constant), nodes, False, False)]
            return [(pp.linear_less(self.store, pairs, constant), nodes, False, True)]
        c1, f1, c2, f2 = sides
        nodes = [x for x, _ in (*f1, *f2)]
        if not equal:
            run = pp.plain_product_less(self.store, c1, f1, c2, f2)
            return [(run, nodes, False, False)]
        posted: Posted = [(pp.plain_product_equal(self.store, c1, f1, c2, f2), nodes, False, False)]
        if (c1, c2) != (1, 1) or len(nodes) > 2:
            run = pp.product_multiples(self.store, c1, f1, c2, f2)
            posted.append((run, nodes, True, False))
        return posted

    def _contradicts(self, terms: dict[Monomial, int], constant: int, equal: bool) -> bool:
        """Whether the same sum is bounded elsewhere so that nothing is left for it.

        a < b and b < a would otherwise be refuted one value at a time.
        """
        if not self._required:  # an alternative binds nobody else
            return False
        key = tuple(sorted(terms.items()))
        opposite = tuple((m, -c) for m, c in key)
        most = self._most
        most[key] = min(most.get(key, -constant), -constant)
        if equal:
            most[opposite] = min(most.get(opposite, constant), constant)
        return opposite in most and most[key] + most[opposite] < 0

    def _two_products(
        self, terms: dict[Monomial, int], constant: int
    ) -> tuple[int, Monomial, int, Monomial] | None:
        """The relation as c1 * f1 (== or <=) c2 * f2 with plain products, if it has that form."""
        plus = [(c, m) for m, c in terms.items() if c > 0]
        minus = [(-c, m) for m, c in terms.items() if c < 0]
        if constant > 0:
            plus.append((constant, ()))
        elif constant < 0:
            minus.append((-constant, ()))
        if len(plus) != 1 or len(minus) != 1:
            return None
        (c1, f1), (c2, f2) = plus[0], minus[0]
        if all(len(f) <= 1 and all(e == 1 for _, e in f) for f in (f1, f2)):
            return None  # linear: sums do this faster
        if any(self.store.lo[x] < 0 for x, _ in (*f1, *f2)):
            return None
        if {x for x, _ in f1} & {x for x, _ in f2}:
            return None  # narrowing one side would move the bounds of the other under our feet
        return c1, f1, c2, f2

    def _divides(self, number: Expression, divisor: Expression) -> Posted:
        """number % divisor == 0."""
        top, bottom = self._linear(number), self._linear(divisor)
        if not bottom.terms and not bottom.constant:
            return [(_fail, list(self._scope), False, True)]
        c1, f1 = self._as_product(top)
        c2, f2 = self._as_product(bottom)
        nodes = [x for x, _ in (*f1, *f2)]
        if not nodes:
            return [] if c1 % c2 == 0 else [(_fail, list(self._scope), False, True)]
        return [(pp.divides(self.store, c1, f1, c2, f2), nodes, True, False)]

    def _as_product(self, total: Linear) -> tuple[int, Monomial]:
        if not total.terms:
            return total.constant, ()
        if len(total.terms) == 1 and not total.constant:
            ((monomial, c),) = total.terms.items()
            return c, monomial
        common = gcd(total.constant, *total.terms.values())
        reduced = Linear({m: c // common for m, c in total.terms.items()})
        reduced.constant = total.constant // common
        return common, ((self._node(reduced), 1),)

    # -- expressions -------------------------------------------------------------------------

    def _linear(self, tree: Expression) -> Linear:
        """`tree` in normal form."""
        op, args = tree.op, tree.args
        if op == "var":
            return Linear({((self._of[id(tree)], 1),): 1})
        if op == "const":
            return Linear({}, tree.value)
        form = self._forms.get(id(tree))
        if form is not None:
            return form
        if op in ("+", "-"):
            form = self._linear(args[0]).plus(self._linear(args[1]), 1 if op == "+" else -1)
        elif op == "*":
            form = self._times(self._linear(args[0]), self._linear(args[1]))
        elif op == "**" and args[1].op == "const":
            form = self._raised(self._linear(args[0]), args[1].value, tree)
        else:
            inner = [self._node(self._linear(arg)) for arg in args]
            form = Linear({((self._apply(op, inner, tree), 1),): 1})
        self._forms[id(tree)] = form
        return form

    def _times(self, a: Linear, b: Linear) -> Linear:
        if not a.terms:
            return b.scaled(a.constant)
        if not b.terms:
            return a.scaled(b.constant)
        c1, m1 = self._as_product(a)
        c2, m2 = self._as_product(b)
        c, exponents = c1 * c2, dict[int, int]()
        for x, e in (*m1, *m2):
            if self.store.lo[x] < 0 and self.store.hi[x] <= 0:
                # Rounding up is -(-a // b): multiply by the positive number instead.
                x = self._node(Linear({((x, 1),): -1}))
                c *= (-1) ** e
            exponents[x] = exponents.get(x, 0) + e
        return Linear({tuple(sorted(exponents.items())): c})

    def _raised(self, base: Linear, exponent: int, tree: Expression) -> Linear:
        if exponent == 0:
            return Linear({}, 1)
        c, monomial = self._as_product(base)
        bits = c.bit_length() + sum(self._bits(x) * e for x, e in monomial)
        check_power(bits * exponent, tree)
        if not monomial:
            return Linear({}, c**exponent)
        return Linear({tuple((x, e * exponent) for x, e in monomial): c**exponent})

    def _bits(self, x: int) -> int:
        return max(self.store.lo[x].bit_length(), self.store.hi[x].bit_length(), 1)

    def _node(self, total: Linear) -> int:
        """A node that equals `total`."""
        if len(total.terms) == 1 and not total.constant:
            ((monomial, c),) = total.terms.items()
            if c == 1:
                return self._product(monomial)
        key = ("sum", total.constant, *sorted(total.terms.items()))
        if key in self._known:
            return self._known[key]
        if not total.terms:
            z = self.store.node(total.constant, total.constant)
        else:
            z = self._sum(total)
        self._known[key] = z
        return z

    def _sum(self, total: Linear) -> int:
        store = self.store
        pairs = [(c, self._product(m)) for m, c in total.terms.items()]
        ends = [sorted((c * store.lo[x], c * store.hi[x])) for c, x in pairs]
        low, high = map(sum, zip(*ends, strict=True))
        low, high = self._within(total.terms, low, high)
        z = store.node(total.constant + low, total.constant + high)
        run = pp.linear_equal(store, [*pairs, (-1, z)], total.constant)
        store.post(run, [z, *(x for _, x in pairs)], self._scope)
        return z

    def _within(self, terms: dict[Monomial, int], low: int, high: int) -> tuple[int, int]:
        """low..high as far as a constraint on the same sum allows: a cost that it bounds would
        otherwise be proven optimal one value at a time."""
        common = gcd(*terms.values())
        key = tuple(sorted((m, c // common) for m, c in terms.items()))
        opposite = tuple((m, -c) for m, c in key)
        most, least = self._most.get(key), self._most.get(opposite)
        high = high if most is None else min(high, most * common)
        low = low if least is None else max(low, -least * common)
        return (low, high) if low <= high else (low, low)

    def _product(self, monomial: Monomial) -> int:
        """A node that equals the product."""
        if len(monomial) == 1 and monomial[0][1] == 1:
            return monomial[0][0]
        if monomial in self._known:
            return self._known[monomial]
        store = self.store
        most = 1
        for x, e in monomial:
            most *= max(abs(store.lo[x]), abs(store.hi[x]), 1) ** e
        plain = all(store.lo[x] >= 0 for x, _ in monomial)
        z = store.node(0 if plain else -most, most)
        nodes = [z, *(x for x, _ in monomial)]
        if plain:
            run = pp.plain_product_equal(store, 1, monomial, 1, ((z, 1),))
        else:
            run = pp.product(store, monomial, z)
        store.post(run, nodes, self._scope)
        multiples = pp.product_multiples(store, 1, monomial, 1, ((z, 1),))
        store.post(multiples, nodes, self._scope, late=True)
        self._known[monomial] = z
        return z

    def _apply(self, op: str, inner: list[int], tree: Expression) -> int:
        """A node for // % ** min max of nodes."""
        key = (op, *inner)
        if key in self._known:
            return self._known[key]
        store = self.store
        lows, highs = [store.lo[x] for x in inner], [store.hi[x] for x in inner]
        if op in ("min", "max"):
            pick = max if op == "max" else min
            z = store.node(pick(lows), pick(highs))
            run = pp.extremum(store, inner, z, op == "max")
        else:
            x, y = inner
            if op == "**":
                check_power(self._bits(x) * max(store.hi[y], 1), tree)
            z = store.node(*pp.first_range(op, (lows[0], highs[0]), (lows[1], highs[1])))
            run = {"//": pp.floor_divide, "%": pp.modulo, "**": pp.power}[op](store, x, y, z)
        store.post(run, [z, *inner], self._scope)
        self._known[key] = z
        return z


def _flat(constraint: Constraint) -> list[Constraint]:
    """The parts that must all hold."""
    if isinstance(constraint, All):
        return [part for item in constraint.items for part in _flat(item)]
    return [constraint]


def _divisibility(part: Comparison) -> tuple[Expression, Expression] | None:
    """(number, divisor) if `part` says number % divisor == 0."""
    for this, that in ((part.left, part.right), (part.right, part.left)):
        if part.op == "==" and this.op == "%" and that.op == "const" and that.value == 0:
            return this.args[0], this.args[1]
    return None


def _truth(test: Callable[..., int]) -> bool:
    try:
        return bool(test())
    except ZeroDivisionError:
        return False


def _filter_now(store: Store, x: int, test: Callable[..., int]) -> bool:
    """Remove the values that a constraint on x alone forbids. False if none is left."""
    kept: list[int] = []
    vals = store.values(x)
    for start in range(0, len(vals), TRIALS):
        store.look()
        for v in vals[start : start + TRIALS]:
            try:
                if test(v):
                    kept.append(v)
            except ZeroDivisionError:
                pass
    if len(kept) < len(vals):
        if not kept:
            return False
        store.set_values(x, tuple(kept))
    return True


def _keep_members(store: Store, x: int, members: Sequence[int]) -> bool:
    """Intersect a domain with `members` (sorted). False if nothing is left."""
    held = store.vals[x]
    domain = range(store.lo[x], store.hi[x] + 1) if held is None else frozenset(held)
    kept = tuple(v for v in members if v in domain)
    if kept:
        store.set_values(x, kept)
    return bool(kept)


def _fail() -> None:
    raise Fail
