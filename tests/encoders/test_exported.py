"""Exported encoders give the features of torch's, for clips of any length, alone and in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers_model import SELF_SUPERVISED, save_tiny_self_supervised, save_tiny_whisper
from torch import Tensor

import omni_avsr.export
from omni_avsr.config import (
    AnyEncoderConfig,
    AVHubertConfig,
    CompactAudioConfig,
    CompactVideoConfig,
    LoRAConfig,
    SelfSupervisedConfig,
    WhisperConfig,
)
from omni_avsr.encoders.build import SpeechEncoder, build_encoder
from omni_avsr.encoders.exported import ExportedEncoder, ExportedParts, run_graph, start_session
from omni_avsr.encoders.lora import merge_lora
from omni_avsr.export import export_encoder
from omni_avsr.types import Features, Modality

KINDS = ("whisper_full", "whisper_trimmed", "whisper_published", *SELF_SUPERVISED, "compact_audio", "compact_video")
SAMPLES = (5000, 9600, 1, 320, 4961, 9441, 9280, 9281)
"""Within the 0.6 s that the tiny Whisper takes; around its whole window, and full and started features."""
LONG_SAMPLES = (*SAMPLES, 70_000)
FRAMES = (9, 1, 2, 70)
TRUNK: dict[str, Any] = {"dim": 16, "num_layers": 1, "num_heads": 2, "kernel": 3}


@dataclass(frozen=True)
class Pair:
    """An encoder of torch, and what was exported of it into a folder."""

    speech: SpeechEncoder
    parts: ExportedParts
    folder: Path

    def exported(self) -> ExportedEncoder:
        return ExportedEncoder(self.folder / self.parts.encoder.file, self.parts)

    def clips(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        if self.parts.front.kind == "video":
            return [torch.randn(length, 88, 88, generator=generator) for length in FRAMES]
        lengths = SAMPLES if self.parts.front.kind == "whisper" else LONG_SAMPLES
        return [0.1 * torch.randn(length, generator=generator) for length in lengths]


def config_of(kind: str, folder: Path) -> AnyEncoderConfig:
    match kind:
        case "compact_audio":
            return CompactAudioConfig(**TRUNK)
        case "compact_video":
            return CompactVideoConfig(channels=(2, 4), image_size=16, **TRUNK)
        case "avhubert":
            sizes = {"dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 32, "channels": (2, 2, 4, 4)}
            return AVHubertConfig(lora=LoRAConfig(rank=2, alpha=4.0), ctc=True, **sizes)
        case "whisper_published":
            weights = str(save_tiny_whisper(folder / "whisper"))
            return WhisperConfig(weights, context="full", length="published")
        case "whisper_full" | "whisper_trimmed":
            weights = str(save_tiny_whisper(folder / "whisper"))
            return WhisperConfig(weights, context="full" if kind == "whisper_full" else "trimmed")
        case _:
            save_tiny_self_supervised(folder / kind, kind)
            return SelfSupervisedConfig(str(folder / kind), kind)


def make(kind: str, folder: Path, quantization: str = "none") -> Pair:
    torch.manual_seed(0)
    speech = build_encoder(config_of(kind, folder)).eval()
    for name, parameter in speech.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    modality = Modality.VIDEO if kind in ("compact_video", "avhubert") else Modality.AUDIO
    return Pair(speech, export_encoder(speech, modality, folder, quantization), folder)


@pytest.fixture(scope="module", params=[*KINDS, "avhubert"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make("whisper_trimmed", tmp_path_factory.mktemp("quantized"), "int8")


def dirty_batch(clips: Sequence[Tensor]) -> Features:
    """The clips with something behind each of them."""
    batch = Features.pad(list(clips))
    mask = batch.mask().view(*batch.mask().shape, *[1] * (batch.values.ndim - 2))
    return Features(batch.values.masked_fill(~mask, 3.0), batch.lengths)


@torch.no_grad()
def test_features_are_torchs_whatever_the_lengths(pair: Pair) -> None:
    batch = dirty_batch(pair.clips())
    expected, found = pair.speech(batch), pair.exported()(batch)
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.values.dtype is torch.float32
    torch.testing.assert_close(found.values, expected.values, atol=1e-4, rtol=0)


def test_a_clip_is_bit_for_bit_the_same_alone_and_in_a_batch(pair: Pair) -> None:
    check_singles(pair)


def test_the_facts_are_those_of_the_torch_encoder(pair: Pair) -> None:
    exported = pair.exported()
    facts = ("output_dim", "frame_rate", "max_seconds")
    assert [getattr(exported, name) for name in facts] == [getattr(pair.speech, name) for name in facts]
    assert not list(exported.parameters())
    assert pair.parts.encoder.input.shape[:2] == (1, "length")
    assert pair.parts.encoder.output.shape == (1, "length", exported.output_dim)


def test_an_empty_clip_is_refused_as_by_torch(pair: Pair) -> None:
    empty = Features.pad([pair.clips()[0], pair.clips()[0][:0]])
    with pytest.raises(ValueError, match="a clip without") as torchs:
        pair.speech(empty)
    with pytest.raises(ValueError, match="a clip without") as found:
        pair.exported()(empty)
    assert str(found.value) == str(torchs.value)


@torch.no_grad()
def test_a_ctc_head_is_exported_where_there_is_one(pair: Pair) -> None:
    if pair.speech.ctc is None:
        assert pair.parts.ctc is None
        return
    assert pair.parts.ctc is not None
    features = torch.randn(1, 7, pair.speech.output_dim, generator=torch.Generator().manual_seed(3))
    expected = pair.speech.ctc(Features.pad([features[0]])).values
    found = run_graph(start_session(pair.folder / pair.parts.ctc.file), pair.parts.ctc, features)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def check_singles(pair: Pair) -> None:
    exported = pair.exported()
    together = exported(dirty_batch(pair.clips()))
    for row, length, clip in zip(together.values, together.lengths.tolist(), pair.clips(), strict=True):
        alone = exported(Features.pad([clip]))
        assert torch.equal(row[:length], alone.values[0])
        assert not row[length:].any()


def test_quantised_features_are_close_and_do_not_depend_on_the_batch(quantized: Pair) -> None:
    """Onnxruntime takes one scale for a whole tensor: in a batch of clips, it would be that of the loudest."""
    check_singles(quantized)
    batch = dirty_batch(quantized.clips())
    with torch.no_grad():
        expected, found = quantized.speech(batch).values, quantized.exported()(batch).values
    error = float((found - expected).norm() / expected.norm())
    assert 1e-4 < error < 0.05
    assert 0 < quantized.parts.encoder.max_error < 0.2


def test_quantised_weights_are_int8(quantized: Pair) -> None:
    graph = onnx.load(quantized.folder / quantized.parts.encoder.file).graph
    matrices = [weights for weights in graph.initializer if len(weights.dims) == 2 and min(weights.dims) > 8]
    kinds = {weights.data_type for weights in matrices if weights.dims[0] != 30}  # but the positions
    assert kinds == {onnx.TensorProto.INT8}


def test_too_long_a_clip_is_refused(quantized: Pair) -> None:
    with pytest.raises(ValueError, match=r"longer than Whisper's context of 0\.6 s"):
        quantized.exported()(Features.pad([torch.zeros(9601)]))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_onnxruntime_has_as_many_threads_as_torch(quantized: Pair, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    options = quantized.exported()._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (num_threads, 1)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_weights_that_are_too_large_for_one_file_stand_beside_it(
    quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omni_avsr.export, "MAX_FILE_BYTES", 1000)
    pair = make("whisper_trimmed", tmp_path, quantization)
    (tmp_path / "moved").mkdir()
    for file in tmp_path.glob("*.onnx*"):
        file.rename(tmp_path / "moved" / file.name)
    beside = {file.name for file in (tmp_path / "moved").iterdir()} - {"audio_encoder.onnx"}
    # int8 weights fit again.
    assert beside == ({"audio_encoder.onnx.data"} if quantization == "none" else set())
    with torch.no_grad():
        expected = pair.speech(Features.pad(pair.clips())).values
        found = Pair(pair.speech, pair.parts, tmp_path / "moved").exported()(Features.pad(pair.clips())).values
    assert float((found - expected).abs().max()) < (1e-4 if quantization == "none" else 0.5)


def test_a_graph_that_differs_from_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omni_avsr.export, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match=r"audio_encoder\.onnx is up to .* off what torch computes"):
        make("whisper_trimmed", tmp_path)


def test_a_broken_file_is_a_clear_error(quantized: Pair, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"broken\.onnx cannot be run by onnxruntime"):
        ExportedEncoder(tmp_path / "broken.onnx", quantized.parts)


def test_what_a_graph_cannot_compute_costs_one_clip(quantized: Pair) -> None:
    """As torch's errors do: transcribing goes on after a RuntimeError."""
    with pytest.raises(RuntimeError, match=r"failed at audio_encoder\.onnx for an input \[1, 9, 81\]"):
        run_graph(start_session(quantized.folder / "audio_encoder.onnx"), quantized.parts.encoder, torch.ones(1, 9, 81))


@torch.no_grad()
def test_merging_lora_changes_nothing_but_its_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    speech = build_encoder(config_of("avhubert", tmp_path)).eval()
    for name, parameter in speech.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    video = Features.pad([torch.randn(5, 88, 88)])
    before = speech(video).values
    merge_lora(speech)
    assert not [name for name, _ in speech.named_parameters() if "lora" in name]
    np.testing.assert_allclose(speech(video).values, before, atol=1e-5)
