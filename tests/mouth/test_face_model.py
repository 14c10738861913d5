"""Where the face model comes from: a path, the environment, the cache, or its address, with its sha256 checked."""

import hashlib
from pathlib import Path

import pytest

from omni_avsr.mouth import face_model
from omni_avsr.mouth.face_model import FACE_MODEL_NAME, FACE_MODEL_SHA256, FACE_MODEL_URL, fetch, find_face_model


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_AVSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OMNI_AVSR_FACE_MODEL", raising=False)


def test_a_path_goes_before_the_environment_and_that_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("given", "named", f"cache/{FACE_MODEL_NAME}"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_face_model() == tmp_path / "cache" / FACE_MODEL_NAME
    monkeypatch.setenv("OMNI_AVSR_FACE_MODEL", str(tmp_path / "named"))
    assert find_face_model() == tmp_path / "named"
    assert find_face_model(tmp_path / "given") == tmp_path / "given"


def test_a_named_file_that_is_missing_is_an_error_and_never_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_model, "fetch", lambda *arguments: pytest.fail("fetched"))
    with pytest.raises(ValueError, match=r"none\.task does not exist"):
        find_face_model(tmp_path / "none.task")
    monkeypatch.setenv("OMNI_AVSR_FACE_MODEL", str(tmp_path / "gone.task"))
    with pytest.raises(ValueError, match=r"gone\.task does not exist"):
        find_face_model()


def test_it_is_fetched_once_from_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(url: str, sha256: str, target: Path) -> None:
        asked.append((url, sha256, target))
        target.parent.mkdir()
        target.touch()

    monkeypatch.setattr(face_model, "fetch", answer)
    kept = tmp_path / "cache" / FACE_MODEL_NAME
    assert find_face_model() == find_face_model() == kept
    assert asked == [(FACE_MODEL_URL, FACE_MODEL_SHA256, kept)]


def test_what_is_fetched_is_whole_and_has_the_right_contents(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "folder" / "target"
    source.write_bytes(b"face" * 50_000)
    fetch(source.as_uri(), hashlib.sha256(source.read_bytes()).hexdigest(), target)
    assert target.read_bytes() == source.read_bytes()
    target.unlink()
    with pytest.raises(ValueError, match=rf"gave a file with sha256 \w+, expected {'0' * 64}: download"):
        fetch(source.as_uri(), "0" * 64, target)
    assert list(target.parent.iterdir()) == []


def test_without_a_network_the_message_says_where_to_get_it(tmp_path: Path) -> None:
    address = (tmp_path / "nowhere").as_uri()
    with pytest.raises(ValueError, match=rf"could not be fetched .*download {address}.*OMNI_AVSR_FACE_MODEL"):
        fetch(address, "0" * 64, tmp_path / "target")
    assert list(tmp_path.iterdir()) == []
