"""Training: strings that grow, then a learning rate that falls to zero, until it is solved.

The parity of a long string alone tells a network almost nothing. But every prefix has a parity too,
so the network answers after each symbol, and every answer counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cells import Cell
from .adam import Adam
from .data import BUCKETS, TRAINED, Bucket, Strings, parities, random_bits, strings_in
from .model import Model, Result, Shape, initial_parameters


@dataclass(frozen=True)
class Settings:
    """How to train. The same for all cells; docs/parity.md says why each is as it is."""

    steps: int = 6000  # at most, all attempts together
    batch: int = 32
    learning_rate: float = 3e-3
    warm_up: int = 20  # steps
    largest_norm: float = 1.0  # of all gradients together
    first_length: int = 4
    grow_by: int = 4  # symbols, each time the strings of this length are answered
    grow_at: float = 0.98  # accuracy over all prefixes
    look_every: int = 5  # steps; looking at a number makes the host wait for a GPU
    patience: int = 600  # steps at one length before a new initialisation
    settle: int = 400  # steps in which the learning rate falls to zero
    margin: float = 6.0  # of the right answer's logit, at every prefix of every validation string
    validation: int = 2048  # strings, as long as the longest trained ones

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "look_every", "settle", "validation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= self.first_length <= TRAINED.last:
            raise ValueError(f"first_length must be 1 to {TRAINED.last}, got {self.first_length}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")


class Progress:
    """Told how training goes every few steps; this one does nothing."""

    def update(self, steps: int, length: int, loss: float, accuracy: float) -> None:
        """`steps` since the last call; `length` of the strings; loss and accuracy over prefixes."""


@dataclass
class Trained:
    model: Model
    steps: int
    attempts: int  # initialisations tried
    solved: bool  # the margin was reached on the validation strings
    seconds: float


class _Steps:
    """How many steps were made, and how many may be."""

    def __init__(self, most: int) -> None:
        self.made, self.most = 0, most

    @property
    def left(self) -> int:
        return self.most - self.made


class _Attempt:
    """One initialisation and its optimiser."""

    def __init__(
        self, model: Model, settings: Settings, rng: np.random.Generator, steps: _Steps,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.model, self.settings, self.rng = model, settings, rng
        self.steps, self.progress = steps, progress
        self.adam = Adam(model.parameters, largest_norm=settings.largest_norm)
        self.length = settings.first_length
        self._reported = steps.made

    def learn(self) -> bool:
        """Train until strings of the full length are answered; False: stalled, or out of steps."""
        waited = 0
        while self.steps.left:
            accuracy = self._step(self.settings.learning_rate)
            waited += 1
            if accuracy is None:
                continue
            if accuracy == 1 and self.length == TRAINED.last:
                return True
            if accuracy >= self.settings.grow_at and self.length < TRAINED.last:
                self.length = min(TRAINED.last, self.length + self.settings.grow_by)
                waited = 0
            elif waited >= self.settings.patience:
                return False
        return False

    def settle(self) -> None:
        """Let the learning rate fall to zero: the steps' noise leaves the weights."""
        for done in range(min(self.settings.settle, self.steps.left)):
            self._step(self.settings.learning_rate * (1 - done / self.settings.settle))

    def _step(self, learning_rate: float) -> float | None:
        """One update; the accuracy over all prefixes, every few steps."""
        model, xp = self.model, self.model.xp
        bits = random_bits(self.rng, self.settings.batch, self.length)
        result, gradients = model.loss_and_gradients(xp.asarray(bits), xp.asarray(parities(bits)))
        warm = min(1.0, (self.adam.steps + 1) / self.settings.warm_up)
        self.adam.step(gradients, warm * learning_rate)
        self.steps.made += 1
        if self.steps.made % self.settings.look_every and self.steps.left:
            return None
        return self._look(result)

    def _look(self, result: Result) -> float:
        accuracy = float((result.margin > 0).mean())
        new = self.steps.made - self._reported
        self._reported = self.steps.made
        self.progress.update(new, self.length, float(result.loss.mean()), accuracy)
        return accuracy


def train(
    function: str | Cell,
    shape: Shape = Shape(),  # noqa: B008 (frozen)
    settings: Settings = Settings(),
    seed: int = 0,
    backend: str = "auto",
    xp: Any = np,
    progress: Progress | None = None,
) -> Trained:
    """Train a network to tell the parity of every prefix of random bit strings of up to 40 bits.

    Stops as soon as every prefix of the validation strings (as long as the longest trained ones)
    is answered with a margin of `settings.margin`, or after `settings.steps` steps.
    """
    start = time.perf_counter()
    weights_rng, data_rng, validation_rng = streams(seed)[:3]
    bits = random_bits(validation_rng, settings.validation, TRAINED.last)
    validation = xp.asarray(bits), xp.asarray(parities(bits))
    steps, attempts, solved = _Steps(settings.steps), 0, False
    while not solved and steps.left:
        attempts += 1
        parameters = initial_parameters(function, shape, weights_rng, xp)
        model = Model(function, shape, parameters, backend, xp)
        attempt = _Attempt(model, settings, data_rng, steps, progress or Progress())
        while not solved and attempt.learn():
            attempt.settle()
            solved = bool(model.result(*validation).margin.min() >= settings.margin)
    return Trained(model, steps.made, attempts, solved, time.perf_counter() - start)


def streams(seed: int) -> list[np.random.Generator]:
    """Independent random streams of a seed: weights, training, validation, test strings."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)]


def accuracy(model: Model, strings: Strings, rows: int = 128) -> float:
    """The share of strings whose answer after the last symbol is right; `rows` at a time."""
    xp, right = model.xp, 0
    for first in range(0, len(strings.bits), rows):
        part = Strings(*(array[first : first + rows] for array in strings))
        answers = model.answers(xp.asarray(part.bits), xp.asarray(part.lengths))
        right += int((answers == xp.asarray(part.answers)).sum())
    return right / len(strings.bits)


def accuracies(
    model: Model,
    seed: int = 0,
    count: int = 1000,
    buckets: tuple[Bucket, ...] = BUCKETS,
    done: Callable[[Bucket], None] = lambda bucket: None,
) -> dict[str, float]:
    """Accuracy by bucket, each on `count` fresh strings. `done` is called after each bucket."""
    rng = streams(seed)[3]
    result = {}
    for bucket in buckets:
        result[bucket.name] = accuracy(model, strings_in(rng, bucket, count))
        done(bucket)
    return result
