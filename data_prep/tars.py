"""Prepared clips in tar files of many, laid out as WebDataset reads them, for file systems that want few files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from omni_avsr import archive
from omni_avsr.data.manifest import clip_to_json
from omni_avsr.files import replacing, write_atomically
from omni_avsr.types import Clip

Track = Callable[[Iterable[int]], Iterable[int]]


def member_key(id: str) -> str:
    """The name of a clip inside a tar, without suffix: WebDataset ends a name at the first dot behind its folders."""
    folder, slash, name = id.rpartition("/")
    return f"{folder}{slash}{name.replace('%', '%25').replace('.', '%2E')}"


def stored_media(folder: Path) -> dict[str, Path]:
    """Where each file inside the tars below ``folder`` is, by its name there; tars that cannot be read hold none."""
    found = {}
    for tar in sorted(folder.glob("*.tar")):
        try:
            found.update({name: tar / name for name in archive.members(tar)})
        except (OSError, tarfile.TarError):
            continue
    return found


def pack(
    clips: Sequence[Clip],
    places: Mapping[str, int],
    own: Collection[Path],
    folder: Path,
    prefix: str,
    track: Track = iter,
) -> list[Clip]:
    """Put the clips' media into tars below ``folder``; returns the clips with their new paths.

    Each clip becomes ``<key>.mp4``, ``<key>.flac``, ``<key>.txt`` (transcript) and ``<key>.json`` (its manifest line).
    A tar that holds just what it should is left alone, so packing what is packed does nothing; one that is of no use
    any more is removed. Same clips, same bytes.

    Args:
        clips: their media may lie anywhere, in other tars too.
        places: the number of the tar that each clip goes to, by id.
        own: loose files that are removed once they are in a tar. All others stay: they belong to somebody else.
        prefix: of the tars' names.
    """
    by_tar: dict[Path, list[Clip]] = {}
    for clip in clips:
        by_tar.setdefault(folder / f"{prefix}{places[clip.id]:06d}.tar", []).append(clip)
    tars = sorted(by_tar)
    # What goes from one tar to another is taken out first: its old one may be written anew before its new one.
    with TemporaryDirectory(prefix=".partial-", dir=folder) if folder.is_dir() else nullcontext() as scratch:
        sources = {tar: [_taken_out(clip, tar, Path(scratch or folder)) for clip in by_tar[tar]] for tar in tars}
        for number in track(range(len(tars))):
            _write_tar(tars[number], by_tar[tars[number]], sources[tars[number]], own)
    for unused in set(folder.glob(f"{prefix}*.tar")) - set(tars):
        unused.unlink()
    moved = {clip.id: _moved(clip, tar) for tar in tars for clip in by_tar[tar]}
    return [moved[clip.id] for clip in clips]


def _write_tar(tar: Path, clips: Sequence[Clip], sources: Sequence[Clip], own: Collection[Path]) -> None:
    """Write ``tar`` if it is not as it should be, then remove our own files that are in it now."""
    files = [entry for clip, source in zip(clips, sources, strict=True) for entry in _entries(clip, source, tar)]
    loose = [content for _, content in files if isinstance(content, Path) and content in own and content.is_file()]
    if loose or not _holds(tar, files):
        with replacing(tar) as partial, tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as stream:
            for name, content in files:
                member = tarfile.TarInfo(name)
                data = _read(content)
                member.size = len(data)
                stream.addfile(member, io.BytesIO(data))
    for file in loose:
        file.unlink()


def _entries(clip: Clip, source: Clip, tar: Path) -> list[tuple[str, Path | bytes]]:
    """Names inside the tar, and what comes there: the contents, or where they are."""
    key = member_key(clip.id)
    moved = _moved(clip, tar)
    line = clip_to_json(moved, tar)
    pairs = ((moved.audio, source.audio), (moved.video, source.video))
    # One file may hold both.
    media = {place.relative_to(tar).as_posix(): file for place, file in pairs if place is not None and file is not None}
    return [
        *media.items(),
        (f"{key}.txt", clip.text.encode()),
        (f"{key}.json", json.dumps(line, ensure_ascii=False).encode()),
    ]


def _taken_out(clip: Clip, tar: Path, scratch: Path) -> Clip:
    """The clip with its media copied to ``scratch``, where they lie in another tar than they are to go to."""

    def taken_out(file: Path | None) -> Path | None:
        if file is None or archive.stored_in(file) in (file, tar):
            return file
        copy = scratch / member_key(clip.id) / file.name
        write_atomically(copy, _read(file))
        return copy

    return replace(clip, audio=taken_out(clip.audio), video=taken_out(clip.video))


def _moved(clip: Clip, tar: Path) -> Clip:
    """The clip in its tar."""
    key = member_key(clip.id)
    video = tar / f"{key}{clip.video.suffix}" if clip.video else None
    audio = tar / f"{key}{clip.audio.suffix}" if clip.audio else None
    if audio is not None and audio == video and clip.audio != clip.video:
        audio = tar / f"{key}.audio{audio.suffix}"
    return replace(clip, audio=audio, video=video)


def _holds(tar: Path, files: Sequence[tuple[str, Path | bytes]]) -> bool:
    """Whether the tar is of these files: by their names, and by the contents of those that are at hand."""
    try:
        return list(archive.members(tar)) == [name for name, _ in files] and all(
            _read(tar / name) == content for name, content in files if isinstance(content, bytes)
        )
    except (OSError, tarfile.TarError):
        return False


def _read(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    with archive.open_file(source) as stream:
        return stream.read()
