"""Read MUSAN (Snyder, Chen, Povey 2015): 6 hours of noise, 42 of music and 60 of speech."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_prep.corpora.files import files_below, stem_of, suffix_of
from data_prep.noise.source import SourceNoise, split_of

KINDS = ("noise", "music", "speech")


def read_musan(folder: Path, kinds: Sequence[str] = ("noise", "music")) -> list[SourceNoise]:
    """The recordings of these kinds: ``<kind>/<source>/<kind>-<source>-0000.wav`` below ``folder`` or its ``musan``.

    The split of a recording is decided by its name (``split_of``): MUSAN has none of its own. One voice alone is
    no noise but somebody to listen to, so speech has to be asked for. ValueError if a kind has no recordings.
    """
    root = folder / "musan" if (folder / "musan").is_dir() else folder
    sources = []
    for kind in kinds:
        names = [name for name in files_below(root / kind) if suffix_of(name) == ".wav"]
        if not names:
            raise ValueError(f"{root / kind}: no recordings of MUSAN; expected <source>/{kind}-<source>-0000.wav")
        for name in names:
            id = f"{kind}/{name.removesuffix(Path(name).suffix)}"
            sources.append(SourceNoise(id, root / kind / name, split_of(stem_of(name)), kind))
    return sources
