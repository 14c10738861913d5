"""The corpora of ``omni-avsr prepare`` that hold mouth crops already: imported, not prepared again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from data_prep.corpora.auto_avsr import Sound, read_auto_avsr
from data_prep.corpora.avhubert import Move, read_avhubert
from data_prep.corpora.muavic import read_muavic
from data_prep.corpora.source import SourceClip
from data_prep.corpora.splits import with_validation
from omni_avsr.config import STRICT


@dataclass(frozen=True, config=STRICT)
class AutoAvsrImport:
    """A tree that auto_avsr prepared, as ``read_auto_avsr`` expects it.

    train, validation, test: label files in its folder labels; all three empty: those whose names tell their split.
    """

    kind: Literal["auto_avsr"] = "auto_avsr"
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    units: Path | None = None
    sound: Sound = "wav"

    def clips(self, source: Path) -> list[SourceClip]:
        files = {"train": self.train, "validation": self.validation, "test": self.test}
        return with_validation(read_auto_avsr(source, files, self.units, self.sound))


@dataclass(frozen=True, config=STRICT)
class AvHubertImport:
    """A folder of AV-HuBERT's manifests, as ``read_avhubert`` expects it."""

    kind: Literal["avhubert"] = "avhubert"
    moved: Move | None = None

    def clips(self, source: Path) -> list[SourceClip]:
        return with_validation(read_avhubert(source, self.moved))


@dataclass(frozen=True, config=STRICT)
class MuavicImport:
    """MuAViC's English part, as ``read_muavic`` expects it."""

    kind: Literal["muavic"] = "muavic"
    moved: Move | None = None

    def clips(self, source: Path) -> list[SourceClip]:
        return with_validation(read_muavic(source, self.moved))
