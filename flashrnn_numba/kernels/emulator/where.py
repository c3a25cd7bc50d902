"""Source positions: a (code, instruction) pair is cheap to take; a line is made of it if needed."""

import linecache
import sys
from types import CodeType, FrameType

Site = tuple[CodeType, int]


class KernelCode:
    """The code objects of the kernel and its device functions, to tell them from the emulator's."""

    def __init__(self) -> None:
        self.codes: dict[int, CodeType] = {}

    def add(self, code: CodeType) -> None:
        self.codes[id(code)] = code

    def site(self) -> Site:
        """Where the running thread is in the kernel's source."""
        frame: FrameType | None = sys._getframe(2)
        codes = self.codes
        while frame is not None and id(frame.f_code) not in codes:
            frame = frame.f_back
        if frame is None:
            raise RuntimeError("an emulated operation was called outside a kernel")
        return frame.f_code, frame.f_lasti


def line_number(code: CodeType, instruction: int) -> int:
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return line
    return code.co_firstlineno


def describe_line(code: CodeType, instruction: int) -> str:
    line = line_number(code, instruction)
    text = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_filename}:{line}: {text}"
