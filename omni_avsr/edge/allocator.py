"""What the C library's allocator keeps of freed memory.

glibc serves large blocks from the system itself at first, and from its heap once such blocks were freed. What is freed
there stays with the process wherever anything above it is in use: how high a transcription peaks is then a matter of
chance. Blocks of 8 MiB and more hold most of what encoders come and go with; going to the system for them costs no time
that shows, for much smaller ones it does.
"""

from __future__ import annotations

import ctypes
import sys

LARGE_BLOCK = 8 << 20
_M_MMAP_THRESHOLD = -3
"""The parameter's number in glibc's malloc.h."""


def return_large_blocks() -> bool:
    """Have freed blocks of ``LARGE_BLOCK`` bytes and more go back to the system at once, in all of this process.

    For commands, not for libraries: it is the process's one setting. Returns whether the C library has it, which is
    glibc's alone.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK) == 1
