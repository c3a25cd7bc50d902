"""Adam (Kingma and Ba 2015) on a dictionary of arrays, with gradients clipped to a global norm."""

from __future__ import annotations

from typing import Any

Arrays = dict[str, Any]  # NumPy or CuPy arrays by name


class Adam:
    """Updates `parameters` in place."""

    def __init__(
        self,
        parameters: Arrays,
        beta1: float = 0.9,
        beta2: float = 0.99,
        epsilon: float = 1e-8,
        largest_norm: float = 1.0,
    ) -> None:
        self.parameters = parameters
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.largest_norm = largest_norm
        self.steps = 0
        self._mean = {name: 0 * array for name, array in parameters.items()}
        self._square = {name: 0 * array for name, array in parameters.items()}

    def step(self, gradients: Arrays, learning_rate: float) -> None:
        self.steps += 1
        # stays an array: on a GPU, looking at the number would stop the host at every step
        norm = sum((g * g).sum() for g in gradients.values()) ** 0.5
        scale = self.largest_norm / norm.clip(self.largest_norm, None)
        # both means start at zero; this undoes the bias (section 3 of the paper)
        correction1 = 1 - self.beta1**self.steps
        correction2 = 1 - self.beta2**self.steps
        for name, array in self.parameters.items():
            gradient, mean, square = gradients[name] * scale, self._mean[name], self._square[name]
            mean += (1 - self.beta1) * (gradient - mean)
            square += (1 - self.beta2) * (gradient * gradient - square)
            root = (square / correction2) ** 0.5 + self.epsilon
            array -= (learning_rate / correction1) * mean / root
