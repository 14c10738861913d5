"""The memory ledger against tensors that are really there: weights to the byte, the cache of transformers, graphs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_model import model_values, tiny_batch
from torch import Tensor, nn

from omni_avsr.build import build_model
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.edge.ledger import MemoryConstants, MemoryLedger, memory_ledger, planned_memory
from omni_avsr.edge.llm_memory import llm_sizes_of, matrix_bytes
from omni_avsr.edge.request import Request, lengths_in
from omni_avsr.edge.training_memory import GRAPH_SCALE, Step, training_memory
from omni_avsr.llm import generation_config
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.embed_link import EmbedLinkObjective
from omni_avsr.sequence import assemble, embed
from omni_avsr.shapes import shaped_model
from omni_avsr.stages import StageConfig, freeze_all_but, set_modes
from omni_avsr.types import Batch, Features, Modality, Rates, Task

NOTHING = MemoryConstants(libraries=0, overhead=0, scale=1.0)
RATES = Rates(2, 1)
AVHUBERT = {
    "kind": "avhubert",
    "dim": 32,
    "num_layers": 3,
    "num_heads": 2,
    "ffn_dim": 128,
    "channels": [4, 4, 8, 8],
    "lora": {"rank": 4, "alpha": 8},
}
LLM_SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 224,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def config_of(folder: Path, **settings: Any) -> ModelConfig:
    return from_mapping(ModelConfig, model_values(folder, **settings))


def held_bytes(model: nn.Module) -> int:
    """Of all parameters and buffers, each once."""
    tensors = {id(value): value for value in (*model.parameters(), *model.buffers())}
    return sum(value.nbytes for value in tensors.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("audio", "family", "video"),
    [
        ("whisper_full", "llama", {"ctc": True}),
        ("compact_audio", "qwen2", None),
        ("wavlm", "llama", {"kind": "avhubert", **AVHUBERT, "dtype": "bfloat16", "ctc": True}),
    ],
)
def test_weights_are_counted_to_the_byte(
    tmp_path: Path, audio: str, family: str, dtype: str, video: dict[str, Any] | None
) -> None:
    values = model_values(tmp_path, audio, family, llm={"dtype": dtype})
    if video is None or "kind" in video:
        values["video_encoder"] = video
    config = from_mapping(ModelConfig, values)
    real, ledger = build_model(config, seed=0), memory_ledger(shaped_model(config, 0, "meta"))
    assert sum(ledger.weights.values()) == held_bytes(real)
    adapters = [value.nbytes for name, value in real.named_parameters() if ".lora_" in name]
    assert ledger.weights["adapters"] == sum(adapters)
    projectors = [*real.projectors.parameters(), *real.markers.parameters()]
    assert ledger.weights["projectors"] == sum(value.nbytes for value in projectors)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantised_weights_are_counted_to_the_byte(tmp_path: Path, quantization: Any, tied: bool) -> None:
    values = model_values(tmp_path, llm={"dtype": "bfloat16", "quantization": quantization})
    shape = {**LLM_SHAPE, "tie_word_embeddings": tied}
    config = from_mapping(ModelConfig, values)
    real, ledger = shaped_model(config, 0, llm_shape=shape), planned_memory(config, shape)
    assert sum(ledger.weights.values()) == held_bytes(real)
    assert ledger.weight_format == quantization


def test_another_dtype_of_the_llm_needs_no_other_model(tmp_path: Path) -> None:
    one = shaped_model(config_of(tmp_path), 0, "meta")
    other = shaped_model(config_of(tmp_path, llm={"dtype": "bfloat16"}), 0, "meta")
    assert memory_ledger(one, "bfloat16").weights == memory_ledger(other).weights


def test_public_sizes_are_those_of_the_real_models() -> None:
    llm = {"weights": "meta-llama/Llama-3.2-1B", "dtype": "bfloat16"}
    model = {"llm": llm, "audio_encoder": {"kind": "whisper", "weights": "openai/whisper-medium.en"}}
    ledger = memory_ledger(shaped_model(from_mapping(ModelConfig, model), 0, "meta"))
    assert ledger.weights["llm"] + ledger.weights["embeddings"] == pytest.approx(2 * 1_235_814_400, rel=1e-6)
    assert ledger.weights["audio_encoder"] == 4 * 307_216_384
    # int8: a byte a weight; NF4: half a byte and a sixteenth, embeddings stay at a byte.
    embeddings = 128_256 * 2048
    by_format = {name: memory_ledger(ledger.model, "bfloat16", name) for name in ("int8", "nf4")}
    assert by_format["int8"].weights["embeddings"] == embeddings + 4 * 128_256
    assert by_format["int8"].weights["llm"] == pytest.approx(973.1e6 + 4 * 16 * 28_672, rel=0.01)
    assert by_format["nf4"].weights["llm"] == pytest.approx(0.5625 * 973.1e6, rel=0.001)


@pytest.mark.parametrize(
    ("quantization", "expected"), [(None, 2 * 30 * 64), ("int8", 30 * 64 + 4 * 30), ("nf4", 960 + 120)]
)
def test_a_matrix_in_each_format(quantization: Any, expected: int) -> None:
    assert matrix_bytes(30, 64, torch.bfloat16, quantization) == expected


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_cache_is_as_large_as_that_of_transformers(tmp_path: Path, dtype: str, num_beams: int) -> None:
    config = config_of(tmp_path, llm={"dtype": dtype})
    model, ledger = build_model(config, seed=0), memory_ledger(shaped_model(config, 0, "meta"))
    request = Request(Task.AVSR, RATES, 0.4, new_tokens=6, num_beams=num_beams, batch_size=2)
    prompt = lengths_in(ledger.model, request).prompt
    model.llm.generation_config.min_new_tokens = request.new_tokens
    found = model.llm.generate(
        inputs_embeds=torch.zeros(2, prompt, model.text.hidden_size, dtype=getattr(torch, dtype)),
        attention_mask=torch.ones(2, prompt, dtype=torch.int64),
        generation_config=generation_config(model.text, request.new_tokens, num_beams),
        return_dict_in_generate=True,
    )
    layers = found.past_key_values.layers
    assert ledger.transcribing(request, NOTHING).stages["tokens"]["kv_cache"] == sum(
        layer.keys.nbytes + layer.values.nbytes for layer in layers
    )


def test_prompts_are_as_long_as_those_that_are_assembled(tmp_path: Path) -> None:
    # Real tokenizers count otherwise than one token a word.
    prompts = {"asr": "hear", "vsr": "see", "avsr": "do"}
    config = config_of(tmp_path, prompts=prompts)
    model, planned = build_model(config, seed=0), shaped_model(config, 0, "meta")
    batch = tiny_batch(frames=(9,), texts=("a",))
    features = model.encode(batch.inputs)
    for task in Task:
        sequence = assemble(task, model.tokens(features, task, Rates(5, 3)), model.text_ids)
        request = Request(task, Rates(5, 3), int(batch.inputs[Modality.VIDEO].lengths[0]) / 25)
        letters = len(prompts[task]) - 1
        assert lengths_in(planned, request).prompt == sequence.ids.shape[1] - letters


def test_the_peak_is_the_fullest_stage_and_grows_with_what_is_asked(tmp_path: Path) -> None:
    ledger = memory_ledger(shaped_model(config_of(tmp_path), 0, "meta"))
    request = Request(Task.AVSR, RATES, 4.0)
    memory = ledger.transcribing(request, NOTHING)
    assert memory.peak == max(sum(parts.values()) for parts in memory.stages.values())
    assert set(memory.stages) == {"reading encoders", "reading", "encoding audio", "encoding video", "prompt", "tokens"}
    longer = ledger.transcribing(Request(Task.AVSR, RATES, 8.0), NOTHING)
    beams = ledger.transcribing(Request(Task.AVSR, RATES, 4.0, num_beams=5), NOTHING)
    batch = ledger.transcribing(Request(Task.AVSR, RATES, 4.0, batch_size=3), NOTHING)
    coarse = ledger.transcribing(Request(Task.AVSR, Rates(5, 3), 4.0), NOTHING)
    assert longer.peak > memory.peak
    assert batch.peak > memory.peak
    assert beams.stages["tokens"]["kv_cache"] == 5 * memory.stages["tokens"]["kv_cache"]
    assert coarse.stages["prompt"]["kv_cache"] < memory.stages["prompt"]["kv_cache"]
    assert set(ledger.transcribing(Request(Task.ASR, RATES, 4.0), NOTHING).stages) == set(memory.stages) - {
        "encoding video"
    }


def test_a_device_adds_libraries_overhead_and_the_allocators_share(tmp_path: Path) -> None:
    ledger, request = memory_ledger(shaped_model(config_of(tmp_path), 0, "meta")), Request(Task.VSR, RATES, 4.0)
    plain = ledger.transcribing(request, NOTHING)
    found = ledger.transcribing(request, MemoryConstants(libraries=500, overhead=70, scale=2.0))
    assert found.peak == plain.peak + 570 + plain.parts["activations"]


def test_full_context_costs_thirty_seconds_whatever_the_clip(tmp_path: Path) -> None:
    by_context = {}
    for context in ("full", "trimmed"):
        ledger = memory_ledger(shaped_model(config_of(tmp_path, audio=f"whisper_{context}"), 0, "meta"))
        by_context[context] = [
            ledger.transcribing(Request(Task.ASR, RATES, seconds), NOTHING).stages["encoding audio"]["activations"]
            for seconds in (0.1, 0.4)
        ]
    assert by_context["full"][0] == by_context["full"][1] > by_context["trimmed"][1] > by_context["trimmed"][0]


def test_what_a_model_cannot_do_is_told(tmp_path: Path) -> None:
    ledger = memory_ledger(shaped_model(config_of(tmp_path, audio="whisper_trimmed"), 0, "meta"))
    with pytest.raises(ValueError, match="rate 7 was not trained"):
        ledger.transcribing(Request(Task.ASR, Rates(7, 1), 0.4), NOTHING)
    with pytest.raises(ValueError, match=r"clips of at most 0\.6 s, not 5 s"):
        ledger.transcribing(Request(Task.ASR, RATES, 5.0), NOTHING)


def saved_bytes(work: Any, model: nn.Module) -> tuple[Any, int]:
    """What ``work`` gives, and the bytes that it keeps for a backward pass, parameters left out, each storage once."""
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        if value.untyped_storage().data_ptr() not in own:
            kept[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        result = work()
    return result, sum(value.untyped_storage().nbytes() for value in kept.values())


def kept_by_a_step(model: OmniAVSR, step: Step) -> int:
    length = round(25 * step.seconds)
    waveforms, crops = torch.randn(step.num_clips, 640 * length), torch.randn(step.num_clips, length, 88, 88)
    inputs = {Modality.AUDIO: Features.pad(list(waveforms)), Modality.VIDEO: Features.pad(list(crops))}

    def forward() -> Tensor:
        features = model.encode(inputs)
        tokens = model.tokens(features, Task.AVSR, step.rates)
        sequence = assemble(Task.AVSR, tokens, model.text_ids, [[5] * (step.num_labels - 1)] * step.num_clips)
        embed(sequence, tokens, model.llm.get_input_embeddings(), model.markers)
        return model._cross_entropy(Task.AVSR, tokens, sequence)

    with torch.autocast("cpu", torch.bfloat16, enabled=step.precision == "bf16-mixed"):
        return saved_bytes(forward, model)[1]


TRAINABLE = {
    "projectors": ["projectors.*", "markers.*"],
    "adapters": ["projectors.*", "markers.*", "llm.*lora_*"],
    "published": ["projectors.*", "*lora_*"],
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("trainable", list(TRAINABLE))
@pytest.mark.parametrize(
    ("dtype", "precision"), [("float32", "32-true"), ("bfloat16", "32-true"), ("bfloat16", "bf16-mixed")]
)
def test_what_a_step_keeps_is_foretold(trainable: str, dtype: str, precision: Any, checkpointing: bool) -> None:
    values = {
        "llm": {"weights": "tiny", "dtype": dtype},
        "audio_encoder": {"kind": "compact_audio", "dim": 16, "num_layers": 1, "num_heads": 2, "kernel": 3},
        "video_encoder": AVHUBERT,
        "compression": {"audio_rates": [2], "video_rates": [1]},
        "projector": {"hidden_dim": 48},
        "adapters": {"strategy": "hybrid", "rank": 4, "alpha": 8},
    }
    config = from_mapping(ModelConfig, values)
    stage = from_mapping(
        StageConfig,
        {
            "objective": {"kind": "recognition"},
            "trainable": TRAINABLE[trainable],
            "num_steps": 1,
            "gradient_checkpointing": checkpointing,
        },
    )
    step = Step(RATES, 4.0, 2, 12, precision)
    ledger = memory_ledger(shaped_model(config, 0, "meta", LLM_SHAPE))
    planned = training_memory(ledger, stage, step, NOTHING)
    graph = planned.stages["training"]["graph"] / GRAPH_SCALE
    model = shaped_model(config, 0, llm_shape=LLM_SHAPE)
    trained = freeze_all_but(model, stage.trainable)
    set_modes(model)
    if checkpointing:
        model.router.enable_gradient_checkpointing(model.llm)
    kept = kept_by_a_step(model, step)
    if checkpointing:
        # Hooks do not see the one layer that is computed again.
        without = training_memory(ledger, replace(stage, gradient_checkpointing=False), step, NOTHING)
        assert kept < graph < 0.6 * without.stages["training"]["graph"] / GRAPH_SCALE
    else:
        assert graph == pytest.approx(kept, rel=0.1)
    own = sum(value.nbytes for name, value in model.named_parameters() if name in trained)
    assert planned.stages["update"]["optimizer"] == planned.stages["update"]["gradients"] == 2 * own


@pytest.mark.parametrize("contrast", [0.0, 1.0])
@pytest.mark.parametrize(
    "projector",
    [
        {"hidden_dim": 48},
        {"kind": "bridgeformer", "hidden_dim": 64, "num_layers": 3, "num_heads": 4, "ffn_dim": 96, "num_tokens": 8},
        {"kind": "bridgeformer", "hidden_dim": 64, "num_layers": 2, "num_heads": 4, "ffn_dim": 96, "num_tokens": None},
    ],
)
def test_what_a_step_towards_the_embeddings_keeps_is_foretold(
    tmp_path: Path, projector: dict[str, Any], contrast: float
) -> None:
    trunk = {"dim": 40, "num_layers": 1, "num_heads": 2, "kernel": 3}
    values = model_values(tmp_path, projector=projector, llm={"dtype": "bfloat16"})
    values |= {"audio_encoder": {"kind": "compact_audio", **trunk}, "video_encoder": None}
    config = from_mapping(ModelConfig, values)
    objective = {"kind": "embed_link", "targets": "pooled", "contrast_weight": contrast}
    stage = from_mapping(StageConfig, {"objective": objective, "trainable": ["projectors.*"], "num_steps": 1})
    step = Step(RATES, 8.0, 3, 12)
    quantised = memory_ledger(shaped_model(config, 0, "meta", LLM_SHAPE), "bfloat16", "int8")
    planned = training_memory(quantised, stage, step, NOTHING)
    model = shaped_model(config, 0, llm_shape=LLM_SHAPE)
    freeze_all_but(model, stage.trainable)
    model.projectors.train()
    clips = tuple(replace(clip, text="a b") for clip in tiny_batch().clips)
    features = model.encode({Modality.AUDIO: Features.pad([torch.randn(8 * 16_000)] * 3)})
    batch = Batch(clips, {}, {}, 3, 0, features)
    link = EmbedLinkObjective(stage.objective, 0)  # type: ignore[arg-type]
    kept = saved_bytes(lambda: link(model, batch).loss, model)[1]
    kept -= sum(part.values.nbytes for part in features.values())
    assert planned.stages["training"]["graph"] / GRAPH_SCALE == pytest.approx(kept, rel=0.15)
    own = sum(value.nbytes for name, value in model.named_parameters() if name.startswith("projectors."))
    training = planned.stages["training"]
    assert (training["gradients"], training["optimizer"]) == (own, 2 * own)
    assert training["embeddings"] == model.llm.get_input_embeddings().weight.nbytes  # type: ignore[union-attr]
    assert training.keys().isdisjoint({"llm", "adapters", "kv_cache"})


def test_training_that_is_not_described_is_refused(tmp_path: Path) -> None:
    ledger = memory_ledger(shaped_model(config_of(tmp_path), 0, "meta"))
    stage = {"trainable": ["encoders.video.*"], "num_steps": 1}
    for objective, message in (
        ({"kind": "ctc", "modality": "video"}, "objective ctc is not known"),
        ({"kind": "recognition"}, r"encoders\.video\..* is trained"),
    ):
        with pytest.raises(ValueError, match=message):
            training_memory(
                ledger, from_mapping(StageConfig, {**stage, "objective": objective}), Step(RATES, 4.0, 1, 3), NOTHING
            )


def test_the_ledger_of_a_family_that_is_not_described_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    llm = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16))
    with pytest.raises(ValueError, match="GPT2LMHeadModel is not known"):
        llm_sizes_of(llm)


def test_a_ledger_names_the_format_of_its_weights(tmp_path: Path) -> None:
    model = shaped_model(config_of(tmp_path), 0, "meta")
    formats: list[MemoryLedger] = [memory_ledger(model), memory_ledger(model, "bfloat16", "nf4")]
    assert [ledger.weight_format for ledger in formats] == ["float32", "nf4"]
