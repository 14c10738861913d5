"""Fixtures of the preparation's tests."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_prep import prepare as preparation


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of the preparation run here, one after another, and its page is not drawn: both take seconds a time."""

    def run(function: Callable[[Any], Any], jobs: Sequence[Any], *_: Any) -> Iterator[tuple[Any, Any]]:
        return ((job, function(job)) for job in jobs)

    def write_page(path: Path, *_: Any, **__: Any) -> None:
        path.write_text("a page")

    monkeypatch.setattr(preparation, "run_jobs", run)
    monkeypatch.setattr(preparation, "write_quality_page", write_page)


@pytest.fixture(scope="session")
def face_model(shared: Path) -> Path:
    return shared / "models" / "face_landmarker.task"
