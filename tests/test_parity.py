"""The training package: the task's data, the whole model's gradients, training itself."""

from itertools import pairwise

import numpy as np
import pytest

from flashrnn_numba.cells import cell, sigmoid, tanh
from flashrnn_numba.training import (
    BUCKETS,
    TRAINED,
    Adam,
    Bucket,
    Model,
    Progress,
    Settings,
    Shape,
    Strings,
    accuracies,
    accuracy,
    array_module,
    initial_parameters,
    parities,
    random_bits,
    strings_in,
    train,
)


@cell(gates={"i": "xRb", "f": "xR", "z": "x", "p": "b"}, states=("h", "c"))
def uneven(g, s):
    """Different gates on the axes of Wx, R and b."""
    c = sigmoid(g.f) * s.c + sigmoid(g.i + g.p * s.c) * tanh(g.z)
    return tanh(c), c


# --- data -----------------------------------------------------------------------------------------


def test_parity_of_each_prefix():
    bits = random_bits(np.random.default_rng(0), 20, 33)
    for row, answers in zip(bits, parities(bits), strict=True):
        for end in range(1, 34):
            assert answers[end - 1] == sum(row[:end].tolist()) % 2


def test_bits_are_fair():
    bits = random_bits(np.random.default_rng(1), 100, 400)
    assert set(np.unique(bits)) == {0, 1}
    assert abs(bits.mean() - 0.5) < 0.01  # 4 standard deviations


@pytest.mark.parametrize("bucket", BUCKETS, ids=lambda bucket: bucket.name)
def test_lengths_lie_in_the_bucket(bucket):
    strings = strings_in(np.random.default_rng(2), bucket, 3000)
    assert strings.bits.shape == (3000, bucket.last)
    assert strings.lengths.min() >= bucket.first
    assert strings.lengths.max() <= bucket.last
    middle = (bucket.first + bucket.last) / 2
    assert abs(strings.lengths.mean() - middle) < 0.03 * bucket.last  # uniform
    for i in range(0, 3000, 501):
        assert strings.answers[i] == strings.bits[i, : strings.lengths[i]].sum() % 2


def test_buckets_do_not_overlap():
    assert BUCKETS[0] == TRAINED == (1, 40)
    for before, after in pairwise(BUCKETS):
        assert after.first == before.last + 1


# --- model ----------------------------------------------------------------------------------------


def small(function, shape=Shape(heads=2, hidden=6, embedding=3), seed=0, dtype=np.float64):  # noqa: B008
    rng = np.random.default_rng(seed)
    parameters = initial_parameters(function, shape, rng, dtype=dtype)
    for array in parameters.values():  # biases start at 0: move them away from special values
        array += 0.1 * rng.standard_normal(array.shape)
    return Model(function, shape, parameters)


@pytest.mark.parametrize("function", ["elman", "lstm", "gru", "slstm", uneven])
def test_gradients_of_all_parameters(function):
    model = small(function)
    bits = random_bits(np.random.default_rng(3), 3, 7)
    targets = parities(bits)
    _, gradients = model.loss_and_gradients(bits, targets)
    assert gradients.keys() == model.parameters.keys()
    rng, step = np.random.default_rng(4), 1e-6
    for name, array in model.parameters.items():
        assert gradients[name].shape == array.shape
        direction = rng.standard_normal(array.shape)
        kept = array.copy()
        losses = []
        for sign in (1, -1):
            array[...] = kept + sign * step * direction
            losses.append(model.result(bits, targets).loss.mean())
        array[...] = kept
        slope = (losses[0] - losses[1]) / (2 * step)
        assert slope == pytest.approx((gradients[name] * direction).sum(), rel=1e-6, abs=1e-9), name


def test_loss_and_margin_against_their_definitions():
    model = small("lstm")
    bits = random_bits(np.random.default_rng(5), 4, 9)
    targets = parities(bits)
    result, _ = model.loss_and_gradients(bits, targets)
    again = model.result(bits, targets)
    np.testing.assert_allclose(again.loss, result.loss)
    np.testing.assert_allclose(again.margin, result.margin)
    # two classes: loss = log(1 + exp(-margin))
    np.testing.assert_allclose(result.loss, np.log1p(np.exp(-result.margin)))


def test_answers_are_those_after_the_last_symbol():
    model = small("gru")
    rng = np.random.default_rng(6)
    bits, lengths = random_bits(rng, 40, 25), rng.integers(1, 26, 40)
    answers = model.answers(bits, lengths)
    margin_of_one = model.result(bits, np.ones_like(bits)).margin
    np.testing.assert_array_equal(answers, margin_of_one[np.arange(40), lengths - 1] > 0)


def test_accuracy_counts_strings():
    class Knows:
        xp = np

        def answers(self, bits, lengths):
            answers = Strings(bits, lengths).answers
            return np.where(lengths > 10, 1 - answers, answers)

    strings = strings_in(np.random.default_rng(7), Bucket(1, 20), 300)
    assert accuracy(Knows(), strings, rows=64) == (strings.lengths <= 10).mean()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"heads": 3, "hidden": 32}, "hidden must be a multiple of heads = 3, got 32"),
    ],
)
def test_wrong_shapes(sizes, message):
    with pytest.raises(ValueError, match=message):
        Shape(**sizes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch": -1}, "batch must be at least 1, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"first_length": 41}, "first_length must be 1 to 40, got 41"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


# --- optimiser ------------------------------------------------------------------------------------


def test_adam_against_its_equations():
    rng = np.random.default_rng(8)
    parameters = {"w": rng.standard_normal((3, 2)), "v": rng.standard_normal(4)}
    expected = {name: array.copy() for name, array in parameters.items()}
    mean = {name: np.zeros_like(array) for name, array in parameters.items()}
    square = {name: np.zeros_like(array) for name, array in parameters.items()}
    adam = Adam(parameters, largest_norm=1.0)
    for t in range(1, 6):
        size = 0.1 if t < 3 else 10  # below and above the norm that is clipped
        gradients = {name: size * rng.standard_normal(a.shape) for name, a in parameters.items()}
        adam.step(gradients, learning_rate=0.01)
        norm = np.linalg.norm(np.concatenate([g.ravel() for g in gradients.values()]))
        for name, gradient in gradients.items():
            g = gradient / max(1, norm)
            mean[name] = 0.9 * mean[name] + 0.1 * g
            square[name] = 0.99 * square[name] + 0.01 * g * g
            m, s = mean[name] / (1 - 0.9**t), square[name] / (1 - 0.99**t)
            expected[name] -= 0.01 * m / (np.sqrt(s) + 1e-8)
            np.testing.assert_allclose(parameters[name], expected[name], rtol=1e-12)


# --- training -------------------------------------------------------------------------------------


class Log(Progress):
    def __init__(self):
        self.lines = []

    def update(self, steps, length, loss, accuracy):
        self.lines.append((steps, length, loss, accuracy))


def test_lstm_learns_and_extrapolates():
    log = Log()
    trained = train("lstm", seed=0, settings=Settings(steps=2000), progress=log)
    assert trained.solved
    assert trained.attempts == 1
    assert sum(line[0] for line in log.lines) == trained.steps < 2000
    assert max(line[1] for line in log.lines) == TRAINED.last  # never a longer string
    assert log.lines[-1][2] < 0.01 < log.lines[0][2]
    found = accuracies(trained.model, seed=0, count=200)
    assert list(found) == [bucket.name for bucket in BUCKETS]
    assert min(found.values()) == 1


def test_too_few_steps_end_unsolved():
    trained = train("lstm", settings=Settings(steps=7))
    assert trained.steps == 7
    assert not trained.solved
    assert accuracies(trained.model, count=200, buckets=(Bucket(41, 64),))["41-64"] < 0.7


def test_a_stalled_attempt_starts_anew():
    @cell(gates=("i",), states=("h",), name="forgetful")
    def forgetful(g, s):
        return tanh(0 * g.i)  # cannot learn

    settings = Settings(steps=50, patience=20, look_every=10)
    trained = train(forgetful, settings=settings)
    assert trained.steps == 50
    assert trained.attempts == 3  # after 20 steps, after 40, then out of steps


def test_same_seed_same_weights():
    def weights(seed):
        return train("gru", settings=Settings(steps=30), seed=seed).model.parameters

    first, second, other = weights(1), weights(1), weights(2)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    assert not np.array_equal(first["R"], other["R"])


# --- arrays ---------------------------------------------------------------------------------------


def test_host_backends_take_numpy():
    assert array_module("cpu") is np
    assert array_module("reference") is np


def test_gpu_backend_without_cupy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)  # makes the import fail
    assert array_module("auto") is np
    with pytest.raises(RuntimeError, match="backend 'fused' runs on a GPU: CuPy is not installed"):
        array_module("fused")
