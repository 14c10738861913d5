"""Fixtures of the preparation's tests."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_prep import prepare as preparation


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of the preparation run here, one after another: it takes seconds to start a worker."""

    def run(function: Callable[[Any], Any], jobs: Sequence[Any], *_: Any) -> Iterator[tuple[Any, Any]]:
        return ((job, function(job)) for job in jobs)

    monkeypatch.setattr(preparation, "run_jobs", run)


@pytest.fixture(scope="session")
def face_model(shared: Path) -> Path:
    return shared / "models" / "face_landmarker.task"
