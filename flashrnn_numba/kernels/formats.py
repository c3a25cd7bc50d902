"""The size of a number in a GPU's memory, by dtype. (What to do with one: cuda_storage.py.)"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """element: the type of one number in global memory; word: what R consists of in shared memory,
    per_word numbers each; real: compute precision. All by Numba's names."""

    element: str
    word: str
    per_word: int
    real: str

    @property
    def element_bytes(self) -> int:
        return _BYTES[self.element]

    @property
    def word_bytes(self) -> int:
        return _BYTES[self.word]

    @property
    def real_bytes(self) -> int:
        return _BYTES[self.real]

    @property
    def words(self) -> int:
        """Words in 16 bytes, the widest load."""
        return 16 // self.word_bytes

    @property
    def vector(self) -> int:
        """Numbers in 16 bytes of words."""
        return self.words * self.per_word


_BYTES = {"float64": 8, "float32": 4, "uint32": 4, "uint16": 2}

FORMATS = {
    "float64": Format("float64", "float64", 1, "float64"),
    "float32": Format("float32", "float32", 1, "float32"),
    "bfloat16": Format("uint16", "uint32", 2, "float32"),
    "float16": Format("uint16", "uint32", 2, "float32"),
}
