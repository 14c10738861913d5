"""Files inside tar archives: a path may lead into one, as in ``shards/000000.tar/clip.flac``.

Cluster file systems want few large files; whoever reads clips need not know which way they are stored.
"""

from __future__ import annotations

import io
import os
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".tar"


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a file, outside or inside an archive. An archive that cannot be read holds none."""
    if os.path.isfile(path):
        return True
    try:
        return _locate(Path(path)) is not None
    except (OSError, tarfile.TarError):
        return False


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """The bytes of a file outside or inside an archive. FileNotFoundError when there is none."""
    if os.path.isfile(path):
        return open(path, "rb")
    place = _locate(Path(path))
    if place is None:
        raise FileNotFoundError(f"{path}: no such file")
    archive, offset, size = place
    with archive.open("rb") as stream:
        stream.seek(offset)
        return io.BytesIO(stream.read(size))


def size(path: str | os.PathLike[str]) -> int:
    """The bytes of a file outside or inside an archive. FileNotFoundError when there is none."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    place = _locate(Path(path))
    if place is None:
        raise FileNotFoundError(f"{path}: no such file")
    return place[2]


def stored_in(path: Path) -> Path:
    """The file on disk that holds ``path``: itself, or the archive that it leads into."""
    return _archive(path) or path


def members(archive: Path) -> dict[str, tuple[int, int]]:
    """Offset and size in bytes of every file in a tar archive, by name. tarfile.TarError if it is none."""
    status = archive.stat()
    return _members(archive, status.st_mtime_ns, status.st_size)


# The time and size in the key notice an archive that was written anew.
@lru_cache(maxsize=4096)
def _members(archive: Path, mtime_ns: int, size: int) -> dict[str, tuple[int, int]]:
    with tarfile.open(archive, "r:") as tar:
        return {member.name: (member.offset_data, member.size) for member in tar if member.isfile()}


def _locate(path: Path) -> tuple[Path, int, int] | None:
    archive = _archive(path)
    if archive is None:
        return None
    place = members(archive).get(path.relative_to(archive).as_posix())
    return (archive, *place) if place else None


def _archive(path: Path) -> Path | None:
    return next((parent for parent in path.parents if parent.suffix == SUFFIX and parent.is_file()), None)
