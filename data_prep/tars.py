"""Prepared clips in tar files of many, laid out as WebDataset reads them, for file systems that want few files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omni_avsr import archive
from omni_avsr.data.manifest import clip_to_json
from omni_avsr.files import write_atomically
from omni_avsr.types import Clip


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
    scratch: Path,
) -> list[Clip]:
    """Put the clips' media into tars below ``folder``; returns the clips with their new paths.

    Each clip becomes ``<key>.mp4``, ``<key>.flac``, ``<key>.txt`` (transcript) and ``<key>.json`` (its manifest line).
    A tar that holds just what it should is left alone, so packing what is packed does nothing. Those of the prefix that
    are of no use any more are removed; without a prefix, that is all others. Same clips, same bytes.

    Args:
        clips: their media may lie anywhere, in other tars too.
        places: the number of the tar that each clip goes to, by id.
        own: loose files that are removed once they are in a tar. All others stay: they belong to somebody else.
        prefix: of the tars' names.
        scratch: folder for unfinished files, on the same file system.
    """
    by_tar: dict[Path, list[Clip]] = {}
    for clip in clips:
        by_tar.setdefault(folder / f"{prefix}{places[clip.id]:06d}.tar", []).append(clip)
    tars = sorted(by_tar)
    # What goes from one tar to another is taken out first: its old one may be written anew before its new one.
    sources = {tar: [_taken_out(clip, tar, scratch) for clip in by_tar[tar]] for tar in tars}
    for tar in tars:
        _write_tar(tar, by_tar[tar], sources[tar], own, scratch)
    for unused in set(folder.glob(f"{prefix}*.tar")) - set(tars):
        unused.unlink()
    moved = {clip.id: _moved(clip, tar) for tar in tars for clip in by_tar[tar]}
    return [moved[clip.id] for clip in clips]


def remove_unused_tars(folder: Path, clips: Iterable[Clip]) -> None:
    """Remove the tars of ``folder`` that no clip is in: those of an older division into shards."""
    used = {archive.stored_in(file) for clip in clips for file in (clip.audio, clip.video) if file is not None}
    for unused in {tar.resolve() for tar in folder.glob("*.tar")} - {tar.resolve() for tar in used}:
        unused.unlink()


def _write_tar(tar: Path, clips: Sequence[Clip], sources: Sequence[Clip], own: Collection[Path], scratch: Path) -> None:
    """Write ``tar`` if it is not as it should be, then remove our own files that are in it now."""
    files = [entry for clip, source in zip(clips, sources, strict=True) for entry in _entries(clip, source, tar)]
    loose = [content for _, content in files if isinstance(content, Path) and content in own and content.is_file()]
    if loose or not _holds(tar, files):
        draft = scratch / tar.name
        with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as stream:
            for name, content in files:
                member = tarfile.TarInfo(name)
                data = _read(content)
                member.size = len(data)
                stream.addfile(member, io.BytesIO(data))
        tar.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(tar)
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
    """Whether the tar is of these files: by their names and sizes, and by the contents of those that are at hand."""
    try:
        return [(name, size) for name, (_, size) in archive.members(tar).items()] == [
            (name, len(content) if isinstance(content, bytes) else archive.size(content)) for name, content in files
        ] and all(_read(tar / name) == content for name, content in files if isinstance(content, bytes))
    except (OSError, tarfile.TarError):
        return False


def _read(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    with archive.open_file(source) as stream:
        return stream.read()
