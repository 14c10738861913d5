"""State dicts of every kind under the authors' names become models with the same outputs; others are told why not."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_model import tiny_batch
from helpers_published import (
    DIVISOR,
    RATES,
    VIDEO,
    all_losses,
    official_state,
    only_set,
    published_model,
    settings_without_weights,
)
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from omni_avsr.checkpoint import load_checkpoint
from omni_avsr.cli.hydra_app import config_folder
from omni_avsr.cli.main import main
from omni_avsr.config import (
    PUBLISHED_PROMPTS,
    AdapterConfig,
    AVHubertConfig,
    LLMConfig,
    LoRAConfig,
    MarkerConfig,
    ModelConfig,
    ProjectorConfig,
    WhisperConfig,
    from_mapping,
)
from omni_avsr.model import OmniAVSR
from omni_avsr.published.facts import ImportConfig
from omni_avsr.published.importer import import_checkpoint, import_state, read_state
from omni_avsr.published.names import TASK_NAMES, own_names
from omni_avsr.shapes import shaped_model
from omni_avsr.types import Modality, Rates, Task

PAIRS = [Rates(audio, video) for audio in RATES[Modality.AUDIO] for video in RATES[Modality.VIDEO]]


def settings(folder: Path, **changes: Any) -> ImportConfig:
    config = ImportConfig(
        folder / "model.pth",
        folder / "imported",
        str(folder / "llm"),
        str(folder / "whisper"),
        audio_rates=RATES[Modality.AUDIO],
        video_rates=RATES[Modality.VIDEO],
        lora_divisor=DIVISOR,
        video_num_heads=VIDEO.num_heads,
    )
    return replace(config, **changes)


def assert_same(imported: OmniAVSR, original: OmniAVSR) -> None:
    batch = tiny_batch()
    for pair in PAIRS:
        assert all_losses(imported, batch, pair) == pytest.approx(all_losses(original, batch, pair), abs=1e-6)
    features = original.encode(batch.inputs)
    ids = original.generate_ids(features, Task.AVSR, PAIRS[-1], num_beams=2, max_new_tokens=6)
    assert torch.equal(imported.generate_ids(features, Task.AVSR, PAIRS[-1], num_beams=2, max_new_tokens=6), ids)


KINDS: dict[str, dict[str, Any]] = {
    "S": {"adapters": {"strategy": "shared"}},
    "T": {"adapters": {"strategy": "task_specific"}},
    "ST": {},
    "single projector": {"projector": {"layer_norm": True, "sharing": "shared"}},
    "stack": {"compression": {"mode": "stack"}},
    "stack, layer norm for audio": {
        "compression": {"mode": "stack"},
        "projector": {"layer_norm": {"audio": True, "video": False}},
    },
}


def state_of(model: OmniAVSR) -> dict[str, Tensor]:
    state = official_state(model)
    return only_set(state) if model.config.adapters.strategy == "shared" else state


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_computes_the_same(tmp_path: Path, kind: str, family: str) -> None:
    original = published_model(tmp_path, family, **KINDS[kind])
    imported, differing = import_state(state_of(original), settings(tmp_path))
    assert not differing
    found, wanted = imported.config, original.config
    assert (found.adapters.strategy, found.adapters.alpha) == (wanted.adapters.strategy, wanted.adapters.alpha)
    assert (found.projector, found.compression) == (wanted.projector, wanted.compression)
    assert found.markers == wanted.markers
    assert imported.text_ids == original.text_ids
    assert_same(imported, original)


def test_base_models_can_be_taken_from_the_checkpoint(tmp_path: Path) -> None:
    original = published_model(tmp_path)
    state = {**official_state(original), "llm.model.norm.weight": torch.full((32,), 1.5)}
    original.llm.get_decoder().norm.weight.fill_(1.5)
    config = settings(
        tmp_path,
        llm=str(settings_without_weights(tmp_path / "llm", tmp_path / "llm-settings")),
        audio_encoder=str(settings_without_weights(tmp_path / "whisper", tmp_path / "whisper-settings")),
        extract=tmp_path / "bases",
    )
    imported, differing = import_state(state, config)
    assert not differing
    assert_same(imported, original)
    with pytest.raises(ValueError, match=r"bases/llm exists already"):
        import_state(state, config)


def test_prompts_of_tokens_with_equal_embeddings_and_derived_buffers_are_no_obstacle(tmp_path: Path) -> None:
    original = published_model(tmp_path)
    state = official_state(original) | {"llm.model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    weights = state["llm.model.embed_tokens.weight"]
    [letter] = original.text.encode("t")
    for rows in (weights, state["llm.lm_head.weight"]):
        rows[1] = rows[letter]
    state |= {
        f"prompt_{name}": weights[original.text.encode(PUBLISHED_PROMPTS[task])][None]
        for name, task in TASK_NAMES.items()
    }
    config = settings(tmp_path, extract=tmp_path / "bases")
    assert import_state(state, config)[0].config.prompts == PUBLISHED_PROMPTS


def test_other_base_weights_are_refused(tmp_path: Path) -> None:
    state = official_state(published_model(tmp_path))
    state["llm.model.norm.weight"] = state["llm.model.norm.weight"] + 1
    with pytest.raises(ValueError, match=r"1 tensors of .*model\.pth, such as llm\.model\.norm\.weight, are not those"):
        import_state(state, settings(tmp_path))


def test_the_video_encoder_may_be_named_too_and_its_statistics_are_kept(tmp_path: Path) -> None:
    original = published_model(tmp_path)
    state = official_state(original)
    prefix = "video_encoder."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    base = {n: v - 0.1 if n.endswith("running_mean") else v for n, v in own.items() if ".lora_" not in n}
    torch.save({"model": base, "cfg": {}}, tmp_path / "large.pt")
    config = settings(tmp_path, video_encoder=str(tmp_path / "large.pt"))
    torch.save(state, config.checkpoint)
    imported, differing = import_state(state, config)
    statistics = {n for n in imported.state_dict() if n.startswith("encoders.video") and n.endswith("running_mean")}
    assert differing.keys() == statistics
    assert_same(imported, original)
    import_checkpoint(config)
    assert_same(load_checkpoint(config.output), original)


def test_the_settings_of_the_command_are_the_defaults_of_its_config() -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        words = ["checkpoint=x", "output=y", "llm=z"]
        composed = OmegaConf.to_container(compose("import_checkpoint", words))
    assert isinstance(composed, dict)
    assert from_mapping(ImportConfig, {str(name): value for name, value in composed.items()}) == ImportConfig(
        Path("x"), Path("y"), "z"
    )


@pytest.mark.parametrize("form", ["averaged", "lightning", "safetensors"])
def test_the_command_makes_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    original = published_model(tmp_path)
    state, file = official_state(original), tmp_path / "model.pth"
    if form == "averaged":
        torch.save(state, file)
    elif form == "lightning":
        wrapped = {f"model.{name}": value for name, value in state.items()}
        torch.save({"state_dict": wrapped, "epoch": 7, "hyper_parameters": {"args": Namespace(rank=32)}}, file)
    else:
        file = tmp_path / "model.safetensors"
        save_file({name: value.contiguous().clone() for name, value in state.items()}, file)
    words = ["import-checkpoint", f"checkpoint={file}", f"output={tmp_path / 'out'}", f"llm={tmp_path / 'llm'}"]
    words += [f"audio_encoder={tmp_path / 'whisper'}", "audio_rates=[2,5]", "video_rates=[1,3]", "video_num_heads=2"]
    monkeypatch.setattr("sys.argv", ["omni-avsr", *words, f"lora_divisor={DIVISOR}"])
    monkeypatch.chdir(tmp_path)
    main()
    assert_same(load_checkpoint(tmp_path / "out"), original)
    assert f"Imported from {file.name} of Omni-AVSR's authors" in (tmp_path / "out" / "README.md").read_text()


def test_half_precision_is_kept_and_compared_as_such(tmp_path: Path) -> None:
    original = published_model(tmp_path)
    state = {n: v.bfloat16() if v.is_floating_point() else v for n, v in official_state(original).items()}
    config = settings(tmp_path)
    torch.save(state, config.checkpoint)
    import_checkpoint(config)
    imported = load_checkpoint(config.output)
    assert imported.config.llm.dtype == "bfloat16"
    expected = all_losses(original, tiny_batch(), PAIRS[0])
    assert all_losses(imported, tiny_batch(), PAIRS[0]) == pytest.approx(expected, rel=0.05)


WRONG: list[tuple[dict[str, Tensor | None], dict[str, Any], str]] = [
    ({"who": torch.zeros(1), "audio_proj.7": torch.zeros(1)}, {}, r"2 tensors have no place here: audio_proj\.7, who"),
    ({"llm.extra": torch.zeros(1)}, {}, r"llm\.extra is left over"),
    ({"llm.model.norm.weight": None}, {}, r"no llm\.model\.norm\.weight"),
    ({"audio_proj.0.2.bias": None}, {}, r"no projectors\.audio\.by_rate\.2\.layers\.2\.bias"),
    ({"llm.model.norm.weight": torch.ones(5)}, {}, r"llm\.model\.norm\.weight has \[5\], expected \[32\]"),
    ({}, {"audio_rates": (2,)}, r"has 2 audio projectors, but audio_rates names \[2\]"),
    ({}, {"lora_divisor": 3}, "lora_divisor 3 gives 32 / 3, but the LoRA is 8 wide"),
    ({}, {"video_num_heads": None}, "a video encoder 32 wide is neither Base nor Large"),
    ({}, {"audio_encoder": None}, "name its base model"),
    ({}, {"llm": str(Path(__file__))}, r"test_importer\.py is no folder of transformers: it has no config\.json"),
    ({"prompt_audio": torch.ones(1, 2, 32)}, {}, "prompt_audio has a row that is none of the embeddings"),
    ({"llm.model.embed_tokens.weight": None}, {}, "holds no model of Omni-AVSR"),
    (
        {"llm.model.layers.0.self_attn.lora_down_Q.weight": torch.zeros(8, 32)},
        {},
        r"LoRA sets \['', '_shared', 'audio', 'audiovisual', 'video'\], which is none of S, T and ST",
    ),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("built")
    return folder, official_state(published_model(folder))


@pytest.mark.parametrize(("tensors", "changes", "message"), WRONG)
def test_what_does_not_fit_is_named(
    built: tuple[Path, dict[str, Tensor]], tensors: dict[str, Tensor | None], changes: dict[str, Any], message: str
) -> None:
    folder, state = built
    changed = {name: value for name, value in {**state, **tensors}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        import_state(changed, settings(folder, **changes))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", [1, 2], {"a": 1}, {}])
def test_files_that_are_no_checkpoints(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "x.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"x\.pth (is no checkpoint that can be read safely|holds no state dict)"):
        read_state(path)
    with pytest.raises(ValueError, match="nowhere"):
        read_state(tmp_path / "nowhere.pth")


def test_names_of_the_real_size_have_a_place(shared: Path) -> None:
    facts = json.loads((shared / "golden" / "keys_omni_avsr.json").read_text())
    rates = {Modality.AUDIO: (4, 16), Modality.VIDEO: (2, 5)}
    model = shaped_model(
        ModelConfig(
            llm=LLMConfig("meta-llama/Llama-3.2-1B"),
            audio_encoder=WhisperConfig("openai/whisper-medium.en", context="full", length="published"),
            video_encoder=AVHubertConfig(lora=LoRAConfig(64, 128.0)),
            projector=ProjectorConfig(2048, layer_norm=False),
            adapters=AdapterConfig("hybrid", 64, 8.0),
            markers=MarkerConfig("vocabulary", pad_row=True),
        ),
        seed=0,
        device="meta",
    )
    with torch.device("meta"):
        state = {name: torch.empty([abs(size) for size in shape]) for name, shape in facts["ST"].items()}
    ours = {name: list(value.shape) for name, value in own_names(state, rates).items()}
    own = {name: list(value.shape) for name, value in model.state_dict().items()}
    apart = {"markers.weight", "marker_outputs.weight", "llm.model.embed_tokens.base.weight", "llm.lm_head.base.weight"}
    assert ours == {name: shape for name, shape in own.items() if name not in apart}
