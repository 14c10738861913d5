"""Native code that talks too much, and that may kill its process."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_stderr(quiet: bool = True) -> Iterator[None]:
    """Hide what native code writes to stderr: MediaPipe logs there at every start, whatever log level is set."""
    if not quiet:
        yield
        return
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(nowhere)
        os.close(saved)


def ignore_profiling_signal() -> None:
    """Keep MediaPipe from killing the process: now and then its threads start a profiler's timer that nobody handles.

    The timer sends SIGPROF, which ends a process by default. A handler that is there already stays.
    """
    if signal.getsignal(signal.SIGPROF) is signal.SIG_DFL:
        # Not signal.signal, which works in the main thread alone.
        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
        libc.signal(signal.SIGPROF, int(signal.SIG_IGN))
