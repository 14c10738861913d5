"""Shards of a corpus: how they are named, and what merging them finds wrong."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.clip_record import ClipSettings
from data_prep.corpora.source import SourceClip
from data_prep.rejection import Reason, Rejection
from data_prep.shards import Corpus, Shard, merge_shards, write_shard
from omni_avsr.data.manifest import read_manifest
from omni_avsr.types import Clip

IDS = ["a", "b", "c", "d", "e"]
SOURCES = [SourceClip(id, Path(f"{id}.flac"), f"text {id}", "train") for id in IDS]
CORPUS = Corpus.of(SOURCES, ClipSettings())


def test_a_shard_is_written_i_of_n() -> None:
    assert Shard.parse("0/1") == Shard()
    assert Shard.parse("3/8") == Shard(3, 8)
    for text in ("8/8", "1", "a/b", "-1/2", "1/2/3", "0/0", "1 / 2"):
        with pytest.raises(ValueError, match="a shard is written i/n with i from 0 to n - 1"):
            Shard.parse(text)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Three shards of five clips, one of which was rejected."""
    for index in range(3):
        ids = IDS[index::3]
        clips = [Clip(id, "text", "train", 1.0, audio=tmp_path / f"{id}.flac") for id in ids if id != "b"]
        rejected = [Rejection(id, "x\udcff", Reason.NO_FACE, "none") for id in ids if id == "b"]
        write_shard(tmp_path, Shard(index, 3), CORPUS, clips, rejected)
    return tmp_path


def test_shards_make_one_manifest_as_if_there_had_been_one(output: Path) -> None:
    clips, rejected = merge_shards(output)
    assert [clip.id for clip in clips] == ["a", "c", "d", "e"]
    assert rejected == [Rejection("b", "x\udcff", Reason.NO_FACE, "none")]
    write_shard(output / "whole", Shard(), CORPUS, clips, rejected)
    assert [line.id for line in read_manifest(output / "manifest.jsonl")] == ["a", "c", "d", "e"]
    assert (output / "rejected.jsonl").read_bytes() == (output / "whole" / "rejected.jsonl").read_bytes()
    assert clips[0].audio == output / "shards" / "00000-of-00003" / ".." / ".." / "a.flac"


def test_a_missing_shard_is_named(output: Path) -> None:
    shutil.rmtree(output / "shards" / "00001-of-00003")
    (output / "shards" / "00002-of-00003" / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"2 of 3 are missing: shard=1/3, shard=2/3"):
        merge_shards(output)


def test_no_shard_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no shard is done; run prepare with shard=0/n"):
        merge_shards(tmp_path)


def test_shards_of_two_runs_are_refused(output: Path) -> None:
    write_shard(output, Shard(0, 2), CORPUS, [], [])
    with pytest.raises(ValueError, match="shards of 2 and of 3; remove"):
        merge_shards(output)


@pytest.mark.parametrize(
    "corpus",
    [
        Corpus.of(SOURCES[:-1], ClipSettings()),
        Corpus.of([*SOURCES[:-1], replace(SOURCES[-1], text="corrected")], ClipSettings()),
        Corpus.of([*SOURCES[:-1], replace(SOURCES[-1], split="test")], ClipSettings()),
        Corpus.of(SOURCES, ClipSettings(grey=False)),
    ],
    ids=["clips", "text", "split", "settings"],
)
def test_shards_of_different_corpora_or_settings_are_refused(output: Path, corpus: Corpus) -> None:
    write_shard(output, Shard(0, 3), corpus, [], [])
    with pytest.raises(ValueError, match="different corpora or settings"):
        merge_shards(output)


def test_where_a_corpus_or_a_model_lies_makes_no_difference() -> None:
    elsewhere = [replace(source, media=Path("elsewhere") / source.media) for source in SOURCES]
    assert Corpus.of(elsewhere, ClipSettings(face_model=Path("elsewhere/face.task"))) == CORPUS


def test_a_missing_list_of_rejections_is_named(output: Path) -> None:
    (output / "shards" / "00001-of-00003" / "rejected.jsonl").unlink()
    with pytest.raises(ValueError, match=r"00001-of-00003/rejected\.jsonl: no such file"):
        merge_shards(output)


def test_clips_that_nobody_accounts_for_are_noticed(output: Path) -> None:
    write_shard(output, Shard(0, 3), CORPUS, [], [])
    with pytest.raises(ValueError, match="2 clips and 1 rejected ones do not make the corpus's 5"):
        merge_shards(output)


def test_a_broken_summary_is_named(output: Path) -> None:
    (output / "shards" / "00001-of-00003" / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match=r"00001-of-00003/summary\.json: no summary of a shard"):
        merge_shards(output)
