"""The preparation of a corpus: everything is accounted for, nothing is done twice, shards and tars change no clip."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from data_prep import prepare as preparation
from data_prep.clip_record import ClipSettings
from data_prep.corpora.grid import read_grid
from data_prep.corpora.source import SourceClip
from data_prep.prepare import PrepareOptions, PrepareReport, prepare
from data_prep.rejection import Problem, Reason, read_rejections
from data_prep.shards import Shard, merge_shards
from omni_avsr.data.manifest import read_manifest
from omni_avsr.media import read_audio, read_video, write_audio
from omni_avsr.mouth.video import FaceFinder


def options(**changes: Any) -> PrepareOptions:
    return replace(PrepareOptions(progress=False), **changes)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """When every file below a folder was written, and which one it is."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def sources(tmp_path: Path, no_processes: None) -> list[SourceClip]:
    """Seven clips of sound: four good ones, one that is missing, one that is broken, one without a transcript."""
    for number, name in enumerate(["b", "a", "d", "c"]):
        write_audio(tmp_path / "in" / f"{name}.flac", np.full(1600 + 16 * number, 0.1, np.float32))
    (tmp_path / "in" / "broken.flac").write_bytes(b"no sound" * 100)
    shutil.copyfile(tmp_path / "in" / "a.flac", tmp_path / "in" / "mute.flac")
    clips = [
        SourceClip(f"s1/{name}", tmp_path / "in" / f"{name}.flac", f"text {name}", "train", "s1")
        for name in ("b", "a", "gone", "broken", "d", "c")
    ]
    return [*clips, SourceClip("s1/mute", tmp_path / "in" / "mute.flac", "", "train")]


def accounted(report: PrepareReport) -> tuple[list[str], dict[str, Reason]]:
    """The ids of the manifest, and those of rejected.jsonl with their reasons."""
    rejected = read_rejections(report.manifest.parent / "rejected.jsonl")
    assert rejected == list(report.rejections)
    return [clip.id for clip in read_manifest(report.manifest, check_files=True)], {r.id: r.reason for r in rejected}


def test_every_clip_is_in_the_manifest_or_rejected_with_its_reason(sources: list[SourceClip], tmp_path: Path) -> None:
    report = prepare(sources, tmp_path / "out", options())
    assert accounted(report) == (
        ["s1/a", "s1/b", "s1/c", "s1/d"],
        {"s1/broken": Reason.CORRUPT, "s1/gone": Reason.MISSING_FILE, "s1/mute": Reason.EMPTY_TRANSCRIPT},
    )
    assert (report.num_prepared, report.num_finished_before, report.num_clips) == (4, 0, 4)
    assert report.num_clips + len(report.rejections) == len(sources)
    assert report.media_seconds == pytest.approx(4 * 0.1 + 0.006)
    assert "broken.flac: the audio stream holds no samples" in report.rejections[0].detail
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "audio", "done", "manifest.jsonl", "quality.html", "rejected.jsonl",
    ]  # fmt: skip


def test_a_second_run_does_nothing(sources: list[SourceClip], tmp_path: Path) -> None:
    """Whatever the order of the sources is; a file that came to be usable in the meantime is prepared."""
    out = tmp_path / "out"
    first = prepare(sources, out, options())
    before, media = tree(out), state(out / "audio") | state(out / "done")
    second = prepare(sources[::-1], out, options())
    assert (second.num_prepared, second.num_finished_before, second.num_tried) == (0, 4, 0)
    assert second.rejections == first.rejections
    assert tree(out) == before
    assert state(out / "audio") | state(out / "done") == media
    write_audio(tmp_path / "in" / "gone.flac", np.zeros(1600, np.float32))
    write_audio(tmp_path / "in" / "broken.flac", np.zeros(1600, np.float32))
    third = prepare(sources, out, options())
    assert (third.num_prepared, third.num_finished_before, len(third.rejections)) == (2, 4, 1)


def test_a_corrected_transcript_reaches_the_manifest_without_new_media(
    sources: list[SourceClip], tmp_path: Path
) -> None:
    prepare(sources, tmp_path / "out", options())
    report = prepare([replace(sources[0], text="set red")], tmp_path / "out", options())
    assert report.num_prepared == 0
    assert [clip.text for clip in read_manifest(report.manifest)] == ["set red"]


def test_a_clip_whose_media_were_removed_is_made_again(sources: list[SourceClip], tmp_path: Path) -> None:
    prepare(sources, tmp_path / "out", options())
    (tmp_path / "out" / "audio" / "s1" / "a.flac").unlink()
    assert prepare(sources, tmp_path / "out", options()).num_prepared == 1


def test_what_a_killed_run_left_in_its_scratch_folder_is_removed(sources: list[SourceClip], tmp_path: Path) -> None:
    write_audio(tmp_path / "out" / "scratch" / "00000-of-00001" / "x" / "audio.flac", np.zeros(10, np.float32))
    prepare(sources, tmp_path / "out", options())
    assert not list((tmp_path / "out").glob("scratch/*"))


def test_two_runs_on_the_same_are_refused(sources: list[SourceClip], tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "out" / "scratch" / "00000-of-00001.lock")
    (tmp_path / "out" / "scratch").mkdir(parents=True)
    with lock:
        with pytest.raises(ValueError, match="another run is preparing the same"):
            prepare(sources, tmp_path / "out", options())
        assert prepare(sources, tmp_path / "out", options(shard=Shard(0, 2))).num_clips
    assert prepare(sources, tmp_path / "out", options()).num_clips == 4


def test_a_clip_whose_worker_died_leaves_nothing_and_is_tried_again(
    sources: list[SourceClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(sources, tmp_path / "out", options())
    write_audio(tmp_path / "in" / "a.flac", np.zeros(3200, np.float32))
    died = Problem(Reason.WORKER_DIED, "out of memory")
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "run_jobs", lambda _, jobs, *rest: [(job, died) for job in jobs])
        report = prepare(sources, tmp_path / "out", options())
    assert accounted(report)[1]["s1/a"] is Reason.WORKER_DIED
    assert not (tmp_path / "out" / "audio" / "s1" / "a.flac").exists()
    assert prepare(sources, tmp_path / "out", options()).num_prepared == 1


def test_shards_prepare_what_one_run_prepares(sources: list[SourceClip], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    prepare(sources, whole, options())
    reports = [prepare(sources, parts, options(shard=Shard(index, 3))) for index in (2, 0, 1)]
    assert sum(report.num_clips + len(report.rejections) for report in reports) == len(sources)
    assert [report.page for report in reports] == [None] * 3
    merge_shards(parts)
    for name in ("manifest.jsonl", "rejected.jsonl", "audio/s1/a.flac"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_clips_in_tars_are_those_in_files(sources: list[SourceClip], tmp_path: Path) -> None:
    files, tars = tmp_path / "files", tmp_path / "tars"
    loose = prepare(sources, files, options())
    packed = prepare(sources, tars, options(clips_per_tar=3))
    assert accounted(packed) == accounted(loose)
    # Clip s1/d is the fifth of seven: whether others were rejected does not decide where a clip goes.
    assert sorted(path.name for path in tars.rglob("*.tar")) == ["000000.tar", "000001.tar"]
    assert not list(tars.glob("audio/*/*"))
    for one, other in zip(read_manifest(loose.manifest), read_manifest(packed.manifest), strict=True):
        assert one.audio is not None
        assert other.audio is not None
        np.testing.assert_array_equal(read_audio(one.audio), read_audio(other.audio))
    before = state(tars / "tars")
    again = prepare(sources, tars, options(clips_per_tar=3))
    assert (again.num_prepared, again.num_finished_before) == (0, 4)
    assert state(tars / "tars") == before
    assert again.manifest.read_bytes() == packed.manifest.read_bytes()


def test_crops_made_elsewhere_are_taken_as_they_are(tmp_path: Path) -> None:
    """The files are no media at all: nobody looks into them."""
    for name in ("a.mp4", "a.wav"):
        (tmp_path / name).touch()
    crop = SourceClip("a", tmp_path / "a.mp4", "text", "val", audio=tmp_path / "a.wav", cropped_frames=7, seconds=0.28)
    gone = replace(crop, id="b", media=tmp_path / "b.mp4")
    empty = replace(crop, id="c", cropped_frames=0)
    report = prepare([crop, gone, empty], tmp_path / "out", options())
    (clip,) = read_manifest(report.manifest, check_files=True)
    assert (clip.num_frames, clip.seconds, clip.split) == (7, 0.28, "val")
    assert clip.video == tmp_path / "out" / ".." / "a.mp4"
    assert [rejection.reason for rejection in report.rejections] == [Reason.MISSING_FILE, Reason.BAD_LABEL]


def test_crops_made_elsewhere_are_copied_into_tars_and_stay_where_they_are(no_processes: None, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("a.mp4", "a.wav"):
        (theirs / name).write_bytes(name.encode())
    crop = SourceClip("a", theirs / "a.mp4", "text", "val", audio=theirs / "a.wav", cropped_frames=7, seconds=0.28)
    for _ in range(2):
        report = prepare([crop], tmp_path / "out", options(clips_per_tar=10))
        (clip,) = read_manifest(report.manifest, check_files=True)
        assert clip.video == tmp_path / "out" / "tars" / "000000.tar" / "a.mp4"
        assert sorted(path.name for path in theirs.iterdir()) == ["a.mp4", "a.wav"]
    assert list((tmp_path / "out" / "tars").iterdir()) == [tmp_path / "out" / "tars" / "000000.tar"]


def test_a_problem_that_the_reader_found_is_listed(no_processes: None, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", np.zeros(1600, np.float32))
    bad = SourceClip("t.tsv:3", tmp_path / "\udcff", "", "train", problem=Problem(Reason.BAD_LABEL, "t.tsv:3: \udcff"))
    good = SourceClip("a", tmp_path / "a.flac", "text", "train")
    report = prepare([bad, good], tmp_path / "out", options())
    assert accounted(report) == (["a"], {"t.tsv:3": Reason.BAD_LABEL})


def test_a_corpus_of_nothing_but_bad_clips_is_reported_too(sources: Sequence[SourceClip], tmp_path: Path) -> None:
    report = prepare([sources[3]], tmp_path / "out", options())
    assert accounted(report) == ([], {"s1/broken": Reason.CORRUPT})
    assert report.num_clips == 0


def test_settings_that_make_no_sense_are_refused(sources: list[SourceClip], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no clips to prepare"):
        prepare([], tmp_path / "out", options())
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        prepare(sources, tmp_path / "out", options(workers=0))


@pytest.mark.parametrize("finder", list(FaceFinder))
def test_real_clips_become_crops_audio_and_a_manifest(shared: Path, tmp_path: Path, finder: FaceFinder) -> None:
    sources = read_grid(shared / "data" / "grid")[:2]
    settings = ClipSettings(shared / "models" / "face_landmarker.task", finder)
    report = prepare(sources, tmp_path / "out", options(clips=settings, workers=2))
    clips = read_manifest(report.manifest, check_files=True)
    assert [clip.id for clip in clips] == ["s1/bbaf2n", "s1/bbaf3s"]
    assert clips[0].text == "bin blue at f two now"
    assert clips[0].words[0].start == 0.95
    for clip in clips:
        assert clip.audio is not None
        assert clip.video is not None
        assert clip.quality["detected"] == 1.0
        assert read_video(clip.video, grey=True).shape == (75, 96, 96)
        assert len(read_audio(clip.audio)) == 75 * 640
    lines = [json.loads(line) for line in report.manifest.read_text().splitlines()]
    assert [line["video"] for line in lines] == ["video/s1/bbaf2n.mp4", "video/s1/bbaf3s.mp4"]
