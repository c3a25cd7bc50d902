"""What a user would pick instead, on the same arrays: FlashRNN, cuDNN through torch.nn, a loop.

A peer is made for one case and gives `forward()` and `both()` (forward + backward of h.sum()), and
what the oracle needs to check them. Arrays come as torch tensors that share memory with CuPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass
class Runs:
    """forward() -> h [B, T, H, D], without gradients; both() -> gradients of h.sum().

    results -- what both() returned, by name, as `gpu_oracle` has it (Wx, R, b; any of them).
    problem -- (Wx, R, b) in float64 where they are not the case's.
    """

    forward: Callable[[], Any]
    both: Callable[[], Any]
    results: Callable[[Any], dict[str, Any]]
    problem: Callable[[], tuple[Any, Any, Any]] | None = None
    includes_input_product: bool = False


def _runs(run: Callable[[], Any], leaves: list[Any]) -> Runs:
    """run -- h of the whole sequence; leaves -- Wx, R, b."""
    import torch

    def forward() -> Any:
        with torch.no_grad():
            return run()

    def both() -> Any:
        return torch.autograd.grad(run().sum(), leaves)

    return Runs(forward, both, lambda d: dict(zip(("Wx", "R", "b"), d, strict=True)))


def flashrnn(backend: str) -> Callable[..., Runs]:
    """FlashRNN's CUDA kernels: backend "cuda_fused" or "cuda"."""

    def make(cell: str, Wx: Any, R: Any, b: Any) -> Runs:
        call = _patched_flashrnn()
        leaves = [a.clone().requires_grad_() for a in (Wx, R, b)]
        dtype = str(Wx.dtype).removeprefix("torch.")

        def run() -> Any:
            return call(*leaves, function=cell, backend=backend, dtype=dtype)[0][0]

        return _runs(run, leaves)

    return make


def _patched_flashrnn() -> Any:
    """FlashRNN with its device query replaced: as published it does not build on CUDA 13. It also
    sleeps up to ten seconds before each build; that is left out."""
    import time
    import types

    import cupy

    # by name: the package's attribute `flashrnn` is the function, not the subpackage
    cuda_init: Any = import_module("flashrnn.flashrnn.cuda_init")
    module: Any = import_module("flashrnn.flashrnn.flashrnn")

    def device_limits(device_id: int) -> Any:
        return cupy.cuda.runtime.getDeviceProperties(device_id)

    module.get_gpu_info = device_limits
    cuda_init.time = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    return module.flashrnn


# places of torch's gates in ours: W_ih for Wx, W_hh for R, and whose biases make up b
_LSTM = ((0, 1, 2, 3), (0, 1, 2, 3), ((0, 0), (1, 1), (2, 2), (3, 3)))
_GRU = ((0, 1, 2), (2, 0, 1), ((None, 2), (0, 0), (1, 1), (2, None)))


def cudnn(dtype: str) -> Callable[..., Runs]:
    """torch.nn.LSTM or nn.GRU of one layer, with its input product; float32 without TF32."""

    def make(cell: str, Wx: Any, R: Any, b: Any) -> Runs:
        import torch

        B, T, _, H, D = Wx.shape
        if H != 1 or cell not in ("lstm", "gru"):
            raise NotImplementedError("cuDNN has one head, and LSTM and GRU")
        torch.backends.cudnn.allow_tf32 = False
        kind, places = {"lstm": (torch.nn.LSTM, _LSTM), "gru": (torch.nn.GRU, _GRU)}[cell]
        net = kind(D, D).to("cuda", getattr(torch, dtype))
        net.flatten_parameters()
        x = torch.randn(T, B, D, device="cuda", dtype=getattr(torch, dtype), requires_grad=True)
        runs = _runs(lambda: net(x)[0], [x, *net.parameters()])
        forward = runs.forward
        runs.forward = lambda: forward().transpose(0, 1)[:, :, None]
        runs.results = lambda d: {"R": _recurrent(d[2], places, D)}
        runs.problem = lambda: _problem_of(net, x, places)
        runs.includes_input_product = True
        return runs

    return make


def _recurrent(w_hh: Any, places: Any, D: int) -> Any:
    """[Gr D, D] as ours: [Gr, 1, D, D]."""
    return w_hh.view(-1, 1, D, D)[list(places[1])]


def _problem_of(net: Any, x: Any, places: Any) -> tuple[Any, Any, Any]:
    import torch

    T, B, D = x.shape
    with torch.no_grad():
        w_ih, w_hh, b_ih, b_hh = (p.double() for p in net.parameters())
        Wx = (x.double() @ w_ih.T).view(T, B, -1, 1, D).transpose(0, 1)[:, :, list(places[0])]
        zero = torch.zeros(D, dtype=torch.double, device=x.device)
        biases = [
            (zero if i is None else b_ih.view(-1, D)[i])
            + (zero if h is None else b_hh.view(-1, D)[h])
            for i, h in places[2]
        ]
        return Wx, _recurrent(w_hh, places, D), torch.stack(biases)[:, None]


def torch_loop(cell: str, Wx: Any, R: Any, b: Any) -> Runs:
    """An LSTM as a loop over steps: one baddbmm a step over unbound inputs."""
    import torch

    if cell != "lstm":
        raise NotImplementedError("the loop is written for LSTM")
    B, T, _, H, D = Wx.shape
    leaves = [a.clone().requires_grad_() for a in (Wx, R, b)]

    def run() -> Any:
        x, matrix, bias = leaves
        m = matrix.permute(1, 3, 0, 2).reshape(H, D, 4 * D)
        steps = (x + bias).permute(1, 3, 0, 2, 4).reshape(T, H, B, 4 * D).unbind(0)
        h = c = torch.zeros(H, B, D, device=Wx.device, dtype=Wx.dtype)
        out = []
        for step in steps:
            i, f, z, o = torch.baddbmm(step, h, m).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
            h = torch.sigmoid(o) * torch.tanh(c)
            out.append(h)
        return torch.stack(out).permute(2, 0, 1, 3)

    return _runs(run, leaves)


PEERS: dict[str, Callable[..., Runs]] = {
    "flashrnn_fused": flashrnn("cuda_fused"),
    "flashrnn_alternating": flashrnn("cuda"),
    "cudnn_fp16": cudnn("float16"),
    "cudnn_bf16": cudnn("bfloat16"),
    "cudnn_fp32": cudnn("float32"),
    "torch_loop": torch_loop,
}
