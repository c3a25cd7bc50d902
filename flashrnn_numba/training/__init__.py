"""A whole training run in a few small files: the task of parity, and an example to copy from.

data: bit strings. model: the network and its gradients. adam: the optimiser. loop: how it trains
and is measured. array_module: NumPy or CuPy.
"""

from .adam import Adam
from .array_module import array_module
from .data import BUCKETS, TRAINED, Bucket, Strings, parities, random_bits, strings_in
from .loop import Progress, Settings, Trained, accuracies, accuracy, train
from .model import Model, Result, Shape, initial_parameters

__all__ = [
    "BUCKETS",
    "TRAINED",
    "Adam",
    "Bucket",
    "Model",
    "Progress",
    "Result",
    "Settings",
    "Shape",
    "Strings",
    "Trained",
    "accuracies",
    "accuracy",
    "array_module",
    "initial_parameters",
    "parities",
    "random_bits",
    "strings_in",
    "train",
]
