"""One clip: what is written for it, what is recorded of it, and the reasons for which it is refused."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers_checkpoint import write_muxed

from data_prep.clip import fit_length, prepare_clip
from data_prep.clip_record import ClipJob, ClipRecord, ClipSettings, outcome
from data_prep.rejection import Problem, Reason
from omni_avsr import media
from omni_avsr.media import duration, read_audio, read_video, write_audio, write_video
from omni_avsr.mouth.video import FaceFinder


@pytest.fixture
def job(shared: Path, tmp_path: Path) -> ClipJob:
    """A real clip by the fast path."""
    settings = ClipSettings(shared / "models" / "face_landmarker.task", FaceFinder.DETECTOR)
    media = shared / "data" / "grid_unseen" / "s4_lwbsza.mp4"
    return ClipJob("s4/clip", media, tmp_path / "out", tmp_path / "scratch", settings, needs_video=True)


def audio_job(tmp_path: Path, samples: int = 10_001, **changes: Any) -> ClipJob:
    write_audio(tmp_path / "a.flac", np.zeros(samples, np.float32))
    return ClipJob("a", tmp_path / "a.flac", tmp_path / "out", tmp_path / "scratch", ClipSettings(**changes))


def remux(source: Path, target: Path, kinds: tuple[str, ...]) -> None:
    """Copy some streams into another container as they are."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        chosen = {stream: new.add_stream_from_template(stream) for stream in old.streams if stream.type in kinds}
        for packet in old.demux(*chosen):
            if packet.dts is not None:
                packet.stream = chosen[packet.stream]
                new.mux(packet)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_clip_becomes_crops_audio_and_a_record(job: ClipJob) -> None:
    record = prepare_clip(job)
    assert isinstance(record, ClipRecord)
    assert (record.frames, record.seconds, record.has_audio) == (75, 3.0, True)
    assert record.quality["detected"] == 1.0
    assert 60 < record.quality["face_size"] < 160
    assert read_video(job.video_file, grey=True).shape == (75, 96, 96)
    assert len(read_audio(job.audio_file)) == 75 * 640
    assert files(job.output) == ["audio/s4/clip.flac", "done/s4/clip.json", "video/s4/clip.mp4"]
    assert files(job.scratch) == []
    assert outcome(job) == record


def test_a_stretch_is_cut_out_of_sound_and_pictures_alike(job: ClipJob) -> None:
    whole = replace(job, id="whole", output=job.output / "whole")
    part = replace(job, span=(1.0, 2.2))
    prepare_clip(whole)
    record = prepare_clip(part)
    assert isinstance(record, ClipRecord)
    assert (record.frames, record.seconds) == (30, 1.2)
    np.testing.assert_array_equal(read_audio(part.audio_file), read_audio(whole.audio_file)[16_000:35_200])
    likeness = np.corrcoef(read_video(part.video_file)[8].ravel(), read_video(whole.video_file)[33].ravel())[0, 1]
    assert likeness > 0.98


def test_colour_crops_have_the_grey_ones_brightness(job: ClipJob) -> None:
    colour = replace(job, id="colour", settings=replace(job.settings, grey=False), span=(0.0, 0.4))
    grey = replace(job, span=(0.0, 0.4))
    prepare_clip(colour)
    prepare_clip(grey)
    frames = read_video(colour.video_file)
    assert np.ptp(frames.astype(int), axis=-1).mean() > 5, "these are no colours"
    difference = read_video(colour.video_file, grey=True).astype(int) - read_video(grey.video_file, grey=True)
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("finder", list(FaceFinder))
def test_the_result_depends_on_nothing_but_the_clip(job: ClipJob, tmp_path: Path, finder: FaceFinder) -> None:
    first = replace(job, settings=replace(job.settings, finder=finder), span=(0.0, 1.0))
    second = replace(first, output=tmp_path / "again")
    for each in (first, second):
        prepare_clip(each)
    assert first.video_file.read_bytes() == second.video_file.read_bytes()
    assert first.audio_file.read_bytes() == second.audio_file.read_bytes()
    assert first.record.read_bytes() == second.record.read_bytes()


@pytest.mark.parametrize("finder", list(FaceFinder))
def test_a_clip_without_a_face_is_refused_in_silence(
    job: ClipJob, tmp_path: Path, capfd: pytest.CaptureFixture[str], finder: FaceFinder
) -> None:
    write_muxed(tmp_path / "wall.mkv", np.zeros(3200), np.full((5, 96, 128, 3), 90, np.uint8))
    wall = replace(job, media=tmp_path / "wall.mkv", settings=replace(job.settings, finder=finder))
    problem = prepare_clip(wall)
    assert isinstance(problem, Problem)
    assert problem.reason is Reason.NO_FACE
    assert "wall.mkv: no face in any of" in problem.detail
    assert files(wall.output) == ["done/s4/clip.json"]
    assert outcome(wall) == problem
    assert capfd.readouterr().err == ""


def test_too_few_frames_with_the_face_are_refused(job: ClipJob, tmp_path: Path) -> None:
    """The face goes away after a third of the clip."""
    frames = read_video(job.media)[:45]
    frames[15:] = 90
    write_muxed(tmp_path / "gone.mkv", np.zeros(45 * 640), frames)
    gone = replace(job, media=tmp_path / "gone.mkv")
    problem = prepare_clip(gone)
    assert isinstance(problem, Problem)
    assert problem.reason is Reason.FEW_FACES
    assert "33% of its frames show the face, at least 50% must" in problem.detail
    record = prepare_clip(replace(gone, settings=replace(job.settings, min_detected=0.3)))
    assert isinstance(record, ClipRecord)
    assert record.quality["detected"] == pytest.approx(1 / 3, abs=0.01)


def test_audio_alone_needs_no_face_model(tmp_path: Path) -> None:
    job = audio_job(tmp_path)
    record = prepare_clip(job)
    assert record == ClipRecord(0, 10_001 / 16_000, True, {})
    assert len(read_audio(job.audio_file)) == 10_001


def test_sound_in_a_file_of_its_own(job: ClipJob, tmp_path: Path) -> None:
    silent = tmp_path / "silent.mkv"
    remux(job.media, silent, ("video",))
    write_audio(tmp_path / "sound.wav", np.full(80_000, 0.25, np.float32))
    two_files = replace(job, media=silent, audio=tmp_path / "sound.wav", span=(0.0, 0.4))
    assert isinstance(prepare_clip(two_files), ClipRecord)
    np.testing.assert_allclose(read_audio(two_files.audio_file), 0.25)
    problem = prepare_clip(replace(job, media=silent, span=(0.0, 0.4)))
    assert problem == Problem(Reason.NO_AUDIO, f"{silent}: the file has no audio stream")


def refused(job: ClipJob) -> Reason:
    problem = prepare_clip(job)
    assert isinstance(problem, Problem), problem
    assert str(job.media) in problem.detail
    return problem.reason


def test_each_kind_of_bad_file_has_its_reason(tmp_path: Path) -> None:
    job = audio_job(tmp_path)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video" * 100)
    write_video(tmp_path / "silent.mp4", np.zeros((3, 32, 32), np.uint8))
    assert refused(replace(job, media=tmp_path / "gone.mp4")) is Reason.MISSING_FILE
    assert refused(replace(job, media=tmp_path / "empty.mp4")) is Reason.CORRUPT
    assert refused(replace(job, media=tmp_path / "text.mp4")) is Reason.CORRUPT
    assert refused(replace(job, media=tmp_path / "silent.mp4")) is Reason.NO_AUDIO
    assert refused(replace(job, needs_video=True)) is Reason.NO_VIDEO
    assert refused(replace(job, settings=ClipSettings(max_seconds=0.5))) is Reason.TOO_LARGE
    assert refused(replace(job, settings=ClipSettings(max_megabytes=1e-5))) is Reason.TOO_LARGE
    assert refused(replace(job, span=(3.0, 4.0))) is Reason.CORRUPT


def test_video_without_a_face_model_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", np.zeros((3, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="has video, but no face model was given"):
        prepare_clip(replace(audio_job(tmp_path), media=tmp_path / "v.mp4", needs_audio=False))


def test_a_record_of_other_settings_or_another_file_is_none(tmp_path: Path) -> None:
    job = audio_job(tmp_path)
    record = prepare_clip(job)
    assert outcome(job) == record
    assert outcome(replace(job, settings=ClipSettings(lossless=False))) is None
    assert outcome(replace(job, needs_audio=False)) is None
    assert outcome(replace(job, span=(0.0, 0.1))) is None
    text = job.record.read_text()
    for unusable in ("", text[:20], "{}", "[]", json.dumps({**json.loads(text), "clip": {}})):
        job.record.write_text(unusable)
        assert outcome(job) is None
    job.record.write_text(text)
    write_audio(tmp_path / "a.flac", np.ones(20_000, np.float32))
    assert outcome(job) is None


def test_a_clip_that_went_bad_leaves_nothing_of_its_good_days(tmp_path: Path) -> None:
    job = audio_job(tmp_path)
    prepare_clip(job)
    job.media.write_bytes(b"broken")
    assert refused(job) is Reason.CORRUPT
    assert files(job.output) == ["done/a.json"]


def test_audio_is_cut_or_padded_at_its_end() -> None:
    np.testing.assert_array_equal(fit_length(np.ones(3, np.float32), 5), [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(fit_length(np.arange(5), 3), [0, 1, 2])


def test_limits_are_applied_anew_and_make_no_clip_anew(tmp_path: Path) -> None:
    """A clip that passed is rejected by stricter ones and comes back by milder ones; what failed is tried again."""
    job = audio_job(tmp_path)
    record = prepare_clip(job)
    strict = replace(job, settings=ClipSettings(max_seconds=0.5))
    judged = outcome(strict)
    assert isinstance(judged, Problem)
    assert judged.reason is Reason.TOO_LARGE
    assert outcome(replace(job, settings=ClipSettings(max_seconds=100, max_megabytes=1, crf=30))) == record
    failed = prepare_clip(replace(strict, id="b"))
    assert outcome(replace(strict, id="b")) == failed
    assert outcome(replace(job, id="b")) is None


def test_a_file_that_keeps_its_size_and_changes_is_noticed(tmp_path: Path) -> None:
    job = audio_job(tmp_path)
    prepare_clip(job)
    os.utime(job.media, (1, 1))
    assert outcome(job) is None


def test_another_face_model_makes_clips_anew(tmp_path: Path) -> None:
    model = tmp_path / "face.task"
    model.write_bytes(b"one")
    job = replace(audio_job(tmp_path), settings=ClipSettings(face_model=model))
    record = prepare_clip(job)
    assert outcome(job) == record
    model.write_bytes(b"two")
    os.utime(model, (1, 1))
    assert outcome(job) is None


def test_a_file_that_ends_before_its_header_says_is_refused(job: ClipJob, tmp_path: Path) -> None:
    remux(job.media, tmp_path / "whole.mkv", ("video", "audio"))
    assert isinstance(prepare_clip(replace(job, media=tmp_path / "whole.mkv")), ClipRecord)
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(data[: len(data) // 2])
    problem = prepare_clip(replace(job, media=tmp_path / "half.mkv"))
    assert isinstance(problem, Problem)
    assert problem.reason is Reason.CUT_OFF
    assert "of 3.0 s by its header" in problem.detail


def test_a_clip_that_ends_before_its_last_word_is_refused(tmp_path: Path) -> None:
    job = replace(audio_job(tmp_path, 16_000), last_word=1.2)
    assert refused(job) is Reason.CUT_OFF
    assert isinstance(prepare_clip(replace(job, last_word=0.9)), ClipRecord)


def test_sound_and_pictures_that_are_not_equally_long_are_refused(job: ClipJob, tmp_path: Path) -> None:
    write_muxed(tmp_path / "long.mkv", np.zeros(75 * 640), read_video(job.media)[:25])
    problem = prepare_clip(replace(job, media=tmp_path / "long.mkv"))
    assert isinstance(problem, Problem)
    assert problem.reason is Reason.UNEVEN
    assert "3.0 s of sound and 1.0 s of pictures" in problem.detail
    kept = prepare_clip(replace(job, media=tmp_path / "long.mkv", settings=replace(job.settings, max_uneven=5.0)))
    assert isinstance(kept, ClipRecord)
    assert kept.seconds == 1.0


def test_a_file_without_a_length_in_its_header_is_not_decoded_beyond_the_limit(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", np.zeros(160_000, np.float32))
    data = bytearray((tmp_path / "a.flac").read_bytes())
    # The total of samples stands in the last 36 bits before the checksum of the stream's info; 0 is "not known".
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "endless.flac").write_bytes(data)
    assert duration(tmp_path / "endless.flac") == 0
    job = replace(audio_job(tmp_path, max_seconds=2.0), media=tmp_path / "endless.flac")
    problem = prepare_clip(job)
    assert problem == Problem(Reason.TOO_LARGE, f"{job.media}: the audio is longer than 2 s (max_seconds)")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_what_the_machine_is_short_of_is_not_held_against_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def busy(*_: Any) -> None:
        raise OSError(number, "short of something")

    job = audio_job(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(media.av, "open", busy)
        assert refused(job) is Reason.FAILED
    assert outcome(job) is None
    assert isinstance(prepare_clip(job), ClipRecord)
