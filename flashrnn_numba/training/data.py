"""The task: random bit strings and their parities, and buckets of lengths to measure at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Bucket(NamedTuple):
    """The string lengths from `first` to `last`, both included."""

    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.first}-{self.last}"


TRAINED = Bucket(1, 40)  # training and validation see no string longer than this
BUCKETS = (
    TRAINED,
    Bucket(41, 64),
    Bucket(65, 128),
    Bucket(129, 256),
    Bucket(257, 512),
    Bucket(513, 1024),
)


def parities(bits: np.ndarray) -> np.ndarray:
    """The parity of each prefix: [B, T] -> [B, T], 1 where the prefix has an odd number of ones."""
    return np.bitwise_xor.accumulate(bits, axis=1)


def random_bits(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Fair random bits [count, length]."""
    return rng.integers(0, 2, (count, length), dtype=np.int64)


class Strings(NamedTuple):
    """Strings of several lengths: string i is the first lengths[i] symbols of row i."""

    bits: np.ndarray  # [count, longest]
    lengths: np.ndarray  # [count]

    @property
    def answers(self) -> np.ndarray:
        """The parity of each whole string [count]."""
        return parities(self.bits)[np.arange(len(self.bits)), self.lengths - 1]


def strings_in(rng: np.random.Generator, bucket: Bucket, count: int) -> Strings:
    """Random strings; their lengths are uniform in the bucket."""
    lengths = rng.integers(bucket.first, bucket.last + 1, count)
    return Strings(random_bits(rng, count, bucket.last), lengths)
