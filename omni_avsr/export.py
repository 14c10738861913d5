"""A checkpoint's encoders, CTC heads and projectors as ONNX files, checked against torch."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path

import onnxscript  # noqa: F401  # torch imports it late, and its absence should be known at once
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from omni_avsr.checkpoint import checkpoint_sha256, load_checkpoint
from omni_avsr.compression import join_windows
from omni_avsr.config import CompressionConfig, to_mapping
from omni_avsr.encoders.access import encoder_of
from omni_avsr.encoders.base import TorchEncoder
from omni_avsr.encoders.build import SpeechEncoder
from omni_avsr.encoders.ctc import CTCHead
from omni_avsr.encoders.exported import (
    MANIFEST,
    ExportedParts,
    Graph,
    Manifest,
    Port,
    Quantization,
    read_manifest,
    run_graph,
    start_session,
)
from omni_avsr.encoders.fronts import Front
from omni_avsr.encoders.lora import merge_lora
from omni_avsr.features import MOUTH_CROP, SAMPLE_RATE, VIDEO_FPS
from omni_avsr.files import replacing_folder
from omni_avsr.model import OmniAVSR
from omni_avsr.projector import AnyProjector, ModalityProjector
from omni_avsr.provenance import commit, today
from omni_avsr.types import Features, Modality

OPSET = 20
MAX_FILE_BYTES = 2**31 - 2**24
"""Weights above stand beside the graph: a file of protobuf has less than 2 GiB."""
TOLERANCE = 1e-4
"""How far a float32 graph may be from torch, in parts of the largest number of its output where that is above 1."""
CLIP_SECONDS = (2.0, 1.24)
"""Lengths of the noise that graphs are traced with and checked on, as long as the encoder takes them."""


def export_checkpoint(checkpoint: Path, folder: Path, quantization: Quantization = "none") -> Manifest:
    """Write ``folder``, whole or not at all; an earlier export in it is replaced. What it holds: ``encoders.exported``.

    LoRA of encoders is merged, and weights are float32 whatever they were. Quantised, the matrices of linear layers are
    int8 with a scale for each output, and what they are multiplied with is brought to 8 bits when they run
    (onnxruntime's dynamic quantisation); convolutions and the attention itself stay float32. That is for ARM, and for
    x86 with VNNI: without it, onnxruntime's sums of such products may saturate.

    Raises:
        ValueError: ``checkpoint`` is none or its base models are missing, ``folder`` holds something else than an
            export, or a graph does not compute what torch does.
    """
    if folder.exists() and any(folder.iterdir()):
        _check_replaceable(folder)
    model = load_checkpoint(checkpoint)
    modalities = [modality for modality in Modality if model.config.encoder_of(modality) is not None]
    with replacing_folder(folder, (MANIFEST, "*.onnx", "*.onnx.data")) as partial:
        parts = {modality: export_parts(model, modality, partial, quantization) for modality in modalities}
        manifest = Manifest(checkpoint_sha256(checkpoint), OPSET, quantization, commit(), today(), parts)
        (partial / MANIFEST).write_text(json.dumps(to_mapping(manifest), indent=2, allow_nan=False) + "\n")
    return manifest


def _check_replaceable(folder: Path) -> None:
    try:
        read_manifest(folder)
    except ValueError as error:
        raise ValueError(f"{error}; choose another folder to export to") from error


@torch.no_grad()
def export_parts(
    model: OmniAVSR, modality: Modality, folder: Path, quantization: Quantization = "none"
) -> ExportedParts:
    """Write all graphs of one modality; ``model`` stays as it is.

    Raises:
        ValueError: a graph does not compute what torch does.
    """
    speech = encoder_of(model, modality)
    parts = export_encoder(speech, modality, folder, quantization)
    features = [speech(Features.pad([clip])).values.float() for clip in _noise(parts.front, modality)]
    rates = model.config.compression.rates_of(modality)
    tokens = {rate: export_tokens(model, modality, rate, features, folder, quantization) for rate in rates}
    return replace(parts, tokens=tokens)


@torch.no_grad()
def export_encoder(
    speech: SpeechEncoder, modality: Modality, folder: Path, quantization: Quantization = "none"
) -> ExportedParts:
    """Write the graphs of an encoder and of its CTC head; ``speech`` stays as it is.

    Raises:
        ValueError: a graph does not compute what torch does.
    """
    speech = copy.deepcopy(speech).float().eval()
    encoder = speech.encoder
    assert isinstance(encoder, TorchEncoder)
    clips = _noise(encoder.front, modality)
    inputs = [encoder.front.clip_input(clip) for clip in clips]
    features = [speech(Features.pad([clip])).values for clip in clips]
    merge_lora(speech)
    path = folder / f"{modality}_encoder.onnx"
    graph = _export(_ClipEncoder(encoder), path, ("clip", "features"), inputs, features, quantization)
    if speech.ctc is None:
        return ExportedParts(encoder.front, encoder.output_dim, graph)
    head = _Head(speech.ctc)
    log_probs = [head(values) for values in features]
    path = folder / f"{modality}_ctc.onnx"
    ctc = _export(head, path, ("features", "log_probs"), features, log_probs, quantization)
    return ExportedParts(encoder.front, encoder.output_dim, graph, ctc)


@torch.no_grad()
def export_tokens(
    model: OmniAVSR,
    modality: Modality,
    rate: int,
    features: list[Tensor],
    folder: Path,
    quantization: Quantization = "none",
) -> Graph:
    """Write the graph of compression at ``rate`` and projection, checked on ``features``, each [1, T, D].

    Raises:
        ValueError: it does not compute what torch does.
    """
    projector = model.projectors[modality]
    assert isinstance(projector, ModalityProjector)
    module = _Tokens(copy.deepcopy(projector.of_rate(rate)).float(), rate, model.config.compression)
    path = folder / f"{modality}_tokens_{rate}.onnx"
    expected = [module(values) for values in features]
    return _export(module, path, ("features", "tokens"), features, expected, quantization)


class _ClipEncoder(nn.Module):
    """``encode_clip`` as a forward pass."""

    def __init__(self, encoder: TorchEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, clip: Tensor) -> Tensor:
        return self.encoder.encode_clip(clip)


class _Head(nn.Module):
    """Features of one clip [1, T, D] -> log probabilities of characters."""

    def __init__(self, head: CTCHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        log_probs: Features = self.head(Features.whole(features))
        return log_probs.values


class _Tokens(nn.Module):
    """Features of one clip [1, T, D] -> tokens of the LLM [1, N, H]."""

    def __init__(self, projector: AnyProjector, rate: int, config: CompressionConfig) -> None:
        super().__init__()
        self.projector, self.rate, self.config = projector, rate, config

    def forward(self, features: Tensor) -> Tensor:
        joined = join_windows(Features.whole(features), self.rate, self.config)
        tokens: Features = self.projector(joined)
        return tokens.values


def _noise(front: Front, modality: Modality) -> list[Tensor]:
    """A clip of each of ``CLIP_SECONDS``, the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    clips = []
    for share in CLIP_SECONDS:
        seconds = share * min(1.0, front.max_seconds / max(CLIP_SECONDS))
        if modality is Modality.AUDIO:
            clips.append(0.1 * torch.randn(int(seconds * SAMPLE_RATE), generator=generator))
        else:
            size = (int(seconds * VIDEO_FPS), MOUTH_CROP, MOUTH_CROP)
            clips.append(torch.randn(size, generator=generator))
    return clips


def _export(
    module: nn.Module,
    path: Path,
    ports: tuple[str, str],
    examples: list[Tensor],
    expected: list[Tensor],
    quantization: Quantization,
) -> Graph:
    """Write one graph, traced with the first example and checked on all."""
    input, output = (
        Port(name, (1, "length", *tensor.shape[2:]))
        for name, tensor in zip(ports, (examples[0], expected[0]), strict=True)
    )
    torch.onnx.export(
        module.eval(),
        (examples[0],),
        path,
        input_names=[input.name],
        output_names=[output.name],
        dynamic_shapes=({1: torch.export.Dim.DYNAMIC},),
        opset_version=OPSET,
        dynamo=True,
        external_data=sum(weights.nbytes for weights in module.parameters()) > MAX_FILE_BYTES,
        verbose=False,
    )
    graph = Graph(path.name, input, output, 0.0)
    error = _largest_error(path, graph, examples, expected)
    largest = max(1.0, *(float(values.abs().max()) for values in expected))
    if not error <= TOLERANCE * largest:
        raise ValueError(
            f"{path.name} is up to {error:.3g} off what torch computes, of numbers up to {largest:.3g}; this release "
            "of torch.onnx or onnxruntime cannot be used for it"
        )
    if quantization == "int8":
        _quantize(path)
        error = _largest_error(path, graph, examples, expected)
    return replace(graph, max_error=error)


def _quantize(path: Path) -> None:
    """Make the constant matrices of a graph int8, in place."""
    root = logging.getLogger()
    # It advises on the root logger, at every graph, to optimise it first, which would tie the file to onnxruntime.
    root.addFilter(_is_error)
    try:
        quantize_dynamic(path, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    finally:
        root.removeFilter(_is_error)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _largest_error(path: Path, graph: Graph, examples: list[Tensor], expected: list[Tensor]) -> float:
    session = start_session(path)
    return max(
        float((run_graph(session, graph, example)[:, : values.shape[1]] - values).abs().max())
        for example, values in zip(examples, expected, strict=True)
    )
