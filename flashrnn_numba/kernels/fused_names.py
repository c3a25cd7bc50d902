"""The names that the templates of the fused kernel use: their meaning, not their value.

`specialise` (template.py) puts the values in; fused_source.py computes them. The values here only
let editors and checkers read the templates.
"""

from __future__ import annotations

from typing import Any

# the problem
D = 1  # units of a head
GATES = 1  # gates of the cell
STATES = 1  # states of the cell
GX = 1  # gates that take input (the gate axis of Wx)
GB = 1  # gates with a bias
J = 1  # gates that take the recurrent state (the gate axis of R)
FROM_X: tuple[int, ...] = (0,)  # for each gate its place on the axis of Wx, or -1
FROM_R: tuple[int, ...] = (0,)
FROM_B: tuple[int, ...] = (0,)
INITIAL: tuple[float, ...] = (0.0,)  # what each state starts from where no states are given

# the tiling
HEADS = 1  # heads of a block
ROWS = 1  # batch rows of a block
ROW_TILE = 1  # rows of a thread in the product
UNIT_TILE = 1  # units of a thread in the product
SPLIT = 1  # threads that share one sum of the product
THREADS = 1  # of a block

# what follows from both
COLUMNS = 1  # HEADS * D: units of a block
OUTPUTS = 1  # ROWS * COLUMNS: (row, unit) pairs of a block
PER_THREAD = 1  # of these, how many a thread owns in the pointwise phase
GROUPS = 1  # threads side by side along the units of a head
LANES = 1  # HEADS * GROUPS
ROW_GROUPS = 1  # ROWS / ROW_TILE
PRODUCT_THREADS = 1  # LANES * ROW_GROUPS * SPLIT: threads with work in the product
VECTOR = 1  # numbers in 16 bytes of R
WORDS = 1  # words in 16 bytes of R
PER_WORD = 1  # numbers in a word of R
CHUNKS = 1  # vectors of a thread's share of the sum
PITCH = 1  # words from one line of R in shared memory to the next
LEFT_PITCH = 1  # numbers from one head's vector (row, head) to the next
LEFT_AT = 0  # where the left vectors begin in shared memory, in numbers of compute precision
SUMS_AT = 0  # where the partial sums begin
DEPTH = 1  # length of a line: D forward, J * D backward
LINES = 1  # lines of R a unit: J forward, 1 backward

# run-time choices, bits of the argument `options`
HAS_STATES = 1
HAS_RESET = 2
HAS_LENGTHS = 4
KEEP_GATES = 8
KEEP_EXACT = 16
HAS_DSTATES = 32
HAS_DLAST = 64
# flags of a row at a step (alternating)
ALIVE = 1  # the step is before the end of the row
RESTART = 2  # the state becomes the initial one before this step
START = 4  # the first step of the sequence
OPTIONS = {
    "HAS_STATES": HAS_STATES,
    "HAS_RESET": HAS_RESET,
    "HAS_LENGTHS": HAS_LENGTHS,
    "KEEP_GATES": KEEP_GATES,
    "KEEP_EXACT": KEEP_EXACT,
    "HAS_DSTATES": HAS_DSTATES,
    "HAS_DLAST": HAS_DLAST,
    "ALIVE": ALIVE,
    "RESTART": RESTART,
    "START": START,
}

# types and functions (cuda_storage.py, cuda_math.py, template.py)
element: Any = None  # type of a number in global memory
word: Any = None  # type of a word of R in shared memory
real: Any = float  # compute precision
unroll = range


def widen(x: Any) -> Any:
    """A stored number in compute precision."""


def narrow(x: Any) -> Any:
    """A number of compute precision, rounded to how it is stored."""


def pack(first: Any, second: Any) -> Any:
    """Two stored numbers of 16 bits in one word."""


def first(x: Any) -> Any:
    """The first number of a word, in compute precision."""


def second(x: Any) -> Any:
    """The second number of a word of two."""


def cell_forward() -> None:
    """new[:] = the cell's new states from gate[:] and state[:]."""


def cell_vjp() -> None:
    """dgate[:], dstate[:] = gradients from gate[:], state[:] and cotangent[:]."""


# parts: written into the templates where they are called


def load_weights() -> None:
    """R into shared memory (fused_product.py)."""


def product() -> None:
    """The partial sums of left vectors with R (fused_product.py)."""


def own_units() -> None:
    """fused_parts.py, like the rest."""


def initial_state(i: int, target: Any, offset: int) -> None: ...


def fetch_input(i: int, step: int) -> None: ...


def fetch_reset(i: int, step: int) -> None: ...


def fetch_step(i: int, step: int) -> None: ...
