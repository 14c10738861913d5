"""Decode every clip once into memory-mapped arrays, so that an epoch reads pixels and samples instead of files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omni_avsr import archive
from omni_avsr.media import read_audio, read_video
from omni_avsr.types import Clip

FORMAT = 1


@dataclass(frozen=True)
class _Entry:
    """Where a clip's samples and frames stand in the flat arrays."""

    audio: tuple[int, int]
    video: tuple[int, int]


class ClipCache:
    """Random access to decoded clips: 16-bit waveforms and 8-bit grey mouth crops in two flat files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / "index.json").read_text())
        self.crop_size: int = index["crop_size"]
        self.failed: dict[str, str] = index["failed"]
        self._entries = {key: _Entry(tuple(audio), tuple(video)) for key, audio, video in index["clips"]}
        self._audio = _map(folder / "audio.i16", np.int16, ())
        self._video = _map(folder / "video.u8", np.uint8, (self.crop_size, self.crop_size))

    def __reduce__(self) -> tuple[type[ClipCache], tuple[Path]]:
        """Loader processes map the files again: a pickled memory map would carry all of its data."""
        return ClipCache, (self.folder,)

    def __contains__(self, clip: Clip) -> bool:
        return clip.id in self._entries

    def waveform(self, clip: Clip) -> Tensor | None:
        """[samples] float32 in [-1, 1), or None for a clip without audio."""
        start, stop = self._entries[clip.id].audio
        return torch.from_numpy(self._audio[start:stop].astype(np.float32) / 32768) if stop > start else None

    def video(self, clip: Clip) -> Tensor | None:
        """[T, size, size] uint8 mouth crops, or None for a clip without video."""
        start, stop = self._entries[clip.id].video
        return torch.from_numpy(np.array(self._video[start:stop])) if stop > start else None


def open_cache(
    clips: Sequence[Clip], root: Path, progress: Callable[[Iterable[Clip]], Iterable[Clip]] = iter
) -> ClipCache:
    """The cache of exactly these clips below ``root``; decoded now if it is not there yet.

    The folder's name is a hash of the clips' ids, paths, sizes and times, so changed files make a new cache. It appears
    whole or not at all. A clip that cannot be decoded is left out and its reason kept in ``ClipCache.failed``.

    Raises:
        ValueError: two clips have the same id.
    """
    ids = Counter(clip.id for clip in clips)
    if twice := [key for key, count in ids.items() if count > 1]:
        raise ValueError(f"{len(twice)} clip ids stand more than once, such as {twice[0]!r}")
    folder = root / _fingerprint(clips)
    if not (folder / "index.json").is_file():
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=root))
        try:
            _decode(progress(clips), partial)
            os.replace(partial, folder)
        except OSError:
            if not (folder / "index.json").is_file():  # otherwise another process was faster, which is as good
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return ClipCache(folder)


def _decode(clips: Iterable[Clip], folder: Path) -> None:
    entries, failed = [], {}
    num_samples = num_frames = 0
    crop_size = 0
    with (folder / "audio.i16").open("wb") as audio_file, (folder / "video.u8").open("wb") as video_file:
        for clip in clips:
            try:
                audio = read_audio(clip.audio) if clip.audio else np.zeros(0, np.float32)
                video = read_video(clip.video, grey=True) if clip.video else np.zeros((0, 0, 0), np.uint8)
                if len(video):
                    size = crop_size or video.shape[1]
                    if video.shape[1:] != (size, size):
                        raise ValueError(f"crops are {video.shape[1:]}, the other clips' are {size} square")
                    crop_size = size
            except (OSError, ValueError) as error:
                failed[clip.id] = str(error)
                continue
            audio_file.write((audio * 32768).round().clip(-32768, 32767).astype(np.int16).tobytes())
            video_file.write(np.ascontiguousarray(video).tobytes())
            spans = ((num_samples, num_samples + len(audio)), (num_frames, num_frames + len(video)))
            num_samples, num_frames = spans[0][1], spans[1][1]
            entries.append((clip.id, *spans))
    index = {"format": FORMAT, "crop_size": crop_size or 1, "clips": entries, "failed": failed}
    (folder / "index.json").write_text(json.dumps(index))


def _map(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    if path.stat().st_size == 0:
        return np.zeros((0, *shape), dtype)
    flat = np.memmap(path, dtype, "r")
    return flat.reshape(-1, *shape)


def _fingerprint(clips: Sequence[Clip]) -> str:
    digest = hashlib.sha256(str(FORMAT).encode())
    for clip in clips:
        digest.update(clip.id.encode())
        for kind, path in (("audio", clip.audio), ("video", clip.video)):
            if path is not None and (stored := archive.stored_in(path)).is_file():
                stat = stored.stat()
                digest.update(f"{kind}:{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
