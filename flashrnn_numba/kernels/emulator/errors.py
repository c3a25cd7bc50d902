"""What the emulator reports. Every message names block, thread and source line."""


class EmulatorError(RuntimeError):
    """A launch that cannot be emulated, or a kernel that broke a rule of the machine."""


class KernelError(EmulatorError):
    """An exception inside the kernel; the original one is its cause."""


class OutOfBoundsError(EmulatorError, IndexError):
    """An index or address outside its array or memory, or not aligned to its access."""


class RaceError(EmulatorError):
    """Two threads touch one cell, one of them writing, and nothing orders them."""


class DivergenceError(EmulatorError):
    """Threads of one barrier or warp operation are not all there, or not at the same one."""


class DeadlockError(EmulatorError):
    """Nobody can run."""
