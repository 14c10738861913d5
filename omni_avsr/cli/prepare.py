"""``omni-avsr prepare``: a corpus to mouth crops, audio and a manifest."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from data_prep.grid import read_grid
from data_prep.prepare import FAILED_NAME, PrepareOptions, prepare
from data_prep.sources import SourceClip, read_folder
from data_prep.synthetic.corpus import SyntheticCorpus, synthesize
from omni_avsr.cli.hydra_app import hydra_command
from omni_avsr.config import STRICT, Positive, from_mapping
from omni_avsr.media import MediaError, probe
from omni_avsr.mouth.face_model import find_face_model

log = logging.getLogger(__name__)


@dataclass(frozen=True, config=STRICT)
class GridCorpus:
    """GRID as ``read_grid`` expects it; ``split`` is for all clips when there is no split.tsv."""

    kind: Literal["grid"] = "grid"
    split: str = "train"

    def clips(self, source: Path) -> list[SourceClip]:
        return read_grid(source, self.split)


@dataclass(frozen=True, config=STRICT)
class FolderCorpus:
    """A folder with a table of its files, as ``read_folder`` expects it."""

    kind: Literal["folder"] = "folder"
    table: str = "transcripts.tsv"
    split: str = "test"

    def clips(self, source: Path) -> list[SourceClip]:
        return read_folder(source, self.table, self.split)


@dataclass(frozen=True, config=STRICT)
class PrepareConfig:
    """A corpus in ``source`` goes to ``output``. ``workers`` None is one process per core; the rest: PrepareOptions.

    A synthetic corpus has no source, and needs no face model.
    """

    corpus: Annotated[GridCorpus | FolderCorpus | SyntheticCorpus, Field(discriminator="kind")]
    output: Path
    source: Path | None = None
    face_model: Path | None = None
    workers: Positive | None = None
    lossless: bool = True
    crf: Annotated[int, Field(ge=0, le=51)] = 12
    progress: bool = True


def main() -> None:
    hydra_command("prepare", lambda values: run(from_mapping(PrepareConfig, values, "prepare")))


def run(config: PrepareConfig) -> None:
    """Prepare every clip of the corpus and log what came of it; the clips that failed are a warning.

    Raises:
        ValueError: the corpus cannot be read, the face model is missing, or not one clip could be prepared.
    """
    workers = config.workers or os.cpu_count() or 1
    if isinstance(config.corpus, SyntheticCorpus):
        synthesize(config.corpus, config.output, workers, config.progress)
        return
    if config.source is None:
        raise ValueError("prepare.source: a corpus needs the folder it is in (source=FOLDER)")
    clips = config.corpus.clips(config.source)
    needs_faces = any(_has_video(clip.media) for clip in clips)
    options = PrepareOptions(
        face_model=find_face_model(config.face_model) if needs_faces else None,
        workers=workers,
        lossless=config.lossless,
        crf=config.crf,
        progress=config.progress,
    )
    report = prepare(clips, config.output, options)
    log.info(
        "%d clips prepared, %d found finished, %d failed, in %.0f s",
        report.num_prepared,
        report.num_finished_before,
        len(report.failures),
        report.seconds,
    )
    log.info("manifest: %s", report.manifest)
    if report.failures:
        log.warning(
            "%d clips are not in the manifest; the reasons are in %s, and another run tries them again",
            len(report.failures),
            config.output / FAILED_NAME,
        )


def _has_video(path: Path) -> bool:
    try:
        return probe(path)[1]
    except MediaError:  # the preparation will find out, and list the clip with its reason
        return False
