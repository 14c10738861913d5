"""A checkpoint's export: its folder, its projectors, and transcribing with it as without."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_checkpoint import random_audio, random_video, write_muxed
from helpers_model import tiny_model

import omni_avsr
import omni_avsr.export
from omni_avsr.checkpoint import checkpoint_sha256, save_checkpoint
from omni_avsr.cli.main import main
from omni_avsr.encoders.exported import read_manifest, run_graph, start_session
from omni_avsr.export import export_checkpoint, export_tokens
from omni_avsr.transcribe import TranscribeOptions, Transcriber
from omni_avsr.transcript import Transcript
from omni_avsr.types import Features, Modality, Rates, Task

FRAMES = 11
BRIDGE = {"kind": "bridgeformer", "hidden_dim": 8, "num_layers": 2, "num_heads": 2, "ffn_dim": 16}
MODEL = {"audio": "whisper_trimmed", "compression": {"audio_rates": [2], "video_rates": [3]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its export and a clip of sound and mouth crops beside it."""
    folder = tmp_path_factory.mktemp("export")
    save_checkpoint(folder / "checkpoint", tiny_model(folder, **MODEL), {}, {})
    export_checkpoint(folder / "checkpoint", folder / "exported")
    write_muxed(folder / "clip.mkv", random_audio(FRAMES, 1), random_video(FRAMES, 1))
    return folder


@pytest.fixture(scope="module")
def printed(folder: Path) -> list[str]:
    """What the command says while it writes a quantised export beside the other."""
    arguments = ["export-onnx", "--checkpoint", str(folder / "checkpoint"), "--output", str(folder / "small")]
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(sys, "argv", ["omni-avsr", *arguments, "--quantize", "int8"])
        main()
    return output.getvalue().splitlines()


def transcripts(transcriber: Transcriber, folder: Path) -> list[Transcript]:
    found = [t for task in Task for t in transcriber.run([folder / "clip.mkv"], TranscribeOptions(task))]
    assert all(isinstance(transcript, Transcript) for transcript in found)
    return [transcript for transcript in found if isinstance(transcript, Transcript)]


def test_the_folder_says_what_is_in_it(folder: Path) -> None:
    values = json.loads((folder / "exported" / "manifest.json").read_text())
    assert values["checkpoint_sha256"] == checkpoint_sha256(folder / "checkpoint")
    assert (values["format_version"], values["opset"], values["quantization"]) == (1, 20, "none")
    manifest = read_manifest(folder / "exported")
    files = {"manifest.json"}
    for modality, parts in manifest.parts.items():
        assert parts.tokens.keys() == {{"audio": 2, "video": 3}[modality]}
        for graph in (parts.encoder, parts.ctc, *parts.tokens.values()):
            if graph is not None:
                files.add(graph.file)
                assert graph.max_error < 1e-4
                session = start_session(folder / "exported" / graph.file)
                for port, [found] in ((graph.input, session.get_inputs()), (graph.output, session.get_outputs())):
                    assert found.name == port.name
                    assert len(found.shape) == len(port.shape)
                    assert [size for size in found.shape if isinstance(size, int)] == [
                        size for size in port.shape if isinstance(size, int)
                    ]
    assert {path.name for path in (folder / "exported").iterdir()} == files


def test_transcribing_gives_the_same_texts_and_times(folder: Path) -> None:
    own = omni_avsr.load(folder / "checkpoint")
    exported = omni_avsr.load(folder / "checkpoint", encoders=folder / "exported")
    assert transcripts(exported, folder) == transcripts(own, folder)


def test_torchs_encoders_are_not_there(folder: Path) -> None:
    exported = omni_avsr.load(folder / "checkpoint", encoders=folder / "exported").model
    names = {name for name in exported.state_dict() if name.startswith("encoders.")}
    assert names == {"encoders.video.ctc.linear.weight", "encoders.video.ctc.linear.bias"}


def test_the_base_models_of_the_encoders_need_not_be_there(folder: Path, tmp_path: Path) -> None:
    """A device that transcribes has the export in their place."""
    (folder / "whisper").rename(tmp_path / "away")
    try:
        with pytest.raises(ValueError, match="whisper"):
            omni_avsr.load(folder / "checkpoint")
        assert transcripts(omni_avsr.load(folder / "checkpoint", encoders=folder / "exported"), folder)
    finally:
        (tmp_path / "away").rename(folder / "whisper")


@pytest.mark.usefixtures("printed")
def test_quantised_files_are_smaller_and_transcribe(folder: Path) -> None:
    manifest = read_manifest(folder / "small")
    assert manifest.quantization == "int8"
    for parts in manifest.parts.values():
        assert 0 < parts.encoder.max_error < 0.3
        assert all(graph.max_error < 0.1 for graph in parts.tokens.values())
    sizes = [(folder / name / "audio_encoder.onnx").stat().st_size for name in ("small", "exported")]
    assert sizes[0] < sizes[1]
    transcripts(omni_avsr.load(folder / "checkpoint", encoders=folder / "small"), folder)


def test_the_export_of_another_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", tiny_model(tmp_path, **MODEL, adapters={"rank": 3}), {}, {})
    with pytest.raises(ValueError, match=r"was exported from a checkpoint with sha256 .*; export it again"):
        omni_avsr.load(tmp_path / "checkpoint", encoders=folder / "exported")


def test_a_model_with_exported_encoders_cannot_be_saved(folder: Path, tmp_path: Path) -> None:
    exported = omni_avsr.load(folder / "checkpoint", encoders=folder / "exported")
    with pytest.raises(ValueError, match="does not hold their weights; load it without"):
        exported.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_without_onnxruntime_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"needs onnxruntime .*pip install 'omni-avsr\[runtime\]'"):
        omni_avsr.load(folder / "checkpoint", encoders=folder / "exported")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"holds no exported encoders: it has no manifest\.json"),
        ("{", "is not JSON"),
        ('{"format_version": 9}', "has format version 9, this release reads 1"),
        ('{"format_version": 1}', r"manifest\.opset: Field required"),
    ],
)
def test_a_folder_that_is_no_export_is_a_clear_error(
    content: str | None, message: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("mine")
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        omni_avsr.load(folder / "checkpoint", encoders=tmp_path)
    with pytest.raises(ValueError, match=f"{message}.*; choose another folder|{message}(.|\n)*; choose another folder"):
        export_checkpoint(folder / "checkpoint", tmp_path)
    assert (tmp_path / "other.txt").read_text() == "mine"


def test_an_export_is_replaced_whole_or_not_at_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "exported"
    shutil.copytree(folder / "exported", target)
    (target / "README.md").write_text("mine")
    (target / "audio_tokens_7.onnx").touch()
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def fail(*arguments: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(omni_avsr.export, "checkpoint_sha256", fail)
        # A stand-in for the graphs: the folder is what this is about.
        patch.setattr(omni_avsr.export, "export_parts", lambda model, modality, folder, quantization: None)
        with pytest.raises(OSError, match="no space"):
            export_checkpoint(folder / "checkpoint", target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]
    parts = read_manifest(folder / "exported").parts
    monkeypatch.setattr(omni_avsr.export, "export_parts", lambda model, modality, folder, quantization: parts[modality])
    export_checkpoint(folder / "checkpoint", target)
    # What an earlier export wrote is gone, and what somebody put beside it is there.
    assert {path.name for path in target.iterdir()} == {"manifest.json", "README.md"}


def test_the_command_says_how_large_and_how_far_off_a_graph_is(printed: list[str]) -> None:
    assert [line.split(":")[0] for line in printed] == [
        "audio_encoder.onnx",
        "audio_tokens_2.onnx",
        "video_encoder.onnx",
        "video_ctc.onnx",
        "video_tokens_3.onnx",
    ]
    assert all("MB, at most" in line for line in printed)


def test_the_command_refuses_a_folder_of_other_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = str(folder / "checkpoint")
    monkeypatch.setattr(sys, "argv", ["omni-avsr", "export-onnx", "--checkpoint", checkpoint, "--output", checkpoint])
    with pytest.raises(SystemExit, match=r"^omni-avsr export-onnx: .*no manifest\.json"):
        main()


def test_the_command_transcribes_with_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for more in ([], ["--encoders", str(folder / "exported")]):
        arguments = ["transcribe", str(folder / "clip.mkv"), "--checkpoint", str(folder / "checkpoint"), *more]
        monkeypatch.setattr(sys, "argv", ["omni-avsr", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize(
    "settings",
    [
        {"compression": {"audio_rates": [2, 5]}},
        {"compression": {"mode": "stack", "audio_rates": [3]}, "projector": {"layer_norm": False}},
        {"compression": {"mode": "average", "tail": "drop", "audio_rates": [3]}},
        {"compression": {"mode": "stack", "tail": "drop", "audio_rates": [3]}},
        {"compression": {"audio_rates": [2]}, "projector": BRIDGE | {"num_tokens": 4}},
        {"compression": {"audio_rates": [2]}, "projector": BRIDGE | {"num_tokens": None}},
    ],
    ids=["average", "stack", "average, dropped tail", "stack, dropped tail", "bridgeformer", "bridgeformer, unpooled"],
)
@torch.no_grad()
def test_tokens_are_torchs_at_every_rate(settings: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(tmp_path, audio="compact_audio", video_encoder=None, **settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    features = [torch.randn(1, n, 16, generator=torch.Generator().manual_seed(n)) for n in (7, 5, 6, 13, 90)]
    for rate in model.config.compression.audio_rates:
        graph = export_tokens(model, Modality.AUDIO, rate, features[:1], tmp_path)
        session = start_session(tmp_path / graph.file)
        for values in features:
            expected = model.tokens({Modality.AUDIO: Features.whole(values)}, Task.ASR, Rates(rate, 1))[Modality.AUDIO]
            found = run_graph(session, graph, values)
            torch.testing.assert_close(found, expected.values, atol=1e-4, rtol=0)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.slow
@pytest.mark.usefixtures("real_models")
def test_the_checkpoint_of_experiment_001_says_the_same(shared: Path, tmp_path: Path) -> None:
    """A few raw clips of GRID, whose mouths are found first."""
    checkpoint = Path(__file__).resolve().parents[1] / "experiments" / "001-grid-s1" / "checkpoint"
    export_checkpoint(checkpoint, tmp_path / "exported")
    files = sorted((shared / "data" / "grid" / "s1").glob("*.mp*"))[:3]
    assert files
    texts = []
    for encoders in (None, tmp_path / "exported"):
        transcriber = omni_avsr.load(checkpoint, encoders=encoders)
        texts.append([transcriber.transcribe(file, task, (4, 2)) for task in ("asr", "avsr") for file in files])
    assert texts[0] == texts[1]
    assert all(text.split() for text in texts[0])
