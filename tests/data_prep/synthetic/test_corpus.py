"""The synthetic corpus: disjoint splits, reproducible clips, resumption, and clips that real code reads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.synthetic.corpus import SyntheticCorpus, finished, make_clip, plan, synthesize
from data_prep.synthetic.grammar import NUM_SENTENCES, SLOTS, draw_sentences, sentence
from omni_avsr.data.manifest import read_manifest
from omni_avsr.media import SAMPLE_RATE, read_audio, read_video

SMALL = SyntheticCorpus(
    speakers=3, sentences=4, takes=2, held_out_speakers=2, validation_sentences=2, test_sentences=2, seed=1
)


def test_every_sentence_has_a_number_of_its_own() -> None:
    sentences = {sentence(number) for number in range(NUM_SENTENCES)}
    assert len(sentences) == NUM_SENTENCES
    assert all(word in slot for words in list(sentences)[:100] for word, slot in zip(words, SLOTS, strict=True))
    drawn = draw_sentences(500, np.random.default_rng(0))
    assert len(set(drawn)) == 500
    with pytest.raises(ValueError, match="has 18432 sentences, 18433"):
        draw_sentences(NUM_SENTENCES + 1, np.random.default_rng(0))


def test_splits_share_neither_sentences_nor_speakers_nor_voices(tmp_path: Path) -> None:
    jobs = plan(SyntheticCorpus(sentences=300), tmp_path)
    train, rest = ([job for job in jobs if (job.split == "train") == kind] for kind in (True, False))
    assert len(train) == 300
    assert len(rest) == 140
    for part in (
        lambda job: job.sentence,
        lambda job: job.speaker.name,
        lambda job: job.speaker.voice.name.split("+")[1],
        lambda job: job.speaker.face,
    ):
        assert {part(job) for job in train}.isdisjoint({part(job) for job in rest})
    assert {job.sentence for job in rest if job.split == "test"}.isdisjoint(
        {job.sentence for job in rest if job.split == "validation"}
    )
    assert len({job.id for job in jobs}) == len(jobs)


@pytest.mark.parametrize("sentences", [3, 4, 6])
def test_takes_are_the_same_sentences_by_other_speakers(sentences: int, tmp_path: Path) -> None:
    corpus = replace(SMALL, speakers=3, sentences=sentences, takes=3)
    train = [job for job in plan(corpus, tmp_path) if job.split == "train"]
    takes = [train[start : start + sentences] for start in (0, sentences, 2 * sentences)]
    assert (
        [job.sentence for job in takes[0]] == [job.sentence for job in takes[1]] == [job.sentence for job in takes[2]]
    )
    for jobs in zip(*takes, strict=True):
        assert len({job.speaker.name for job in jobs}) == 3


def test_a_larger_corpus_is_tested_on_the_same_clips(tmp_path: Path) -> None:
    small, large = (plan(SyntheticCorpus(sentences=count), tmp_path) for count in (100, 5000))
    assert [job.recipe() for job in small if job.split == "test"] == [
        job.recipe() for job in large if job.split == "test"
    ]


def test_too_many_sentences_are_refused() -> None:
    with pytest.raises(ValueError, match="raise takes"):
        SyntheticCorpus(sentences=NUM_SENTENCES)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(SMALL, tmp_path_factory.mktemp("synthetic"), progress=False)


def test_clips_are_read_like_real_ones(manifest: Path) -> None:
    clips = read_manifest(manifest, check_files=True)
    assert [clip.split for clip in clips] == ["test"] * 2 + ["validation"] * 2 + ["train"] * 8
    for clip in clips:
        assert clip.audio is not None
        assert clip.video is not None
        video, samples = read_video(clip.video, grey=True), read_audio(clip.audio)
        assert video.shape == (clip.num_frames, 96, 96)
        assert len(samples) == clip.num_frames * 640
        assert clip.seconds == clip.num_frames / 25
        assert " ".join(word.text for word in clip.words) == clip.text
        assert clip.words[-1].end <= clip.seconds
        start, end = (round(time * SAMPLE_RATE) for time in (clip.words[0].start, clip.words[-1].end))
        assert np.square(samples[start:end]).mean() > 10 * np.square(samples[: start // 2]).mean()


def test_sound_and_picture_move_together(manifest: Path) -> None:
    """The mouth is at rest before the first word, and moves while words are spoken."""
    for clip in read_manifest(manifest):
        assert clip.video is not None
        crops = read_video(clip.video, grey=True).astype(float)[:, 30:70, 20:76]
        before, after = (round(time * 25) for time in (clip.words[0].start, clip.words[-1].end))
        spoken = crops[before:after].std(axis=0).mean()
        assert spoken > 1.3 * crops[: before - 1].std(axis=0).mean()


def test_the_same_settings_make_the_same_clips_and_what_is_there_is_kept(manifest: Path, tmp_path: Path) -> None:
    again = synthesize(SMALL, tmp_path, progress=False)
    assert again.read_bytes() == manifest.read_bytes()
    for first, second in zip(read_manifest(manifest), read_manifest(again), strict=True):
        assert first.video is not None
        assert second.video is not None
        assert np.array_equal(read_video(first.video), read_video(second.video))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    broken = tmp_path / "video" / "train" / "000001.mp4"
    broken.unlink()
    synthesize(SMALL, tmp_path, progress=False)
    changed = [path for path, time in times.items() if path.stat().st_mtime_ns != time]
    assert changed == [broken]


def test_a_clip_of_another_recipe_is_made_anew(tmp_path: Path) -> None:
    job = plan(SMALL, tmp_path)[0]
    assert finished(job) is None
    clip = make_clip(job)
    assert finished(job) == clip
    assert finished(replace(job, seed=(9, 9))) is None
    job.record.write_text(json.dumps({"recipe": job.recipe()}))
    assert finished(job) is None
