"""The CPU backend against PyTorch on the same cores: python -m benchmarks.cpu [--json FILE].

float32. At one head the peer is torch.nn.LSTM, and ours is given its input product too; at several
heads the peer is a PyTorch loop over steps (one bmm a step, unbound inputs, bias added beforehand;
baddbmm in place of bmm and + gains it 0 to 8 percent).

OpenBLAS's threads spin for tens of milliseconds after each product, on the cores that the next call
needs; OPENBLAS_THREAD_TIMEOUT=20 (set here, before NumPy is loaded) sends them to sleep at once.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")

import numpy as np

import flashrnn_numba as fr

from .record import origin, write
from .timing import interleaved

SHAPES = ((64, 12), (256, 3), (768, 1))


class Case:
    """One shape: the arrays, ours and (where torch is installed) the peer."""

    def __init__(self, D: int, H: int, B: int, T: int) -> None:
        rng = np.random.default_rng(0)
        self.shape = (B, T, 4, H, D)
        self.R = self._normal(rng, (4, H, D, D), D**-0.5)
        self.b = self._normal(rng, (4, H, D), 1)
        self.dh = self._normal(rng, (B, T, H, D), 1)
        self.has_input = H == 1
        if self.has_input:
            self.x = self._normal(rng, (B, T, D), 1)
            self.W = self._normal(rng, (4 * D, D), D**-0.5)
        else:
            self.Wx = self._normal(rng, self.shape, 1)

    @staticmethod
    def _normal(rng: np.random.Generator, shape: Sequence[int], scale: float) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    def ours(self) -> tuple[Callable[[], list], Callable[[], list]]:
        """Forward, and forward + backward; each returns arrays to compare with the peer's."""

        def inputs() -> np.ndarray:
            if not self.has_input:
                return self.Wx
            B, T, _, _, D = self.shape
            return (self.x.reshape(B * T, D) @ self.W.T).reshape(self.shape)

        def forward() -> list:
            return [fr.flashrnn(inputs(), self.R, self.b, function="lstm", backend="cpu")[0][0]]

        def both() -> list:
            states, _, vjp = fr.flashrnn_vjp(inputs(), self.R, self.b, backend="cpu")
            dstates = np.zeros_like(states)
            dstates[0] = self.dh
            d = vjp(dstates)
            if not self.has_input:
                return [states[0], d.Wx, d.R, d.b]
            B, T, _, _, D = self.shape
            dWx = d.Wx.reshape(B * T, 4 * D)
            dx = (dWx @ self.W).reshape(self.x.shape)
            return [states[0], dx, dWx.T @ self.x.reshape(B * T, D), d.R, d.b]

        return forward, both

    def peer(self) -> tuple[str, Callable[[], list], Callable[[], list]]:
        return ("nn.LSTM", *self._nn_lstm()) if self.has_input else ("loop", *self._loop())

    def _nn_lstm(self) -> tuple[Callable[[], list], Callable[[], list]]:
        import torch

        D = self.shape[4]
        order = [0, 1, 2, 3]  # ours: i f z o; torch: i f g o
        net = torch.nn.LSTM(D, D)
        R, b = self.R[order, 0].reshape(4 * D, D), self.b[order, 0].reshape(4 * D)
        for parameter, value in zip(net.parameters(), (self.W, R, b, 0 * b), strict=True):
            parameter.data = torch.from_numpy(value.copy())
        x = torch.from_numpy(self.x).transpose(0, 1).contiguous().requires_grad_()
        dh = torch.from_numpy(self.dh[:, :, 0]).transpose(0, 1).contiguous()

        def forward() -> list:
            with torch.no_grad():
                return [net(x)[0].transpose(0, 1).unsqueeze(2).numpy()]

        def both() -> list:
            h = net(x)[0]
            dx, dW, dR, db, _ = torch.autograd.grad(h, [x, *net.parameters()], dh)
            return [
                h.detach().transpose(0, 1).unsqueeze(2).numpy(),
                dx.transpose(0, 1).numpy(),
                dW.numpy(),
                dR.view(4, 1, D, D).numpy(),
                db.view(4, 1, D).numpy(),
            ]

        return forward, both

    def _loop(self) -> tuple[Callable[[], list], Callable[[], list]]:
        import torch

        B, T, _, H, D = self.shape
        leaves = [torch.from_numpy(a).requires_grad_() for a in (self.Wx, self.R, self.b)]
        dh = torch.from_numpy(self.dh)

        def run() -> Any:
            Wx, R, b = leaves
            matrix = R.permute(1, 3, 0, 2).reshape(H, D, 4 * D)
            steps = (Wx + b).permute(1, 3, 0, 2, 4).reshape(T, H, B, 4 * D).unbind(0)
            h = c = torch.zeros(H, B, D)
            outputs = []
            for x in steps:
                i, f, z, o = (x + torch.bmm(h, matrix)).chunk(4, -1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
                h = torch.sigmoid(o) * torch.tanh(c)
                outputs.append(h)
            return torch.stack(outputs).permute(2, 0, 1, 3)

        def forward() -> list:
            with torch.no_grad():
                return [run().numpy()]

        def both() -> list:
            h = run()
            return [h.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(h, leaves, dh))]

        return forward, both


def check(ours: list, theirs: list, T: int) -> float:
    """The largest relative error; refuses to go on where it is no rounding error."""
    errors = [
        float(np.linalg.norm(a.astype(float) - b) / np.linalg.norm(b.astype(float)))
        for a, b in zip(ours, theirs, strict=True)
    ]
    if not max(errors) < 1e-6 * (T + 16) ** 0.5:
        raise SystemExit(f"ours and the peer disagree, nothing is timed: relative errors {errors}")
    return max(errors)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="record the rows there")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        torch = None  # type: ignore[assignment]
        print("PyTorch is not installed: ours alone, nothing to compare with")
    B, T = arguments.batch, arguments.steps
    print(f"LSTM, float32, B = {B}, T = {T}; milliseconds, median of {arguments.rounds} (range)")
    rows = []
    for D, H in SHAPES:
        case = Case(D, H, B, T)
        ours = case.ours()
        name, *peer = case.peer() if torch else ("", None, None)
        for direction, mine, theirs in zip(
            ("forward", "forward+backward"), ours, peer, strict=True
        ):
            functions: dict[str, Callable[[], object]] = {"ours": mine}
            error = None
            if theirs is not None:
                error = check(mine(), theirs(), T)
                functions[name] = theirs
            times = interleaved(functions, arguments.rounds)
            ratio = times[name].milliseconds / times["ours"].milliseconds if theirs else None
            text = "   ".join(
                f"{n} {t.milliseconds:.1f} ({t.low:.1f} to {t.high:.1f})" for n, t in times.items()
            )
            ratio_text = f"   ratio {ratio:.2f}" if ratio else ""
            print(f"{D:4} x {H:<2} {direction:16} {text}{ratio_text}", flush=True)
            for n, t in times.items():
                rows.append(
                    {"cell": "lstm", "head_dim": D, "heads": H, "batch": B, "steps": T}
                    | {"dtype": "float32", "implementation": n, "direction": direction}
                    | {"input_product": case.has_input, "relative_error": error}
                    | vars(t)
                )
    if arguments.json:
        write(arguments.json, {**origin(), "rows": rows})


if __name__ == "__main__":
    main()
