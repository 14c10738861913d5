"""Native code that talks too much."""

from __future__ import annotations

import os
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
