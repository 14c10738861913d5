"""Peak memory as the operating system counts it, and child processes that may not pass a limit.

Counted is what is resident: VmHWM, pages of mapped files included. Limits of address space do not serve here, since
importing torch alone maps gigabytes that are never touched.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SAMPLE_SECONDS = 0.05
GIB = 1024**3
_FIELDS = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
_MESSAGE_LINES = 15
"""Lines of a failed child's errors that a message repeats."""


@dataclass(frozen=True)
class Resident:
    """Bytes of a process in memory. peak: the most so far. anonymous, file: of now, what it made and what it mapped."""

    peak: int
    now: int
    anonymous: int
    file: int


@dataclass(frozen=True)
class Outcome:
    """How a child process ended.

    peak: bytes resident at most, of the child or of all its processes together. killed: whether the limit ended it.
    output, errors: what it wrote to standard output and to standard error.
    """

    peak: int
    limit: int
    killed: bool
    seconds: float
    exit_code: int
    output: str
    errors: str

    def check(self) -> None:
        """Raise ValueError when the child was killed or failed, with the numbers or its last lines."""
        if self.killed:
            raise ValueError(
                f"killed after {self.seconds:.1f} s: {self.peak / GIB:.2f} GiB resident, the limit is "
                f"{self.limit / GIB:.2f} GiB"
            )
        if self.exit_code:
            last = "\n".join(self.errors.splitlines()[-_MESSAGE_LINES:])
            peak = f"{self.peak / GIB:.2f} GiB at most"
            raise ValueError(f"failed with exit code {self.exit_code} after {self.seconds:.1f} s, {peak}:\n{last}")


def resident(process: int | str = "self") -> Resident:
    """The memory of a process, by its id.

    Raises:
        ValueError: the system does not tell, as only Linux does, or the process has ended.
    """
    found = _status(process)
    if found is None:
        raise ValueError(f"memory of process {process} cannot be measured: it has ended")
    return found


def run_limited(
    command: Sequence[str | Path],
    limit: int,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Outcome:
    """Run ``command`` to its end, or until it has more than ``limit`` bytes in memory: then it and its own are killed.

    Looked at every 50 ms is the peak of the process and, while it has children, the sum over all of them, in which
    pages that several share count once.

    Args:
        environment: variables beside those of this process.
        folder: where to run it.

    Raises:
        ValueError: the system does not tell what is resident, as only Linux does; nothing was run then.
    """
    resident()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.monotonic()
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env=os.environ | (environment or {}),
            cwd=folder,
            start_new_session=True,
        )
        peak, killed, others = 0, False, set[int]()
        try:
            while child.poll() is None:
                known, others = others, set(_descendants(child.pid))
                peak = max(peak, _taken(child.pid, others & known))
                if killed := peak > limit:
                    break
                time.sleep(SAMPLE_SECONDS)
        finally:
            # Only while the child was not waited for are these ids sure to be its own.
            _kill(child.pid, () if child.returncode is not None else list(_descendants(child.pid)))
            exit_code = child.wait()
        seconds = time.monotonic() - start
        output.seek(0)
        errors.seek(0)
        return Outcome(peak, limit, killed, seconds, exit_code, output.read(), errors.read())


def _status(process: int | str) -> Resident | None:
    """None where the process has ended. ValueError: the system does not tell."""
    if not (PROC / "self" / "status").is_file():
        raise ValueError(f"memory is measured by {PROC}/PID/status, which this system does not have; only Linux has it")
    try:
        text = (PROC / str(process) / "status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = dict(re.findall(rf"^({'|'.join(_FIELDS)}):\s+(\d+) kB$", text, re.MULTILINE))
    # What has ended and was not waited for has no memory any more.
    return Resident(*(1024 * int(found[name]) for name in _FIELDS)) if found.keys() >= set(_FIELDS) else None


def _taken(process: int, others: Iterable[int]) -> int:
    """Bytes of a process at most so far, or of it and ``others`` together now, whichever is more; 0 when it ended."""
    own = _status(process)
    if own is None:
        return 0
    shared = [_proportional(other) for other in others]
    return max(own.peak, _proportional(process) + sum(shared)) if shared else own.peak


def _proportional(process: int) -> int:
    """Bytes in memory, a page that n processes share counted as an n-th; 0 when it ended."""
    try:
        text = (PROC / str(process) / "smaps_rollup").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _descendants(process: int) -> Iterator[int]:
    """The processes that a process started, and those that they started."""
    for file in (PROC / str(process) / "task").glob("*/children"):
        try:
            children = [int(word) for word in file.read_text(encoding="utf-8").split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            yield child
            yield from _descendants(child)


def _kill(process: int, others: Iterable[int]) -> None:
    """End a process and its group, and ``others``, which may have left the group."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    for other in others:
        with suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)
