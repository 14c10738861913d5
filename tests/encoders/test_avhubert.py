"""AV-HuBERT against what the published code computes, and its checkpoints read without fairseq."""

import gc
import importlib.util
import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from omni_avsr.config import AVHubertConfig, LoRAConfig
from omni_avsr.encoders.avhubert import AVHubertEncoder
from omni_avsr.encoders.avhubert_weights import from_official, load_avhubert, read_checkpoint, rename
from omni_avsr.encoders.build import build_encoder
from omni_avsr.types import Features

TINY = AVHubertConfig(dim=32, num_layers=2, num_heads=4, ffn_dim=64, channels=(8, 8, 16, 16))
GOLDEN = replace(TINY, channels=(8, 16, 32, 64))
BASE = AVHubertConfig(dim=768, num_layers=12, num_heads=12, ffn_dim=3072)
SEED = 20251107


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    return {name: value.float() for name, value in load_file(shared / "golden" / "golden_avhubert.safetensors").items()}


def official(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("w."): value for name, value in golden.items() if name.startswith("w.")}


@torch.no_grad()
def features(encoder: AVHubertEncoder, *clips: Tensor) -> Tensor:
    return encoder(Features.pad(list(clips))).values


def test_features_are_those_of_the_published_code(golden: dict[str, Tensor]) -> None:
    encoder = from_official(official(golden), "golden", GOLDEN)
    seen = features(encoder, golden["in.video"][:, 0])
    torch.testing.assert_close(seen, golden["out.features"], rtol=0, atol=1e-5)


def test_frames_pass_the_resnet_in_parts_unless_batch_norm_has_to_see_all(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = AVHubertEncoder(TINY).eval()
    clips = [torch.randn(length, 88, 88) for length in (5, 9)]
    whole, sizes = features(encoder, *clips), []
    encoder.resnet.stem.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    monkeypatch.setattr("omni_avsr.encoders.avhubert.FRAMES_AT_ONCE", 4)
    torch.testing.assert_close(features(encoder, *clips), whole, rtol=0, atol=1e-5)
    assert sizes == [4, 4, 4, 2]
    sizes.clear()
    features(encoder.train(), *clips)
    assert sizes == [14]


def test_features_of_the_full_resnet_are_those_of_the_published_code(shared: Path) -> None:
    spec = importlib.util.spec_from_file_location("seeded", shared / "golden" / "seeded.py")
    assert spec is not None
    assert spec.loader is not None
    seeded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeded)
    facts = json.loads((shared / "golden" / "golden_avhubert_full_resnet.json").read_text())
    state = {}
    for name, shape in facts["names"].items():
        value = seeded.value(f"avhubert_full.{name}", shape, SEED)
        state[name] = torch.zeros(shape, dtype=torch.int64) if value is None else torch.from_numpy(value)
    stored = load_file(shared / "golden" / "golden_avhubert_full_resnet.safetensors")
    sizes = {
        name: facts["config"][f"encoder_{name}"] for name in ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
    }
    config = AVHubertConfig(
        dim=sizes["embed_dim"],
        num_layers=sizes["layers"],
        num_heads=sizes["attention_heads"],
        ffn_dim=sizes["ffn_embed_dim"],
    )
    encoder = from_official(state, "golden", config)
    seen = features(encoder, stored["in.video"].float()[:, 0])
    torch.testing.assert_close(seen, stored["out.features"].float(), rtol=0, atol=1e-5)


def test_a_padded_clip_has_the_features_it_has_alone() -> None:
    torch.manual_seed(0)
    encoder = AVHubertEncoder(TINY).eval()
    long, short = torch.randn(20, 88, 88), torch.randn(12, 88, 88)
    both = features(encoder, long, short)
    torch.testing.assert_close(both[1, :12], features(encoder, short)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(both[0], features(encoder, long)[0], rtol=0, atol=1e-5)
    assert not both[1, 12:].any()


def test_what_stands_behind_a_clip_changes_nothing() -> None:
    torch.manual_seed(0)
    encoder = AVHubertEncoder(TINY).eval()
    video, lengths = torch.randn(2, 9, 88, 88), torch.tensor([9, 5])
    with torch.no_grad():
        one = encoder(Features(video, lengths)).values
        video[1, 5:] = 1e6
        two = encoder(Features(video, lengths)).values
    torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize(("size", "shape"), [("base", BASE), ("large", AVHubertConfig())])
def test_the_names_of_the_real_checkpoints_map_without_remainder(
    shared: Path, size: str, shape: AVHubertConfig
) -> None:
    keys = json.loads((shared / "golden" / f"keys_avhubert_{size}_vox.json").read_text())["keys"]
    with torch.device("meta"):
        state = {name: torch.empty(dims) for name, dims in keys.items()}
        expected = AVHubertEncoder(shape).state_dict()
    renamed = rename(state)
    assert {name: value.shape for name, value in renamed.items()} == {n: v.shape for n, v in expected.items()}


def test_every_name_that_does_not_fit_is_listed(golden: dict[str, Tensor]) -> None:
    state = official(golden)
    del state["encoder.layers.1.fc2.bias"]
    state["encoder.layers.0.self_attn.lora_down_Q.weight"] = torch.zeros(1)
    state["post_extract_proj.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match="no AV-HuBERT that is known here") as error:
        from_official(state, "x.pt", GOLDEN)
    for part in ("x.pt", "no layers.1.fc2.bias", "layers.0.lora_down_Q.weight is left over", "fuse.bias has [3]"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"x\.pt holds no AV-HuBERT: no norm\.weight"):
        from_official({}, "x.pt", GOLDEN)
    with pytest.raises(
        ValueError, match=r"other sizes than the settings say: dim 32 for 768, num_layers 2 for 12, ffn"
    ):
        from_official(official(golden), "x.pt", BASE)


def foreign(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """An object of a class under the name of a package that is not installed."""
    module, _, attribute = name.rpartition(".")
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth])))
    cls = type(attribute, (), {"__module__": module})
    setattr(sys.modules[module], attribute, cls)
    return cls()


@pytest.fixture
def checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file such as fairseq writes, with its settings and dictionaries as objects of its own classes."""
    torch.manual_seed(0)
    settings = foreign(monkeypatch, "omegaconf.dictconfig.DictConfig")
    settings.node = foreign(monkeypatch, "omegaconf.nodes.AnyNode")
    dictionary = foreign(monkeypatch, "fairseq.data.dictionary.Dictionary")
    dictionary.symbols = ["a", "b"]
    content = {"cfg": settings, "task_state": {"dictionaries": [dictionary]}, "args": None}
    torch.save({**content, "model": {"encoder.layer_norm.weight": torch.ones(4)}}, tmp_path / "model.pt")
    monkeypatch.undo()
    return tmp_path / "model.pt"


def test_a_checkpoint_is_read_without_the_classes_that_it_names(checkpoint: Path) -> None:
    assert importlib.util.find_spec("fairseq") is None
    state = read_checkpoint(checkpoint)
    assert list(state) == ["encoder.layer_norm.weight"]
    with pytest.raises(ValueError, match=r"model\.pt holds no AV-HuBERT"):
        load_avhubert(checkpoint, TINY)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_of_the_file_stays_in_memory_where_weights_are_of_another_dtype(tmp_path: Path) -> None:
    path = tmp_path / "avhubert.pt"
    torch.save({"model": AVHubertEncoder(TINY).state_dict()}, path)
    gc.disable()  # it may come by chance
    try:
        encoder = load_avhubert(path, TINY, torch.bfloat16)
        assert str(path) not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()
    assert encoder.fuse.weight.dtype is torch.bfloat16


def test_a_file_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            import os

            return os.system, (f"touch {tmp_path / 'attacked'}",)

    torch.save({"model": {}, "cfg": Attack()}, tmp_path / "attack.pt")
    with pytest.raises(ValueError, match=r"attack\.pt .* asks for posix\.system"):
        read_checkpoint(tmp_path / "attack.pt")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_other_files_are_errors(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.pt"
    if content is None:
        torch.save([1, 2], path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pt is no checkpoint"):
        read_checkpoint(path)


def test_an_empty_clip_is_an_error() -> None:
    with pytest.raises(ValueError, match="without video frames"):
        AVHubertEncoder(TINY)(Features(torch.zeros(1, 1, 88, 88), torch.tensor([0])))


def test_lora_changes_nothing_at_first_and_is_on_q_and_v_of_every_layer() -> None:
    video = torch.randn(6, 88, 88, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    plain = build_encoder(TINY).eval()
    adapted = build_encoder(replace(TINY, lora=LoRAConfig(rank=2, alpha=4.0))).eval()
    lora = {name: value for name, value in adapted.state_dict().items() if ".lora_" in name}
    assert len(lora) == 2 * 2 * TINY.num_layers
    assert {name.split(".")[3] for name in lora} == {"q_proj", "v_proj"}
    rest = {n.replace(".base_layer", ""): v for n, v in adapted.state_dict().items() if n not in lora}
    plain.load_state_dict(rest)
    inputs = Features.pad([video])
    with torch.no_grad():
        torch.testing.assert_close(adapted(inputs).values, plain(inputs).values, rtol=0, atol=0)
        for name, value in adapted.named_parameters():
            if ".lora_B." in name:
                value.fill_(0.1)
        assert not torch.allclose(adapted(inputs).values, plain(inputs).values)


def test_layers_are_dropped_in_training_mode_alone() -> None:
    torch.manual_seed(0)
    config = replace(TINY, dropout=0.0, layer_drop=0.99)
    encoder = AVHubertEncoder(config).train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    inputs = Features.pad([torch.randn(6, 88, 88)])
    kept = encoder.eval()(inputs).values
    encoder.training = True
    with torch.no_grad():
        dropped = encoder(inputs).values
    encoder.layers = torch.nn.ModuleList()
    torch.testing.assert_close(dropped, encoder(inputs).values, rtol=0, atol=1e-6)
    assert not torch.allclose(dropped, kept)
