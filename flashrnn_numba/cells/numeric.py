"""What the names in NumPy text mean: the cell language's functions on arrays, safe at any size."""

from __future__ import annotations

import numpy as np

abs = np.abs
exp, log, sqrt, tanh, where = np.exp, np.log, np.sqrt, np.tanh, np.where
maximum, minimum, power = np.maximum, np.minimum, np.power


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -softplus(-x)
