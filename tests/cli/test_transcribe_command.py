"""The command ``omni-avsr transcribe``: what it prints and writes, its status, and that it starts light."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers_checkpoint import TRAINING, random_audio, random_video, save_tiny_checkpoint, write_muxed

import omni_avsr
from omni_avsr.cli.main import main
from omni_avsr.media import write_audio

HEAVY = ("lightning", "pytorch_lightning", "hydra", "omegaconf", "mediapipe", "torchvision", "jiwer", "matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transcribe_command")
    save_tiny_checkpoint(folder)
    write_muxed(folder / "both.mkv", random_audio(11, 1), random_video(11, 1))
    write_audio(folder / "sound.wav", random_audio(9, 2))
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "other").mkdir()
    write_audio(folder / "other" / "sound.wav", random_audio(9, 3))
    return folder


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs the command in this process, in ``folder``."""

    def run(*arguments: str) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "1000")
        monkeypatch.setattr(sys, "argv", ["omni-avsr", "transcribe", "--checkpoint", "checkpoint", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        output = capsys.readouterr()
        status, message = (stop.value.code, "") if isinstance(stop.value.code, int) else (1, str(stop.value.code))
        return Done(status, output.out, output.err + message)

    return run


def test_it_starts_without_the_libraries_of_the_extras(folder: Path, call: Callable[..., Done]) -> None:
    """They are made impossible to import, in the installed console script."""
    script = Path(sysconfig.get_path("scripts")) / "omni-avsr"
    start = (
        f"import runpy, sys; sys.argv = sys.argv[1:]; sys.modules.update(dict.fromkeys({HEAVY!r})); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = ("both.mkv", "--task", "vsr")
    command = [sys.executable, "-c", start, script, "transcribe", "--checkpoint", "checkpoint", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == call(*arguments).stdout != ""


def test_all_that_can_be_done_is_done_and_the_status_tells_of_the_rest(folder: Path, call: Callable[..., Done]) -> None:
    done = call("both.mkv", "broken.mp4", "sound.wav", "gone.wav", "--audio-rate", "5")
    assert done.returncode == 1
    model = omni_avsr.load(folder / "checkpoint")
    assert done.stdout.splitlines() == [
        f"both.mkv: {model.transcribe(folder / 'both.mkv', 'avsr', (5, 1))}",
        f"sound.wav: {model.transcribe(folder / 'sound.wav', 'asr', (5, 1))}",
    ]
    errors = done.stderr.splitlines()
    assert f"training domain of this checkpoint: {TRAINING['domain']}" in errors
    assert "sound.wav: no video stream: asr in place of avsr" in errors
    assert [line.split(":")[:2] for line in errors if line.startswith("error")] == [
        ["error", " broken.mp4"],
        ["error", " gone.wav"],
    ]
    assert "Traceback" not in done.stderr


def test_a_draft_changes_the_work_and_not_the_text(call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = call("both.mkv", "sound.wav")
    monkeypatch.setattr("omni_avsr.model.ctc_drafts", lambda *_: ["what was heard"])
    assert call("both.mkv", "sound.wav", "--draft").stdout == plain.stdout
    believed = call("both.mkv", "sound.wav", "--draft-threshold", "1e-9")
    assert believed.stdout.splitlines() == ["both.mkv: what was heard", "sound.wav: what was heard"]


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_and_merged_model_transcribes(kind: str, folder: Path, call: Callable[..., Done]) -> None:
    done = call("sound.wav", "both.mkv", "--quantize", kind, "--merge", "--task", "asr")
    assert done.returncode == 0, done.stderr
    model = omni_avsr.load(folder / "checkpoint", quantization=kind, merged_task="asr")
    assert model.model.config.llm.quantization == kind
    texts = [model.transcribe(folder / name, "asr", (2, 1)) for name in ("sound.wav", "both.mkv")]
    assert done.stdout.splitlines() == [f"sound.wav: {texts[0]}", f"both.mkv: {texts[1]}"]


def test_json_subtitles_and_text_go_to_files(call: Callable[..., Done], tmp_path: Path) -> None:
    for form, suffix in (("json", ".json"), ("srt", ".srt"), ("vtt", ".vtt"), ("text", ".txt")):
        done = call("both.mkv", "sound.wav", "--format", form, "--output", str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert (tmp_path / f"both{suffix}").is_file()
        assert (tmp_path / f"sound{suffix}").is_file()
    record = json.loads((tmp_path / "both.json").read_text())
    assert record["task"] == "avsr"
    assert record["text"] + "\n" == (tmp_path / "both.txt").read_text()
    assert [word["text"] for word in record["words"]] == record["text"].split()
    assert "-->" in (tmp_path / "sound.srt").read_text()
    assert (tmp_path / "sound.vtt").read_text().startswith("WEBVTT\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["both.mkv", "--audio-rate", "3"], 1, r"audio rate 3 was not trained; choose one of [2, 5]"),
        (["both.mkv", "--draft", "--beams", "2"], 1, "a draft serves greedy search, not 2 beams"),
        (["both.mkv", "--draft-threshold", "2"], 1, "--draft.threshold: Input should be less than 1"),
        (["both.mkv", "--checkpoint", "other"], 1, "is no checkpoint"),
        (["both.mkv", "--device", "cuda:7"], 1, "device cuda:7 cannot be used"),
        (["both.mkv", "sound.wav", "--format", "srt"], 1, "--output FOLDER"),
        (["sound.wav", "other/sound.wav", "--output", "out"], 1, "several files are named sound"),
        (["both.mkv", "--merge"], 1, "choose it with --task asr|vsr|avsr"),
        (["both.mkv", "--quantize", "int3"], 2, "invalid choice: 'int3'"),
        (["both.mkv", "--task", "lips"], 2, "invalid choice: 'lips'"),
        (["both.mkv", "--batch-size", "0"], 2, "must be at least 1, got 0"),
        (["both.mkv", "--face", "-1"], 2, "must not be negative, got -1"),
        ([], 2, "required: FILE"),
    ],
)
def test_bad_arguments_are_one_clear_message(
    arguments: list[str], status: int, message: str, call: Callable[..., Done]
) -> None:
    done = call(*arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_transcripts_go_to_standard_output_beside_a_bar_on_the_terminal(
    folder: Path, call: Callable[..., Done]
) -> None:
    """As in `omni-avsr transcribe FILE > out.txt`, where standard error is a terminal."""
    pty = pytest.importorskip("pty", reason="a system without pseudo-terminals")
    main_end, terminal = pty.openpty()
    script = Path(sysconfig.get_path("scripts")) / "omni-avsr"
    arguments = ["both.mkv", "sound.wav", "--format", "json"]
    command = [sys.executable, str(script), "transcribe", "--checkpoint", "checkpoint", *arguments]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=terminal, text=True, check=False)
    os.close(terminal)
    shown = os.read(main_end, 1 << 16).decode()
    os.close(main_end)
    assert done.returncode == 0, shown
    assert done.stdout == call(*arguments).stdout
    assert "training domain" in shown
