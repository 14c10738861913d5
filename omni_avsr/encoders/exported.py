"""Encoders that were exported to ONNX, run by onnxruntime in place of the torch ones; and what an export's folder says.

``manifest.json``                  which checkpoint it is of, and every graph with its input and output
``<modality>_encoder.onnx``        what the encoder's front makes of a clip -> features
``<modality>_ctc.onnx``            features -> log probabilities of characters, where the encoder has a CTC head
``<modality>_tokens_<rate>.onnx``  features -> tokens of the LLM, compressed at a trained rate and projected
``*.onnx.data``                    the weights of a graph that are too large for its own file

Every graph takes ONE clip, of any length; batches run clip by clip. So graphs need no masks, which the group norm of
wav2vec 2.0 has no place for, nothing is computed of padding, and a quantised clip is the same in any batch: the scale
of its numbers is taken over a whole tensor, which other clips would change.
"""

from __future__ import annotations

import json
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from omni_avsr.config import STRICT, from_mapping
from omni_avsr.encoders.fronts import AnyFront, num_features_of
from omni_avsr.types import Features, Modality

MANIFEST = "manifest.json"
FORMAT_VERSION = 1

Quantization = Literal["none", "int8"]


@dataclass(frozen=True, config=STRICT)
class Port:
    """An input or output of a graph, float32. shape: sizes, and names where they vary."""

    name: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, config=STRICT)
class Graph:
    """One file. max_error: how far its output was at most from torch's, on clips of noise of two lengths."""

    file: str
    input: Port
    output: Port
    max_error: float


@dataclass(frozen=True, config=STRICT)
class ExportedParts:
    """The graphs of one modality; ``tokens`` by rate. front: how a clip becomes the encoder's input."""

    front: AnyFront
    output_dim: int
    encoder: Graph
    ctc: Graph | None = None
    tokens: dict[int, Graph] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Manifest:
    """What an export's folder holds. checkpoint_sha256: as ``checkpoint.checkpoint_sha256`` gives it."""

    checkpoint_sha256: str
    opset: int
    quantization: Quantization
    commit: str
    date: str
    parts: dict[Modality, ExportedParts]
    format_version: int = FORMAT_VERSION


class ExportedEncoder(nn.Module):
    """Runs an exported encoder, clip by clip on the CPU; keeps the contract of ``encoders.base.Encoder``.

    It has no parameters. onnxruntime gets as many threads as torch has when it is made.
    """

    def __init__(self, path: Path, parts: ExportedParts) -> None:
        """Raises ValueError when onnxruntime is missing or cannot read the file."""
        super().__init__()
        self.front = parts.front
        self.output_dim = parts.output_dim
        self.frame_rate, self.max_seconds = self.front.frame_rate, self.front.max_seconds
        self._graph = parts.encoder
        self._session = start_session(path)

    def forward(self, inputs: Features) -> Features:
        """As the torch encoder: [B, samples] or [B, T, H, W] -> [B, T, output_dim] float32, on the inputs' device."""
        self.front.check(inputs.lengths)
        clips = zip(inputs.values.cpu(), inputs.lengths.tolist(), strict=True)
        rows = [self._encode(clip[:length]) for clip, length in clips]
        return Features.pad(rows).to(inputs.values.device)

    def _encode(self, clip: Tensor) -> Tensor:
        """One clip -> [T, output_dim]."""
        values = run_graph(self._session, self._graph, self.front.clip_input(clip.float()))
        # What context "full" gives behind a clip is no feature of it.
        return values[0, : num_features_of(self.front, clip)]


def load_exported(folder: Path, checkpoint_sha256: str) -> dict[Modality, ExportedEncoder]:
    """The encoders of an export's folder.

    Raises:
        ValueError: it is none, it was made of another checkpoint, or onnxruntime is missing.
    """
    manifest = read_manifest(folder)
    if manifest.checkpoint_sha256 != checkpoint_sha256:
        raise ValueError(
            f"{folder} was exported from a checkpoint with sha256 {manifest.checkpoint_sha256}, this one has "
            f"{checkpoint_sha256}; export it again: omni-avsr export-onnx --checkpoint DIR --output {folder}"
        )
    return {modality: ExportedEncoder(folder / parts.encoder.file, parts) for modality, parts in manifest.parts.items()}


def read_manifest(folder: Path) -> Manifest:
    """Raises ValueError when ``folder`` holds none, or one of another format."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no exported encoders: it has no {MANIFEST}")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}, this release reads {FORMAT_VERSION}")
    return from_mapping(Manifest, values, "manifest")


def start_session(path: Path) -> Any:
    """An onnxruntime session on the CPU, with as many threads as torch has.

    Raises:
        ValueError: onnxruntime is missing, or cannot read the file.
    """
    try:
        import onnxruntime  # of an extra, and only where encoders were exported
    except ImportError as error:
        raise ValueError(
            f"running {path.name} needs onnxruntime ({error}); run pip install 'omni-avsr[runtime]', which brings it"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads that wait for work by spinning would take the cores from torch, which runs in between.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps what the longest clip needed, and the room of weights that were repacked.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, one for every status
        raise ValueError(f"{path} cannot be run by onnxruntime: {error}") from error


def run_graph(session: Any, graph: Graph, values: Tensor) -> Tensor:
    """The output of a graph for one clip. RuntimeError when onnxruntime cannot compute it."""
    try:
        [output] = session.run([graph.output.name], {graph.input.name: values.numpy()})
    except Exception as error:  # as in start_session
        raise RuntimeError(f"onnxruntime failed at {graph.file} for an input {list(values.shape)}: {error}") from error
    return torch.from_numpy(output)
