"""The preparation on two real clips: what it writes, what it skips, what it survives."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.clip import ClipJob, finished, fit_length, prepare_clip
from data_prep.grid import read_grid
from data_prep.prepare import PrepareOptions, PrepareReport, prepare
from data_prep.sources import SourceClip
from omni_avsr.data.manifest import read_manifest
from omni_avsr.media import iter_video, read_audio, read_video, write_audio, write_video
from omni_avsr.mouth.face import detect_landmarks

Run = tuple[list[SourceClip], Path, PrepareOptions, PrepareReport]


@pytest.fixture(scope="module")
def face_model(shared: Path) -> Path:
    return shared / "models" / "face_landmarker.task"


@pytest.fixture(scope="module")
def run(shared: Path, face_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run over two good clips, a corrupt one, and one without an alignment."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "s1").mkdir()
    good = [clip.media for clip in read_grid(shared / "data" / "grid")[:2]]
    for media in good:
        for file in (media, media.with_suffix(".align")):
            shutil.copyfile(file, folder / "s1" / file.name)
    (folder / "s1" / "corrupt.mp4").write_bytes(b"no video" * 1000)
    shutil.copyfile(good[0].with_suffix(".align"), folder / "s1" / "corrupt.align")
    shutil.copyfile(good[0], folder / "s1" / "unaligned.mp4")
    options = PrepareOptions(face_model=face_model, workers=1, progress=False)
    output = tmp_path_factory.mktemp("prepared")
    sources = read_grid(folder)
    return sources, output, options, prepare(sources, output, options)


def job(run: Run, output: Path | None = None) -> ClipJob:
    sources, first_output, options, _ = run
    return ClipJob(sources[0].id, sources[0].media, output or first_output, options.face_model, True, options.crf)


def test_good_clips_become_crops_audio_and_a_manifest(run: Run) -> None:
    clips = read_manifest(run[3].manifest, check_files=True)
    assert [clip.id for clip in clips] == ["s1/bbaf2n", "s1/bbaf3s"]
    assert clips[0].text == "bin blue at f two now"
    assert clips[0].words[0].start == 0.95
    assert clips[0].quality["detected"] == 1.0
    assert 80 < clips[0].quality["face_size"] < 160
    for clip in clips:
        assert clip.audio is not None
        assert clip.video is not None
        crops = read_video(clip.video, grey=True)
        assert crops.shape == (75, 96, 96) == (clip.num_frames, 96, 96)
        assert len(read_audio(clip.audio)) == 75 * 640
        assert crops.std() > 10


def test_bad_clips_are_listed_and_do_not_stop_the_others(run: Run) -> None:
    _, output, _, report = run
    failed = [json.loads(line) for line in (output / "failed.jsonl").read_text().splitlines()]
    assert [line["id"] for line in failed] == ["s1/corrupt", "s1/unaligned"]
    assert "corrupt.mp4: not a readable media file" in failed[0]["reason"]
    assert "unaligned.align: no such alignment" in failed[1]["reason"]
    assert (report.num_prepared, report.num_finished_before, len(report.failures)) == (2, 0, 2)


def test_a_second_run_does_nothing_and_writes_the_same_manifest(run: Run) -> None:
    sources, output, options, _ = run
    before = (output / "manifest.jsonl").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in output.glob("*/s1/*")}
    report = prepare(sources[1::-1], output, options)
    assert (report.num_prepared, report.num_finished_before) == (0, 2)
    assert (output / "manifest.jsonl").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/s1/*")} == times


def test_a_corrected_transcript_reaches_the_manifest_without_new_crops(run: Run, tmp_path: Path) -> None:
    sources, output, options, _ = run
    shutil.copytree(output, tmp_path / "copy")
    report = prepare([replace(sources[0], text="set red")], tmp_path / "copy", options)
    assert report.num_prepared == 0
    assert [clip.text for clip in read_manifest(report.manifest)] == ["set red"]


def test_a_clip_is_finished_only_with_its_record_and_files(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run[1], tmp_path / "copy")
    copied = job(run, tmp_path / "copy")
    assert finished(copied) is not None
    assert finished(replace(copied, lossless=False)) is None
    text = copied.record.read_text()
    for unusable in ("", text[:20], "{}", "[]"):
        copied.record.write_text(unusable)
        assert finished(copied) is None
    copied.record.write_text(text)
    copied.video.rename(copied.video.with_name(".bbaf2n.mp4.1.tmp"))
    assert finished(copied) is None


def test_the_result_depends_on_nothing_but_the_clip(run: Run, tmp_path: Path) -> None:
    again = job(run, tmp_path)
    prepare_clip(again)
    assert again.video.read_bytes() == job(run).video.read_bytes()
    assert again.audio.read_bytes() == job(run).audio.read_bytes()


def test_frames_without_a_face_are_none_and_a_clip_without_one_fails(
    face_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "wall.mp4", np.full((5, 96, 128), 90, np.uint8))
    assert detect_landmarks(iter_video(tmp_path / "wall.mp4"), 25.0, face_model) == [None] * 5
    with pytest.raises(ValueError, match=r"wall\.mp4: no face in any of 5 frames"):
        prepare_clip(ClipJob("wall", tmp_path / "wall.mp4", tmp_path / "out", face_model, True, 12))
    assert not list(tmp_path.glob("out/**/*.mp4"))
    assert not list(tmp_path.glob("out/**/*.json"))
    assert capfd.readouterr().err == ""


def test_audio_alone_needs_no_face_model(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", np.zeros(10_001, np.float32))
    record = prepare_clip(ClipJob("a", tmp_path / "a.flac", tmp_path / "out", None, True, 12))
    assert (record.frames, record.seconds) == (0, 10_001 / 16_000)
    assert len(read_audio(tmp_path / "out" / "audio" / "a.flac")) == 10_001


def test_a_missing_source_is_reported_without_ending_the_run(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", np.zeros(1600, np.float32))
    sources = [SourceClip(name, tmp_path / f"{name}.flac", "text", "test") for name in ("b", "a")]
    report = prepare(sources, tmp_path / "out", PrepareOptions(progress=False))
    assert [clip.id for clip in read_manifest(report.manifest)] == ["a"]
    assert "b.flac: no such file" in report.failures[0].reason


def test_audio_is_cut_or_padded_at_its_end() -> None:
    np.testing.assert_array_equal(fit_length(np.ones(3, np.float32), 5), [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(fit_length(np.arange(5), 3), [0, 1, 2])


@pytest.mark.parametrize("ids", [("a", "a"), ("../a",), ("/a",), ("",)])
def test_ids_that_collide_or_leave_the_output_are_refused(tmp_path: Path, ids: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"clip 'a'|no path inside"):
        prepare([SourceClip(id, tmp_path / "x", "t", "test") for id in ids], tmp_path / "out", PrepareOptions())
