"""The corpora that ``omni-avsr prepare`` reads, each with its settings; conf/corpus has a file for each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from data_prep.corpora.folder import TABLE_NAME, read_folder
from data_prep.corpora.grid import read_grid
from data_prep.corpora.librispeech import read_librispeech
from data_prep.corpora.lombard import View, read_lombard_grid
from data_prep.corpora.lrs import read_lrs2, read_lrs3
from data_prep.corpora.source import SourceClip
from data_prep.corpora.spans import MAX_SECONDS
from omni_avsr.config import STRICT

Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=STRICT)
class GridCorpus:
    """GRID, see ``read_grid``. ``split``: of all clips where there is no split.tsv; None goes by speakers."""

    kind: Literal["grid"] = "grid"
    split: str | None = None

    def clips(self, source: Path) -> list[SourceClip]:
        return read_grid(source, self.split)


@dataclass(frozen=True, config=STRICT)
class FolderCorpus:
    """A folder with a table of its files, see ``read_folder``."""

    kind: Literal["folder"] = "folder"
    table: str = TABLE_NAME
    split: str = "test"
    silent: bool = False

    def clips(self, source: Path) -> list[SourceClip]:
        return read_folder(source, self.table, self.split, self.silent)


@dataclass(frozen=True, config=STRICT)
class Lrs2Corpus:
    """LRS2, see ``read_lrs2``. ``max_seconds``: of the pieces that clips of pretrain are cut into."""

    kind: Literal["lrs2"] = "lrs2"
    max_seconds: Seconds = MAX_SECONDS

    def clips(self, source: Path) -> list[SourceClip]:
        return read_lrs2(source, self.max_seconds)


@dataclass(frozen=True, config=STRICT)
class Lrs3Corpus:
    """LRS3, see ``read_lrs3``. ``max_seconds``: of the pieces that clips of pretrain are cut into."""

    kind: Literal["lrs3"] = "lrs3"
    max_seconds: Seconds = MAX_SECONDS

    def clips(self, source: Path) -> list[SourceClip]:
        return read_lrs3(source, self.max_seconds)


@dataclass(frozen=True, config=STRICT)
class LombardGridCorpus:
    """Lombard GRID, see ``read_lombard_grid``. ``view``: the camera."""

    kind: Literal["lombard_grid"] = "lombard_grid"
    view: View = "front"

    def clips(self, source: Path) -> list[SourceClip]:
        return read_lombard_grid(source, self.view)


@dataclass(frozen=True, config=STRICT)
class LibriSpeechCorpus:
    """LibriSpeech and audio trees laid out like it, see ``read_librispeech``."""

    kind: Literal["librispeech"] = "librispeech"

    def clips(self, source: Path) -> list[SourceClip]:
        return read_librispeech(source)
