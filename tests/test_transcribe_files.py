"""Several files, long ones, and files that lack something."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers_checkpoint import random_audio, random_video, save_tiny_checkpoint, write_muxed

import omni_avsr
from omni_avsr.config import DraftConfig
from omni_avsr.encoders.ctc import BLANK, SPACE
from omni_avsr.media import NoFaceError, write_audio, write_video
from omni_avsr.mouth import video as mouth_video
from omni_avsr.pieces import cut_recording, say
from omni_avsr.recording import VideoOptions, read_recording
from omni_avsr.transcribe import Failure, TranscribeOptions, Transcriber
from omni_avsr.transcript import Transcript
from omni_avsr.types import Modality, Rates, Task
from omni_avsr.windows import join_words

RATES = Rates(2, 3)


def nobody(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose encoders carry CTC heads; short clips, a long one with a pause in it, and bad files."""
    folder = tmp_path_factory.mktemp("files")
    save_tiny_checkpoint(folder)
    for number, frames in enumerate((11, 5, 8)):
        write_muxed(folder / f"{number}.mkv", random_audio(frames, number), random_video(frames, number))
    write_audio(folder / "sound.wav", random_audio(9, 5))
    write_video(folder / "lips.mp4", random_video(9, 5), lossless=True)
    write_muxed(folder / "raw.mkv", random_audio(9, 5), random_video(9, 5, size=120))
    sound = random_audio(100, 7)
    sound[30 * 640 : 60 * 640] *= 0.001
    write_muxed(folder / "long.mkv", sound, random_video(100, 7))
    (folder / "broken.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42 and no more")
    (folder / "empty.wav").touch()
    return folder


@pytest.fixture(scope="module")
def transcriber(folder: Path) -> Transcriber:
    loaded = omni_avsr.load(folder / "checkpoint")
    for encoder in loaded.model.encoders.values():
        encoder.ctc.linear.bias.data[[BLANK, SPACE]] = -100.0  # untrained, it would write nothing else
    return loaded


def results(transcriber: Transcriber, folder: Path, *names: str, **settings: object) -> list[Transcript | Failure]:
    options = replace(TranscribeOptions(rates=RATES), **settings)
    return list(transcriber.run([folder / name for name in names], options))


def transcripts(found: list[Transcript | Failure]) -> list[Transcript]:
    assert all(isinstance(result, Transcript) for result in found), found
    return [result for result in found if isinstance(result, Transcript)]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_files_are_transcribed_in_their_order_as_if_alone(
    batch_size: int, transcriber: Transcriber, folder: Path
) -> None:
    names = ("0.mkv", "sound.wav", "1.mkv", "lips.mp4", "2.mkv")
    found = transcripts(results(transcriber, folder, *names, batch_size=batch_size))
    assert [Path(result.file).name for result in found] == list(names)
    for name, result in zip(names, found, strict=True):
        assert result.text == transcriber.transcribe(folder / name, result.task, RATES)
    assert len({result.text for result in found}) > 2


def test_auto_takes_what_a_file_has_and_says_so(transcriber: Transcriber, folder: Path) -> None:
    both, sound, lips = transcripts(results(transcriber, folder, "0.mkv", "sound.wav", "lips.mp4"))
    assert (both.task, both.notes) == (Task.AVSR, ())
    assert (sound.task, sound.notes) == (Task.ASR, ("no video stream: asr in place of avsr",))
    assert (lips.task, lips.notes) == (Task.VSR, ("no audio stream: vsr in place of avsr",))
    assert set(both.num_tokens) == {Modality.AUDIO, Modality.VIDEO}
    assert both.num_tokens[Modality.VIDEO] == 4  # 11 frames at rate 3


def test_bad_files_cost_only_themselves(transcriber: Transcriber, folder: Path) -> None:
    names = ("broken.mp4", "0.mkv", "empty.wav", "gone.mkv", "checkpoint/config.json", "1.mkv")
    found = results(transcriber, folder, *names)
    assert [type(result) for result in found] == [Failure, Transcript, Failure, Failure, Failure, Transcript]
    for name, result in zip(names, found, strict=True):
        if isinstance(result, Failure):
            assert Path(name).name in result.reason
    [lacking] = results(transcriber, folder, "sound.wav", task=Task.VSR)
    assert isinstance(lacking, Failure)
    assert lacking.reason.endswith("sound.wav has no video stream")


def test_without_a_face_auto_goes_on_by_sound_and_a_task_that_needs_one_fails(
    transcriber: Transcriber, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_face(path: Path, *_: object) -> tuple[np.ndarray, dict[str, float]]:
        raise NoFaceError(f"{path}: no face in any of 9 frames")

    monkeypatch.setattr(mouth_video, "crop_video", no_face)
    monkeypatch.setenv("OMNI_AVSR_FACE_MODEL", str(folder / "broken.mp4"))
    [heard] = transcripts(results(transcriber, folder, "raw.mkv"))
    assert heard.task is Task.ASR
    assert heard.text == transcriber.transcribe(folder / "sound.wav", "asr", RATES)
    assert heard.notes == (f"asr in place of avsr: {folder / 'raw.mkv'}: no face in any of 9 frames",)
    [failed] = results(transcriber, folder, "raw.mkv", task=Task.AVSR)
    assert failed == Failure(str(folder / "raw.mkv"), f"{folder / 'raw.mkv'}: no face in any of 9 frames")


@pytest.mark.parametrize("face", [None, 3])
def test_auto_passes_over_no_setting_that_is_wrong(
    face: int | None, transcriber: Transcriber, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a face model that does not exist, nor a face that was asked for and is not there."""

    def other_face(path: Path, *_: object) -> tuple[np.ndarray, dict[str, float]]:
        raise NoFaceError(f"{path}: there is no face 3")

    monkeypatch.setattr(mouth_video, "crop_video", other_face)
    gone = folder / ("gone.task" if face is None else "broken.mp4")
    [failed] = results(transcriber, folder, "raw.mkv", video=VideoOptions(face=face, face_model=gone))
    assert isinstance(failed, Failure)
    assert failed.reason.endswith("gone.task does not exist" if face is None else "there is no face 3")
    assert str(folder / "raw.mkv") in failed.reason


def test_a_loaded_models_face_model_is_used(
    transcriber: Transcriber, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def crop(path: Path, face_model: Path, *_: object) -> tuple[np.ndarray, dict[str, float]]:
        asked.append(face_model)
        return random_video(9, 5), {}

    monkeypatch.setattr(mouth_video, "crop_video", crop)
    given = replace(transcriber, face_model=folder / "broken.mp4")
    transcripts(results(given, folder, "raw.mkv"))
    assert asked == [folder / "broken.mp4"]


def test_what_goes_wrong_behind_reading_costs_only_its_file(
    transcriber: Transcriber, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip too short for an encoder breaks its batch, a library that gives up its reading."""
    write_muxed(tmp_path / "blink.mkv", random_audio(9, 1)[:100], random_video(9, 1))
    write_muxed(tmp_path / "odd.mkv", random_audio(9, 1), random_video(9, 1, size=120))

    def crop(*_: object) -> tuple[np.ndarray, dict[str, float]]:
        raise RuntimeError("the detector gave up")

    monkeypatch.setattr(mouth_video, "crop_video", crop)
    monkeypatch.setenv("OMNI_AVSR_FACE_MODEL", str(folder / "broken.mp4"))
    paths = [folder / "0.mkv", tmp_path / "blink.mkv", tmp_path / "odd.mkv", folder / "1.mkv"]
    found = list(transcriber.run(paths, TranscribeOptions(rates=RATES)))
    assert [type(result) for result in found] == [Transcript, Failure, Failure, Transcript]
    for path, result in zip(paths[1:3], found[1:3], strict=True):
        assert isinstance(result, Failure)
        assert result.reason.startswith(str(path))
    assert found[2] == Failure(str(paths[2]), f"{paths[2]}: the detector gave up")


def test_a_stream_that_ends_early_is_told_of(transcriber: Transcriber, folder: Path, tmp_path: Path) -> None:
    write_muxed(tmp_path / "uneven.mkv", random_audio(50, 1), random_video(25, 1))
    [result] = transcripts(list(transcriber.run([tmp_path / "uneven.mkv"], TranscribeOptions(rates=RATES))))
    assert result.notes == ("the video ends at 1.0 s of 2.0 s; what comes after it is left out of avsr",)


@pytest.mark.parametrize("window", [-5.0, 0.0, 0.02, float("nan"), float("inf")])
def test_a_window_that_holds_nothing_is_refused(window: float) -> None:
    with pytest.raises(ValueError, match=r"window must be at least 0\.5 s and finite"):
        TranscribeOptions(window=window)


def test_video_options_decide_what_is_a_crop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def crop(path: Path, face_model: Path, face: int | None, tell: object) -> tuple[np.ndarray, dict[str, float]]:
        asked.append(face)
        return random_video(9, 5), {}

    monkeypatch.setattr(mouth_video, "crop_video", crop)
    model = folder / "broken.mp4"
    tasks = tuple(Task)
    read_recording(folder / "lips.mp4", Task.VSR, tasks, VideoOptions(cropped=None))
    read_recording(folder / "lips.mp4", Task.VSR, tasks, VideoOptions(cropped=True))
    assert asked == []
    read_recording(folder / "lips.mp4", Task.VSR, tasks, VideoOptions(cropped=False, face_model=model))
    read_recording(folder / "raw.mkv", Task.VSR, tasks, VideoOptions(face=2, face_model=model))
    assert asked == [None, 2]
    with pytest.raises(ValueError, match=r"raw\.mkv: mouth crops are 96 x 96 pixels, this video is 120 x 120"):
        read_recording(folder / "raw.mkv", Task.VSR, tasks, VideoOptions(cropped=True))


@pytest.mark.parametrize("task", list(Task))
def test_a_long_file_is_the_sum_of_its_pieces(task: Task, transcriber: Transcriber, folder: Path) -> None:
    [result] = transcripts(results(transcriber, folder, "long.mkv", task=task, window=0.8))
    recording = read_recording(folder / "long.mkv", task, tuple(Task), VideoOptions())
    pieces = cut_recording(transcriber.model, recording, 0.8, nobody)
    assert len(pieces) > 3
    assert all(piece.seconds <= 0.8 + 1e-9 for piece in pieces)
    parts = [say(transcriber.model, [piece], RATES, 1, 64)[0] for piece in pieces]
    assert list(result.words) == join_words([(p.window, part.words) for p, part in zip(pieces, parts, strict=True)])
    assert result.seconds == 4.0
    assert result.num_tokens == {m: sum(part.num_tokens[m] for part in parts) for m in task.modalities}
    assert [word.text for word in result.words] == result.text.split()
    for piece, part in zip(pieces, parts, strict=True):
        start, end = piece.window.start, piece.window.end
        assert all(start - 1e-3 <= word.start <= word.end <= end + 0.05 for word in part.words)
    assert any(before.window.end > after.window.start for before, after in pairwise(pieces)), "none overlaps"


def test_long_work_is_told_of(transcriber: Transcriber, folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    options = TranscribeOptions(task=Task.ASR, rates=RATES, window=0.8, batch_size=2)
    list(transcriber.run([folder / "long.mkv"], options, lambda *step: told.append(step)))
    for what in ("finding pauses", "transcribing"):
        steps = [(done, total) for name, done, total in told if name == what]
        assert len(steps) > 1
        assert steps[-1][0] == steps[-1][1]
        assert steps == sorted(steps)


def test_a_checkpoint_tells_how_long_a_piece_may_be(transcriber: Transcriber, folder: Path) -> None:
    short = replace(transcriber, training={"longest_clip_seconds": 0.5})
    [result] = transcripts(results(short, folder, "long.mkv", task=Task.ASR))
    [windowed] = transcripts(results(transcriber, folder, "long.mkv", task=Task.ASR, window=0.6))
    [whole] = transcripts(results(transcriber, folder, "long.mkv", task=Task.ASR))
    assert result.text == windowed.text != whole.text


@pytest.fixture
def mute(tmp_path: Path) -> Transcriber:
    """Without CTC heads."""
    save_tiny_checkpoint(tmp_path, audio_encoder={"ctc": False}, video_encoder={"ctc": False})
    return omni_avsr.load(tmp_path / "checkpoint")


def test_without_a_ctc_head_pauses_are_heard_but_not_seen(mute: Transcriber, folder: Path) -> None:
    [heard] = transcripts(results(mute, folder, "long.mkv", window=1.5))
    assert heard.words == ()
    recording = read_recording(folder / "long.mkv", Task.AVSR, tuple(Task), VideoOptions())
    pieces = cut_recording(mute.model, recording, 1.5, nobody)
    assert not any(piece.window.start < 1.8 < piece.window.end for piece in pieces), (
        "the middle of the pause is in a piece"
    )
    [seen] = results(mute, folder, "long.mkv", task=Task.VSR, window=1.5)
    assert isinstance(seen, Failure)
    assert "without a CTC head it cannot find the pauses of a silent video" in seen.reason


def test_a_draft_changes_no_text_and_needs_a_ctc_head(
    transcriber: Transcriber, mute: Transcriber, folder: Path
) -> None:
    names = ("0.mkv", "sound.wav", "long.mkv")
    plain = transcripts(results(transcriber, folder, *names, window=1.5))
    assert transcripts(results(transcriber, folder, *names, window=1.5, draft=DraftConfig())) == plain
    assert transcriber.transcribe(folder / "0.mkv", rates=RATES, draft=DraftConfig()) == plain[0].text
    with pytest.raises(ValueError, match="no draft for asr"):
        results(mute, folder, "gone.mkv", task=Task.ASR, draft=DraftConfig())
    heard, missed = results(mute, folder, "lips.mp4", "0.mkv", draft=DraftConfig())
    assert [type(result) for result in (heard, missed)] == [Failure, Failure]
    assert "no draft for vsr" in heard.reason


def test_an_untrained_rate_is_an_error_before_any_file_is_read(transcriber: Transcriber) -> None:
    with pytest.raises(ValueError, match="video rate 2 was not trained"):
        list(transcriber.run(["gone.mkv"], TranscribeOptions(rates=Rates(2, 2))))
