"""Import the English part of MuAViC: manifests in AV-HuBERT's format, made from LRS3; no media file is opened.

Layout (github.com/facebookresearch/muavic, lrs3_utils.py): ``en/{train,valid,test}_avsr.tsv`` with the texts in
``_avsr.en``. An id is ``talk/clip`` of LRS3; training and validation may use the same id for different clips.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.corpora.avhubert import SPLITS, ManifestFiles, Move, read_manifests
from data_prep.corpora.source import SourceClip
from data_prep.corpora.splits import split_named


def read_muavic(root: Path, moved: Move | None = None) -> list[SourceClip]:
    """The clips of ``root``/en; see ``read_manifests``."""
    folder = root / "en"
    files = [
        ManifestFiles(split_named(name), folder / f"{name}_avsr.tsv", folder / f"{name}_avsr.en") for name in SPLITS
    ]
    return read_manifests(files, moved, talk_at=0)
