"""The network: token embedding -> input product -> recurrent cell -> read-out -> cross-entropy.

Everything but the recurrent layer is a few lines of NumPy with its gradient beside it. The array
module `xp` is numpy or cupy; nothing here depends on which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..api import flashrnn, flashrnn_vjp
from ..cells import Cell, get_cell
from .adam import Arrays


@dataclass(frozen=True)
class Shape:
    """Sizes of the network. `hidden` counts the units of all heads together."""

    heads: int = 1
    hidden: int = 32
    embedding: int = 16
    symbols: int = 2
    classes: int = 2

    def __post_init__(self) -> None:
        for name in ("heads", "hidden", "embedding", "symbols", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden % self.heads:
            raise ValueError(
                f"hidden must be a multiple of heads = {self.heads}, got {self.hidden}"
            )

    @property
    def head_dimension(self) -> int:
        return self.hidden // self.heads


class Result:
    """What one pass gave: arrays with one number for each row and step [B, T]."""

    def __init__(self, logits: Any, targets: Any, xp: Any) -> None:
        self.xp = xp
        own = xp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        classes = xp.arange(logits.shape[-1])
        best_other = xp.where(classes == targets[..., None], -xp.inf, logits).max(axis=-1)
        self.margin = own - best_other  # positive where the answer is right
        top = logits.max(axis=-1)
        self.loss = xp.log(xp.exp(logits - top[..., None]).sum(axis=-1)) + top - own


class Model:
    """Parameters, and what is computed with them. `parameters` maps names to arrays:

    embedding [symbols, E]; input [E, Gx*H*D]; R [Gr, H, D, D]; b [Gb, H, D];
    readout [H*D, classes]; readout_bias [classes].
    """

    def __init__(
        self,
        function: str | Cell,
        shape: Shape,
        parameters: Arrays,
        backend: str = "auto",
        xp: Any = np,
    ) -> None:
        self.cell, self.shape, self.backend, self.xp = get_cell(function), shape, backend, xp
        self.parameters = parameters

    def _input_part(self, bits: Any) -> Any:
        """The input part of the gates Wx [B, T, Gx, H, D]."""
        p, s = self.parameters, self.shape
        # product first, then look up: one row for each symbol instead of one for each step
        of_symbols = p["embedding"] @ p["input"]
        shape = (*bits.shape, len(self.cell.input_gates), s.heads, s.head_dimension)
        return of_symbols[bits].reshape(shape)

    def _read_out(self, h: Any) -> Any:
        """h [..., H, D] -> logits [..., classes]."""
        p = self.parameters
        return h.reshape(*h.shape[:-2], self.shape.hidden) @ p["readout"] + p["readout_bias"]

    def result(self, bits: Any, targets: Any) -> Result:
        """Loss and margin of the answer at each step; no gradients."""
        p = self.parameters
        Wx = self._input_part(bits)
        states, _ = flashrnn(Wx, p["R"], p["b"], function=self.cell, backend=self.backend)
        return Result(self._read_out(states[0]), targets, self.xp)

    def answers(self, bits: Any, lengths: Any) -> Any:
        """The class the network gives each string after its last symbol [B]."""
        p = self.parameters
        Wx = self._input_part(bits)
        _, last = flashrnn(
            Wx, p["R"], p["b"], function=self.cell, backend=self.backend, lengths=lengths
        )
        return self._read_out(last[0, :, 0]).argmax(axis=-1)

    def loss_and_gradients(self, bits: Any, targets: Any) -> tuple[Result, Arrays]:
        """The result at each step, and the gradients of its mean loss by parameter."""
        p, xp = self.parameters, self.xp
        Wx = self._input_part(bits)
        states, _, vjp = flashrnn_vjp(Wx, p["R"], p["b"], function=self.cell, backend=self.backend)
        h = states[0].reshape(-1, self.shape.hidden)  # the first state is the output
        logits = self._read_out(states[0])

        # of the mean cross-entropy: (softmax - one-hot) / (B T)
        dlogits = xp.exp(logits - logits.max(axis=-1, keepdims=True))
        dlogits /= dlogits.sum(axis=-1, keepdims=True)
        dlogits -= one_hot(targets, self.shape.classes, logits.dtype, xp)
        dlogits = dlogits.reshape(-1, self.shape.classes) / targets.size

        dstates = xp.zeros_like(states)
        dstates[0] = (dlogits @ p["readout"].T).reshape(states[0].shape)
        through = vjp(dstates)

        # as a product with the one-hot symbols: a scattered sum in a fixed order
        symbols = one_hot(bits, self.shape.symbols, logits.dtype, xp).reshape(bits.size, -1)
        d_of_symbols = symbols.T @ through.Wx.reshape(bits.size, -1)
        gradients = {
            "embedding": d_of_symbols @ p["input"].T,
            "input": p["embedding"].T @ d_of_symbols,
            "R": through.R,
            "b": through.b,
            "readout": h.T @ dlogits,
            "readout_bias": dlogits.sum(axis=0),
        }
        return Result(logits, targets, xp), gradients


def one_hot(indices: Any, size: int, dtype: Any, xp: Any) -> Any:
    return (indices[..., None] == xp.arange(size)).astype(dtype)


def initial_parameters(
    function: str | Cell,
    shape: Shape,
    rng: np.random.Generator,
    xp: Any = np,
    dtype: Any = np.float32,
) -> Arrays:
    """Random parameters: matrices normal with variance 1 / fan-in, biases 0."""
    cell, H, D = get_cell(function), shape.heads, shape.head_dimension

    def normal(*size: int, fan_in: int) -> np.ndarray:
        return rng.standard_normal(size) / np.sqrt(fan_in)

    gates = len(cell.input_gates)
    parameters = {
        "embedding": rng.standard_normal((shape.symbols, shape.embedding)),
        "input": normal(shape.embedding, gates * shape.hidden, fan_in=shape.embedding),
        "R": normal(len(cell.recurrent_gates), H, D, D, fan_in=D),
        "b": np.zeros((len(cell.bias_gates), H, D)),
        "readout": normal(shape.hidden, shape.classes, fan_in=shape.hidden),
        "readout_bias": np.zeros(shape.classes),
    }
    return {name: xp.asarray(array, dtype=dtype) for name, array in parameters.items()}
