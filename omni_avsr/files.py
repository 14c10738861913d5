"""Write atomically: under the name of a file or folder stands the old or all of the new, whenever a run is killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from uuid import uuid4


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write bytes, or text as UTF-8 with its line ends as they are. Missing folders are made."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` for code that writes a file by itself; missing folders are made.

    The temporary file becomes ``path`` if the block ends well, and is removed if not. Its name ends as ``path`` does,
    so that writers which choose the format by the suffix do what is meant, and it is another one for each call, so
    that several processes may write the same file: the last one counts. A killed process may leave a ``.partial-``
    file behind, which nothing reads.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".partial-{uuid4().hex[:12]}-{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path, own: Sequence[str]) -> Iterator[Path]:
    """A new folder that takes the place of ``folder`` if the block ends well, and goes away if not.

    What stands in the old one under other names than ``own`` (globs) moves over into it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    new, old = scratch / "new", scratch / "old"
    new.mkdir()
    try:
        yield new
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(new, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
        for other in old.iterdir() if old.exists() else ():
            if not any(fnmatchcase(other.name, glob) for glob in own):
                os.replace(other, folder / other.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
