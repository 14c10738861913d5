"""Fixtures that several test files share."""

import os
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


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
