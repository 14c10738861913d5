"""Read a folder of any recordings as noise."""

from __future__ import annotations

from pathlib import Path

from data_prep.corpora.files import AUDIO_SUFFIXES, VIDEO_SUFFIXES, files_below, suffix_of
from data_prep.corpora.splits import split_named
from data_prep.noise.source import SourceNoise, split_of
from omni_avsr.data.noise_manifest import SPLITS


def read_noise_folder(folder: Path) -> list[SourceNoise]:
    """Every audio or video file below ``folder``, sorted.

    A file below a subfolder named train, validation or test (or by their usual other names) is of that split, any other
    of the split that its path decides (``split_of``). The kind is the name of the file's own folder. ValueError
    if there is no such file.
    """
    files = [name for name in files_below(folder) if suffix_of(name) in AUDIO_SUFFIXES | VIDEO_SUFFIXES]
    if not files:
        raise ValueError(f"{folder}: no recordings; expected files such as {', '.join(sorted(AUDIO_SUFFIXES))}")
    return [_source(folder, name) for name in files]


def _source(folder: Path, name: str) -> SourceNoise:
    id = name.removesuffix(Path(name).suffix)
    top, *folders = id.split("/")[:-1] or [""]
    named = split_named(top)
    for split in SPLITS:
        if named == split:
            return SourceNoise(id, folder / name, split, folders[-1] if folders else "noise")
    return SourceNoise(id, folder / name, split_of(id), folders[-1] if folders else top or "noise")
