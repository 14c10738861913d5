"""Transcribing files from Python: the same text as by hand, clear errors, and no heavy import."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_checkpoint import TRAINING, random_audio, random_video, save_tiny_checkpoint, write_muxed

import omni_avsr
from omni_avsr.features import prepare_video, prepare_waveform
from omni_avsr.media import read_audio, write_audio, write_video
from omni_avsr.model import OmniAVSR
from omni_avsr.mouth import video as mouth_video
from omni_avsr.transcribe import Transcriber
from omni_avsr.types import Features, Modality, Rates, Task

FRAMES = 11
HEAVY = ("lightning", "pytorch_lightning", "hydra", "omegaconf", "mediapipe", "torchvision", "jiwer", "matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with clips beside it: clip.wav, clip.mp4 (mouth crops) and clip.mkv (both in one file)."""
    folder = tmp_path_factory.mktemp("transcribe")
    save_tiny_checkpoint(folder)
    samples, frames = random_audio(FRAMES, 1), random_video(FRAMES, 1)
    write_audio(folder / "clip.wav", samples)
    write_video(folder / "clip.mp4", frames, lossless=True)
    write_muxed(folder / "clip.mkv", samples, frames)
    return folder


@pytest.fixture(scope="module")
def transcriber(folder: Path) -> Transcriber:
    return omni_avsr.load(folder / "checkpoint")


def expected(model: OmniAVSR, folder: Path, task: Task, rates: Rates, num_beams: int = 1) -> str:
    """The text of ``clip``, part by part."""
    waveform = prepare_waveform(torch.from_numpy(read_audio(folder / "clip.wav")), "raw")
    video = prepare_video(torch.from_numpy(random_video(FRAMES, 1)))
    values = {Modality.AUDIO: waveform, Modality.VIDEO: video}
    features = model.encode({modality: Features.pad([values[modality]]) for modality in task.modalities})
    return model.generate(features, task, rates, num_beams, max_new_tokens=64)[0]


@pytest.mark.parametrize(
    ("file", "task"),
    [
        ("clip.wav", Task.ASR),
        ("clip.mp4", Task.VSR),
        ("clip.mkv", Task.ASR),
        ("clip.mkv", Task.VSR),
        ("clip.mkv", Task.AVSR),
    ],
)
def test_a_file_gives_the_text_of_its_streams(file: str, task: Task, transcriber: Transcriber, folder: Path) -> None:
    texts = []
    for rates in ((2, 1), (2, 3), (5, 1), (5, 3)):
        texts.append(transcriber.transcribe(folder / file, task=task.value, rates=rates))
        assert texts[-1] == expected(transcriber.model, folder, task, Rates(*rates)), rates
    assert len(set(texts)) > 1, "the rates make no difference, so equal texts show nothing"


def test_task_rates_and_beams_have_defaults_and_other_spellings(transcriber: Transcriber, folder: Path) -> None:
    text = transcriber.transcribe(str(folder / "clip.mkv"))
    assert text == transcriber.transcribe(folder / "clip.mkv", Task.AVSR, Rates(2, 1), num_beams=1)
    assert transcriber.transcribe(folder / "clip.mkv", num_beams=3) == expected(
        transcriber.model, folder, Task.AVSR, Rates(2, 1), num_beams=3
    )
    assert len(transcriber.transcribe(folder / "clip.wav", "asr", max_new_tokens=2)) <= 2


def test_the_default_rates_are_the_lowest_whatever_their_order(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path, compression={"audio_rates": [5, 2], "video_rates": [3, 1]})
    assert omni_avsr.load(str(tmp_path / "checkpoint")).default_rates == Rates(2, 1)


def test_a_loaded_model_knows_its_training_domain(transcriber: Transcriber) -> None:
    assert transcriber.training == TRAINING


def test_other_frames_than_mouth_crops_go_through_the_face_finder(
    transcriber: Transcriber, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_muxed(tmp_path / "raw.mkv", random_audio(FRAMES, 1), random_video(FRAMES, 1, size=120))
    monkeypatch.setenv("OMNI_AVSR_FACE_MODEL", str(tmp_path / "none.task"))
    with pytest.raises(ValueError, match=r"face model .*none\.task does not exist"):
        transcriber.transcribe(tmp_path / "raw.mkv", "vsr")
    (tmp_path / "face.task").touch()
    asked = []

    def crop(path: Path, face_model: Path, face: int | None, tell: object) -> tuple[np.ndarray, dict[str, float]]:
        asked.append((path, face_model, face))
        return random_video(FRAMES, 1), {}

    monkeypatch.setattr(mouth_video, "crop_video", crop)
    with_face = Transcriber(transcriber.model, {}, tmp_path / "face.task")
    assert with_face.transcribe(tmp_path / "raw.mkv", "avsr", (2, 3)) == expected(
        transcriber.model, folder, Task.AVSR, Rates(2, 3)
    )
    assert asked == [(tmp_path / "raw.mkv", tmp_path / "face.task", None)]


@pytest.mark.parametrize(
    ("file", "task", "rates", "message"),
    [
        ("clip.mp4", "asr", None, r"clip\.mp4 has no audio stream"),
        ("clip.mp4", "avsr", None, r"clip\.mp4 has no audio stream"),
        ("clip.wav", "vsr", None, r"clip\.wav has no video stream"),
        ("clip.wav", "avsr", None, r"clip\.wav has no video stream"),
        ("clip.mkv", "avsr", (4, 1), r"audio rate 4 was not trained; choose one of \[2, 5\]"),
        ("clip.mkv", "vsr", (2, 2), r"video rate 2 was not trained; choose one of \[1, 3\]"),
        ("gone.wav", "asr", None, r"gone\.wav: no such file"),
        ("checkpoint/config.json", "asr", None, r"config\.json: not a readable media file"),
        ("clip.wav", "lips", None, "'lips' is not a valid Task"),
    ],
)
def test_what_cannot_be_transcribed_is_a_clear_error(
    file: str, task: str, rates: tuple[int, int] | None, message: str, transcriber: Transcriber, folder: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        transcriber.transcribe(folder / file, task, rates)


def test_raw_video_without_mediapipe_says_what_to_install(
    transcriber: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_muxed(tmp_path / "raw.mkv", random_audio(FRAMES, 1), random_video(FRAMES, 1, size=120))
    monkeypatch.setitem(sys.modules, "omni_avsr.mouth.video", None)
    with pytest.raises(ValueError, match=r"raw\.mkv is no video of mouth crops \(96 x 96\), .*omni-avsr\[prepare\]"):
        transcriber.transcribe(tmp_path / "raw.mkv", "vsr")


def test_a_model_that_cannot_see_says_so(folder: Path, tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path, video_encoder=None)
    hearing = omni_avsr.load(tmp_path / "checkpoint")
    assert hearing.transcribe(folder / "clip.mkv", "asr", (2, 1)) != ""
    with pytest.raises(ValueError, match="this model is for asr, not for avsr"):
        hearing.transcribe(folder / "clip.mkv")


def test_a_folder_that_is_no_checkpoint_is_a_clear_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="is no checkpoint"):
        omni_avsr.load(folder)


def test_transcribing_imports_nothing_that_it_does_not_need(folder: Path) -> None:
    """Of a wav and of mouth crops. (transformers by itself imports a torchvision that it finds.)"""
    code = (
        "import sys, omni_avsr; model = omni_avsr.load(sys.argv[1]); "
        "print([model.transcribe(file, task, (2, 3)) for file, task in zip(sys.argv[2:], ('asr', 'vsr'))]); "
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, folder / "checkpoint", folder / "clip.wav", folder / "clip.mp4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    texts, modules = done.stdout.splitlines()[-2:]
    assert texts == str(
        [
            omni_avsr.load(folder / "checkpoint").transcribe(folder / "clip.wav", "asr", (2, 3)),
            omni_avsr.load(folder / "checkpoint").transcribe(folder / "clip.mp4", "vsr", (2, 3)),
        ]
    )
    found = {name.partition(".")[0] for name in modules.split()}
    assert {"torch", "transformers", "peft", "av"} <= found
    needless = {*HEAVY, "onnxruntime", "onnx", "onnxscript", "gradio", "jiwer", "tensorboard", "cv2"} - {"torchvision"}
    assert not found & needless


def test_loading_and_transcribing_need_no_library_of_the_extras(folder: Path) -> None:
    """They are made impossible to import."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[3:])); import omni_avsr; "
        "print(repr(omni_avsr.load(sys.argv[1]).transcribe(sys.argv[2], task='avsr', rates=(2, 3))))"
    )
    command = [sys.executable, "-c", code, folder / "checkpoint", folder / "clip.mkv", *HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    text = omni_avsr.load(folder / "checkpoint").transcribe(folder / "clip.mkv", "avsr", (2, 3))
    assert done.stdout.splitlines()[-1] == repr(text)
