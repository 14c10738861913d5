"""Parts of a corpus for the jobs of an array, and what each part writes beside the clips."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_prep.clip_record import ClipSettings
from data_prep.corpora.source import SourceClip
from data_prep.rejection import Rejection, read_rejections, write_rejections
from omni_avsr.data.manifest import read_manifest, write_manifest
from omni_avsr.files import write_atomically
from omni_avsr.types import Clip

MANIFEST_NAME = "manifest.jsonl"
REJECTED_NAME = "rejected.jsonl"
SHARDS_FOLDER = "shards"
SUMMARY_NAME = "summary.json"


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count``: every ``count``-th clip of a corpus."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``"3/8"`` is the fourth of eight. ValueError if it is none."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not match or int(match[1]) >= int(match[2]):
            raise ValueError(f"a shard is written i/n with i from 0 to n - 1, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    @property
    def name(self) -> str:
        return f"{self.index:05d}-of-{self.count:05d}"

    @property
    def tar_prefix(self) -> str:
        """What the names of its tars begin with."""
        return "" if self.count == 1 else f"{self.name}-"

    def folder(self, output: Path) -> Path:
        """Where the shard's own manifest and rejections are; of a whole corpus that is ``output`` itself."""
        return output if self.count == 1 else output / SHARDS_FOLDER / self.name


@dataclass(frozen=True)
class Corpus:
    """What all shards of a preparation have in common: how many clips there are, and a hash of their labels and of how
    they are made."""

    num_sources: int
    sha256: str

    @classmethod
    def of(cls, sources: Sequence[SourceClip], settings: ClipSettings) -> Corpus:
        facts = [repr(replace(settings, face_model=None)), *(repr(_labels(source)) for source in sources)]
        return cls(len(sources), hashlib.sha256("\0".join(facts).encode(errors="backslashreplace")).hexdigest())


def write_shard(
    output: Path, shard: Shard, corpus: Corpus, clips: Sequence[Clip], rejected: Sequence[Rejection]
) -> None:
    """Write the manifest and the rejections of a shard; and, last of all, that it is done."""
    folder = shard.folder(output)
    (folder / SUMMARY_NAME).unlink(missing_ok=True)  # an old one must not speak for a new manifest
    write_manifest(folder / MANIFEST_NAME, clips)
    write_rejections(folder / REJECTED_NAME, rejected)
    if shard.count > 1:
        write_atomically(folder / SUMMARY_NAME, json.dumps(asdict(corpus)) + "\n")


def merge_shards(output: Path) -> tuple[list[Clip], list[Rejection]]:
    """Write ``output``/manifest.jsonl and rejected.jsonl from the shards' own, both sorted by id, and return them.

    Raises:
        ValueError: a shard is missing, or unlike the others, or not every clip of the corpus is accounted for.
    """
    corpus, shards = _read_summaries(output)
    clips = [clip for shard in shards for clip in read_manifest(shard.folder(output) / MANIFEST_NAME)]
    rejected = [line for shard in shards for line in read_rejections(shard.folder(output) / REJECTED_NAME)]
    if len(clips) + len(rejected) != corpus.num_sources:
        raise ValueError(
            f"{output}: {len(clips)} clips and {len(rejected)} rejected ones do not make the corpus's "
            f"{corpus.num_sources}; run the shards again"
        )
    clips.sort(key=lambda clip: clip.id)
    rejected.sort(key=lambda line: line.id)
    write_shard(output, Shard(), corpus, clips, rejected)
    return clips, rejected


def _labels(source: SourceClip) -> tuple[object, ...]:
    return source.id, source.text, source.split, source.speaker, source.words, source.span, source.problem is None


def _read_summaries(output: Path) -> tuple[Corpus, list[Shard]]:
    found: dict[Shard, Corpus] = {}
    for path in sorted((output / SHARDS_FOLDER).glob(f"*-of-*/{SUMMARY_NAME}")):
        index, count = map(int, path.parent.name.split("-of-"))
        try:
            found[Shard(index, count)] = Corpus(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: no summary of a shard ({error}); run that shard again") from error
    if not found:
        raise ValueError(f"{output / SHARDS_FOLDER}: no shard is done; run prepare with shard=0/n and so on")
    counts = {shard.count for shard in found}
    if len(counts) > 1:
        raise ValueError(
            f"{output / SHARDS_FOLDER}: shards of {' and of '.join(map(str, sorted(counts)))}; remove the folders of "
            "an older run"
        )
    count = counts.pop()
    if missing := [f"shard={index}/{count}" for index in range(count) if Shard(index, count) not in found]:
        raise ValueError(f"{output / SHARDS_FOLDER}: {len(missing)} of {count} are missing: {', '.join(missing)}")
    corpora = set(found.values())
    if len(corpora) > 1:
        raise ValueError(f"{output / SHARDS_FOLDER}: the shards are of different corpora or settings; run them again")
    return corpora.pop(), list(found)
