"""Where a result comes from: commit, date, command, and the files that it was made with."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from omni_avsr.files import write_atomically

ORIGIN = "origin.json"


def commit() -> str:
    """Short hash of the checkout this package runs from, ``-dirty`` with changes; ``unknown`` outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def today() -> str:
    """The UTC date, as in 2026-01-31."""
    return datetime.now(UTC).date().isoformat()


def command_line() -> str:
    """The command that is running, as one would type it."""
    # A subcommand stands in the program's name: "omni-avsr evaluate".
    return shlex.join([*Path(sys.argv[0]).name.split(), *sys.argv[1:]])


def file_sha256(*paths: Path) -> str:
    """Hex SHA-256 over the contents of files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def check_results(folder: Path, origin: Mapping[str, str | None]) -> None:
    """Check that what ``folder`` holds, if anything, was made with what ``origin`` names.

    None stands for what this run does not use; it contradicts nothing.

    Raises:
        ValueError: the folder's results were made with something else.
    """
    _merged(folder, origin)


def bind_results(folder: Path, origin: Mapping[str, str | None]) -> None:
    """``check_results``, then note ``origin`` in ``folder`` for later runs. Call it when there is something to keep."""
    before, merged = _merged(folder, origin)
    if merged != before:
        write_atomically(folder / ORIGIN, json.dumps(merged, indent=2) + "\n")


def _merged(folder: Path, origin: Mapping[str, str | None]) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """What the folder notes, and the same with ``origin`` in it."""
    path = folder / ORIGIN
    before: dict[str, str | None] = json.loads(path.read_text()) if path.is_file() else {}
    used = {name: value for name, value in origin.items() if value is not None}
    if changed := [name for name, value in used.items() if before.get(name) not in (None, value)]:
        raise ValueError(f"{folder} holds results of another {' and '.join(changed)}; give another folder or delete it")
    return before, {**before, **used}
