"""``omni-avsr prepare``: a corpus to mouth crops, audio and a manifest."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from data_prep.clip_record import ClipSettings
from data_prep.cores import num_cores
from data_prep.corpora.files import AUDIO_SUFFIXES, suffix_of
from data_prep.corpora.source import SourceClip
from data_prep.prepare import PrepareOptions, PrepareReport, prepare
from data_prep.shards import REJECTED_NAME, Shard
from data_prep.synthetic.corpus import SyntheticCorpus, synthesize
from omni_avsr.cli.corpora import (
    FolderCorpus,
    GridCorpus,
    LibriSpeechCorpus,
    LombardGridCorpus,
    Lrs2Corpus,
    Lrs3Corpus,
)
from omni_avsr.cli.hydra_app import hydra_command
from omni_avsr.cli.imports import AutoAvsrImport, AvHubertImport, MuavicImport
from omni_avsr.config import STRICT, Positive, from_mapping
from omni_avsr.mouth.face_model import find_face_model
from omni_avsr.mouth.video import FaceFinder

log = logging.getLogger(__name__)

Share = Annotated[float, Field(ge=0, le=1)]
AboveZero = Annotated[float, Field(gt=0)]
AnyCorpus = (
    FolderCorpus
    | GridCorpus
    | LombardGridCorpus
    | Lrs2Corpus
    | Lrs3Corpus
    | LibriSpeechCorpus
    | AutoAvsrImport
    | AvHubertImport
    | MuavicImport
    | SyntheticCorpus
)


@dataclass(frozen=True, config=STRICT)
class PrepareConfig:
    """A corpus in ``source`` goes to ``output``. ``workers`` None is one process per core.

    finder, grey, lossless, crf, min_detected, max_seconds, max_megabytes, max_uneven: as in ``ClipSettings``;
    time_limit, max_characters, clips_per_tar: as in ``PrepareOptions``. storage: media in files of their own, or in
    tars. shard: ``i/n``, i from 0, the part that this job of an array does; ``omni-avsr merge`` makes one manifest of
    all. max_rejected: the run ends with an error, after everything is written, if a larger share of clips was rejected;
    of a shard that is told, and ``merge`` judges the whole.

    A synthetic corpus has no source, and needs no face model; of the settings of clips it heeds none.
    """

    corpus: Annotated[AnyCorpus, Field(discriminator="kind")]
    output: Path
    source: Path | None = None
    face_model: Path | None = None
    finder: FaceFinder = FaceFinder.LANDMARKER
    grey: bool = True
    lossless: bool = True
    crf: Annotated[int, Field(ge=0, le=51)] = 12
    min_detected: Share = 0.5
    max_seconds: AboveZero = 600.0
    max_megabytes: AboveZero = 4000.0
    max_uneven: AboveZero = 1.0
    max_characters: Positive = 1000
    time_limit: AboveZero = 300.0
    max_rejected: Share = 0.1
    storage: Literal["files", "tars"] = "files"
    clips_per_tar: Positive = 1000
    shard: str = "0/1"
    workers: Positive | None = None
    progress: bool = True


def main() -> None:
    hydra_command("prepare", lambda values: run(from_mapping(PrepareConfig, values, "prepare")))


def run(config: PrepareConfig) -> None:
    """Prepare every clip of the corpus and log what came of it; the clips that were rejected are a warning.

    Raises:
        ValueError: the corpus cannot be read, the face model is missing, or too many clips were rejected.
    """
    workers = config.workers or num_cores()
    if isinstance(config.corpus, SyntheticCorpus):
        synthesize(config.corpus, config.output, workers, config.progress)
        return
    if config.source is None:
        raise ValueError("prepare.source: a corpus needs the folder it is in (source=FOLDER)")
    _check_output(config.corpus, config.source, config.output)
    shard = Shard.parse(config.shard)
    clips = config.corpus.clips(config.source)
    log.info("%d clips in %s%s", len(clips), config.source, f", shard {config.shard}" if shard.count > 1 else "")
    settings = ClipSettings(
        face_model=find_face_model(config.face_model) if _needs_faces(clips) else None,
        finder=config.finder,
        grey=config.grey,
        lossless=config.lossless,
        crf=config.crf,
        min_detected=config.min_detected,
        max_seconds=config.max_seconds,
        max_megabytes=config.max_megabytes,
        max_uneven=config.max_uneven,
    )
    options = PrepareOptions(
        clips=settings,
        workers=workers,
        shard=shard,
        clips_per_tar=config.clips_per_tar if config.storage == "tars" else None,
        time_limit=config.time_limit,
        max_characters=config.max_characters,
        progress=config.progress,
    )
    report = prepare(clips, config.output, options)
    tell(report)
    if shard.count == 1:
        check_rejected(len(report.rejections), report.num_clips, report.manifest.parent, config.max_rejected)
    elif report.rejections:
        # One bad shard must not keep a launcher from the others.
        log.warning("%d clips were rejected; `omni-avsr merge` tells whether they are too many", len(report.rejections))


def tell(report: PrepareReport) -> None:
    """Log what a run did."""
    if not report.num_tried and not report.num_imported:
        log.info("nothing to do: %d clips found finished", report.num_finished_before)
    if report.num_tried:
        log.info(
            "%d clips prepared in %.0f s, %.1f x real time; %d found finished",
            report.num_prepared,
            report.seconds,
            report.media_seconds / report.seconds,
            report.num_finished_before,
        )
    if report.num_imported:
        log.info("%d clips imported", report.num_imported)
    log.info("manifest: %s", report.manifest)
    if report.page is not None:
        log.info("quality page: %s", report.page)


def check_rejected(num_rejected: int, num_clips: int, folder: Path, max_rejected: float) -> None:
    """Warn of rejected clips. ValueError if they are more than the share that is allowed, or all."""
    if not num_rejected:
        return
    share = num_rejected / (num_rejected + num_clips)
    told = f"{num_rejected} clips ({share:.1%}) were rejected; the reasons are in {folder / REJECTED_NAME}"
    if share > max_rejected or not num_clips:
        raise ValueError(f"{told}, and at most {max_rejected:.1%} may be (max_rejected)")
    log.warning("%s", told)


def _check_output(corpus: AnyCorpus, source: Path, output: Path) -> None:
    """Tables and manifests name their files; other corpora are what lies in their folder."""
    names_its_files = isinstance(corpus, FolderCorpus | AutoAvsrImport | AvHubertImport | MuavicImport)
    if not names_its_files and output.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"prepare.output: {output} is inside {source}, whose files are all read as the corpus's own")


def _needs_faces(clips: list[SourceClip]) -> bool:
    """Whether any clip may be a video whose mouth has to be found. Files are not opened for it: workers do that."""
    return any(
        clip.needs_video or suffix_of(str(clip.media)) not in AUDIO_SUFFIXES
        for clip in clips
        if clip.cropped_frames is None and clip.problem is None
    )
