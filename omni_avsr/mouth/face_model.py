"""The model file of MediaPipe's Face Landmarker: given, kept from before, or fetched once from its official address."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

from omni_avsr.files import replacing
from omni_avsr.weights import cache_folder

FACE_MODEL_VARIABLE = "OMNI_AVSR_FACE_MODEL"
FACE_MODEL_NAME = "face_landmarker.task"
FACE_MODEL_URL = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"
)
FACE_MODEL_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
_TIMEOUT = 30
_CHUNK = 1 << 16


def find_face_model(path: str | os.PathLike[str] | None = None) -> Path:
    """The model file: ``path``, else what OMNI_AVSR_FACE_MODEL names, else a copy in the cache, fetched when missing.

    MediaPipe ships no models. A file that is fetched is checked against its known sha256.

    Raises:
        ValueError: a named file does not exist, or it could not be fetched; says where to get it.
    """
    chosen = path or os.environ.get(FACE_MODEL_VARIABLE)
    if chosen:
        if not Path(chosen).is_file():
            raise ValueError(f"face model {chosen} does not exist")
        return Path(chosen)
    kept = cache_folder() / FACE_MODEL_NAME
    if not kept.is_file():
        fetch(FACE_MODEL_URL, FACE_MODEL_SHA256, kept)
    return kept


def fetch(url: str, sha256: str, target: Path) -> None:
    """Download a file to ``target``, which appears whole and with the right contents or not at all.

    Raises:
        ValueError: the address did not answer, or gave something else.
    """
    advice = (
        f"download {url} on a machine that reaches it, copy the file here, and pass its path or set "
        f"{FACE_MODEL_VARIABLE}"
    )
    digest = hashlib.sha256()
    with replacing(target) as partial:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, partial.open("wb") as file:
                while chunk := answer.read(_CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
        except (OSError, urllib.error.URLError) as error:
            raise ValueError(f"the face model could not be fetched ({error}): {advice}") from error
        if digest.hexdigest() != sha256:
            raise ValueError(f"{url} gave a file with sha256 {digest.hexdigest()}, expected {sha256}: {advice}")
