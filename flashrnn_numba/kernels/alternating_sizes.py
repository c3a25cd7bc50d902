"""Sizes of the alternating kernels, for the planner too: without what compiles and runs them."""

THREADS = 256  # of a block of the pointwise kernels
STEPS = 128  # of the largest piece: a power of two
PIECE_BYTES = 128 << 20  # buffers for a piece keep below this, if 8 steps do
