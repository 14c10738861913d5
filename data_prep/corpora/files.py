"""A corpus's files: found in one walk, read as labels, and never outside the corpus's folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePosixPath

from data_prep.rejection import ProblemError, Reason

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
AUDIO_SUFFIXES = frozenset({".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav"})
MAX_LABEL_BYTES = 2**24
"""A clip's label file is a few kilobytes; what is larger than this was never one."""

logger = logging.getLogger(__name__)


def files_below(folder: Path) -> list[str]:
    """The paths of all files below ``folder``, relative to it with ``/``, sorted.

    Links to folders are followed, each folder is entered once, and links to nothing count as files. Left out are names
    that begin with a dot (archives made on a Mac have a ``._`` twin for every file), and pipes and devices, which may
    block whoever reads them. A folder that cannot be listed is a warning. ValueError if ``folder`` is none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found: list[str] = []
    entered: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            status = os.stat(folder / below)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder / below) as listing:
                entries = sorted((entry for entry in listing if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as error:
            logger.warning("%s is left out: %s", folder / below, error)
            continue
        names = [f"{below}/{entry.name}" if below else entry.name for entry in entries]
        folders = [_is_folder(entry) for entry in entries]
        waiting += [name for name, is_folder in reversed(list(zip(names, folders, strict=True))) if is_folder]
        found += [
            name
            for name, entry, is_folder in zip(names, entries, folders, strict=True)
            if not is_folder and _is_file(entry)
        ]
    return sorted(found)


def suffix_of(path: str) -> str:
    """The lower-case suffix of a path with ``/``, such as ``.mp4``."""
    return os.path.splitext(path)[1].lower()


def stem_of(path: str) -> str:
    """The name of the file without folders and suffix."""
    return os.path.splitext(path.rpartition("/")[2])[0]


def inside(name: str, place: str) -> PurePosixPath:
    """The relative path that a cell of a label file names; ``place`` is that file and the line.

    ProblemError (BAD_LABEL) if it is no path, or may leave the corpus's folder.
    """
    path = PurePosixPath(name)
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ProblemError(Reason.BAD_LABEL, f"{place}: {name!r} must be the path of a file inside the corpus's folder")
    return path


def read_label(path: Path) -> list[str]:
    """The lines of a clip's label file. ProblemError (MISSING_FILE, BAD_LABEL) names the file, and the line if it can.

    Lines end as files' lines do, never at other separators of Unicode, which may stand in a text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LABEL_BYTES + 1).removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError as error:
        raise ProblemError(Reason.MISSING_FILE, f"{path}: no such label file") from error
    except OSError as error:
        raise ProblemError(Reason.BAD_LABEL, f"{path}: cannot be read ({error})") from error
    if len(content) > MAX_LABEL_BYTES:
        raise ProblemError(Reason.BAD_LABEL, f"{path}: more than {MAX_LABEL_BYTES} bytes, too large for a clip's label")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ProblemError(Reason.BAD_LABEL, f"{path}:{number}: not UTF-8 ({error})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True
