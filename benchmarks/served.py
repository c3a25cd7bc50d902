"""Processes for benchmarks on a card that is lent for minutes: compile in all cores while the GPU
is hidden, then work on it in a process that may hang or die."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

STUCK = 600.0  # seconds for one compilation


class Deadline:
    """Seconds left."""

    def __init__(self, seconds: float | None) -> None:
        self.end = time.perf_counter() + (float("inf") if seconds is None else seconds)

    @property
    def left(self) -> float:
        return max(0.0, self.end - time.perf_counter())


def cores() -> int:
    return len(os.sched_getaffinity(0))


class hidden_gpu:  # noqa: N801 -- used as a context
    """Processes started meanwhile see no GPU: compilers would only make contexts on it."""

    def __enter__(self) -> None:
        self.before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

    def __exit__(self, *_: object) -> None:
        if self.before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.before


class Served:
    """A process that calls functions when asked to. After one that hangs or breaks the GPU's
    context, the next call starts another.

    functions -- must be importable there. Those of the numbers in `harmless` do not use the GPU.
    """

    def __init__(
        self, functions: Sequence[Callable[..., Any]], harmless: tuple[int, ...] = ()
    ) -> None:
        self._given = functions, harmless
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, function: int, patience: float, *arguments: Any) -> Any:
        """The result; RuntimeError with the reason where there is none, or not in time."""
        if self._process is None:
            self._start()
        try:
            self._pipe.send((function, arguments))
            if not self._pipe.poll(patience):
                raise RuntimeError(f"no end after {patience:.0f} s")
            kind, value = self._pipe.recv()
        except (RuntimeError, EOFError, OSError) as error:
            self.stop()
            raise RuntimeError(str(error) or "the timing process died") from error
        if kind == "broken":
            self.stop()
        if kind != "done":
            raise RuntimeError(value)
        return value

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._given), daemon=True)
        self._process.start()
        theirs.close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(
    pipe: Connection, functions: Sequence[Callable[..., Any]], harmless: tuple[int, ...]
) -> None:
    for function, arguments in _received(pipe):
        try:
            pipe.send(("done", functions[function](*arguments)))
        except Exception as error:
            kind = "error" if function in harmless or _alive() else "broken"
            pipe.send((kind, f"{type(error).__name__}: {error}"))


def _received(pipe: Connection) -> Iterator[tuple[int, tuple[Any, ...]]]:
    try:
        while True:
            yield pipe.recv()
    except EOFError:
        return


def _alive() -> bool:
    """Whether the CUDA context outlived an error; an illegal access breaks it for good."""
    try:
        import cupy

        cupy.cuda.runtime.deviceSynchronize()
    except Exception:
        return False
    return True
