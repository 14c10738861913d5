"""The published code's behaviour, switch by switch, beside ours; what parity with reference outputs does not cover."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers_llm import tiny_llm, tiny_model
from helpers_model import TEXTS, save_tiny_whisper, tiny_batch
from helpers_published import published_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from omni_avsr.adapters import add_adapters
from omni_avsr.beams import published_beam_stop
from omni_avsr.conditions import PUBLISHED_LEVELS, ConditionInputs
from omni_avsr.config import (
    AdapterConfig,
    MarkerConfig,
    ModelConfig,
    ProjectorConfig,
    PublishedSearch,
    WhisperConfig,
    from_mapping,
    to_mapping,
)
from omni_avsr.data.batching import BatchingConfig, ClipSize, plan_epoch
from omni_avsr.data.config import DataConfig
from omni_avsr.data.dataset import FileReader
from omni_avsr.data.noise import NoiseSource
from omni_avsr.data.noise_recording import MemoryRecording
from omni_avsr.encoders.build import build_encoder
from omni_avsr.encoders.whisper import WhisperEncoder
from omni_avsr.llm import generation_config
from omni_avsr.media import write_audio
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.recognition import RecognitionObjective
from omni_avsr.resume import trained_state
from omni_avsr.sequence import TextIds, assemble, with_scored_padding
from omni_avsr.stages import RecognitionObjectiveConfig, StageConfig, freeze_all_but, set_modes
from omni_avsr.types import IGNORE_INDEX, MATCHED, Clip, Features, Modality, Rates, Task
from omni_avsr.vocabulary import extend_vocabulary

RATES = Rates(2, 3)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> OmniAVSR:
    return published_model(tmp_path_factory.mktemp("published"))


def test_both_matrices_of_adapters_may_start_normal() -> None:
    model = tiny_model()
    config = AdapterConfig("shared", rank=8, init="normal")
    add_adapters(model, config, torch.Generator().manual_seed(0))
    values = [value for name, value in model.named_parameters() if ".lora_" in name]
    assert len(values) == 8
    assert torch.cat([value.flatten() for value in values]).std().item() == pytest.approx(0.02, rel=0.1)
    assert all(value.any() for value in values)


@pytest.mark.parametrize(("samples", "expected"), [(320 * 27 + 319, 27), (320 * 26, 26), (320 * 3, 25), (1, 25)])
def test_a_clip_keeps_its_whole_20_ms_and_25_features_at_least(tmp_path: Path, samples: int, expected: int) -> None:
    weights = str(save_tiny_whisper(tmp_path))
    published = build_encoder(WhisperConfig(weights, context="full", length="published"))
    ours = build_encoder(WhisperConfig(weights, context="full"))
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, own = published(Features.pad([waveform])), ours(Features.pad([waveform]))
    assert found.lengths.tolist() == [expected]
    assert own.lengths.tolist() == [math.ceil(samples / 320)]
    shared = min(expected, math.ceil(samples / 320))
    torch.testing.assert_close(found.values[:, :shared], own.values[:, :shared], rtol=0, atol=0)
    assert found.values[0, -1].any()


def test_whole_20_ms_are_counted_in_float32_as_published(tmp_path: Path) -> None:
    config = transformers.WhisperConfig.from_pretrained(save_tiny_whisper(tmp_path))
    config.max_source_positions = 60
    encoder = WhisperEncoder(config, "full", "published").eval()
    with torch.no_grad():
        found = encoder(Features.pad([torch.randn(320 * whole) for whole in (52, 53, 54, 59, 60)]))
    assert found.lengths.tolist() == [52, 52, 54, 58, 60]


def test_features_behind_a_clip_need_the_full_context() -> None:
    with pytest.raises(ValueError, match="which only context full has"):
        WhisperConfig("w", context="trimmed", length="published")


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_extended_llm_reads_and_writes_markers(tmp_path: Path, family: str) -> None:
    llm = tiny_llm(tmp_path, family)
    base, head = llm.model.get_input_embeddings(), llm.model.get_output_embeddings()
    assert isinstance(base, nn.Embedding)
    assert head is not None
    markers = nn.Embedding(5, llm.hidden_size)
    rows = extend_vocabulary(llm.model, MarkerConfig("vocabulary", pad_row=True, vocab_size=90), markers)
    ids = torch.tensor([0, 89, 90, 94])
    with torch.no_grad():
        expected = torch.cat([base.weight[[0, 89]], markers.weight[[0, 4]]])
        torch.testing.assert_close(llm.model.get_input_embeddings()(ids), expected, rtol=0, atol=0)
        hidden = torch.randn(2, llm.hidden_size)
        logits = llm.model.get_output_embeddings()(hidden)
        torch.testing.assert_close(logits[:, :90], head(hidden)[:, :90], rtol=0, atol=0)
        torch.testing.assert_close(logits[:, 90:], hidden @ rows.weight.T)
    assert logits.shape == (2, 95)


def test_a_written_marker_is_read_again_and_is_no_text(published: OmniAVSR) -> None:
    batch = tiny_batch()
    features = published.encode(batch.inputs)
    assert published.marker_outputs is not None
    own = published.marker_outputs.weight.clone()
    vocab_size = published.config.markers.vocab_size
    assert vocab_size is not None
    try:
        published.marker_outputs.weight.mul_(1e3)  # now a marker is always the likeliest, whatever its sign
        ids = published.generate_ids(features, Task.AVSR, RATES, max_new_tokens=4)
        assert bool((ids >= vocab_size).any())
        assert all(isinstance(text, str) for text in published.generate(features, Task.AVSR, RATES, max_new_tokens=4))
    finally:
        published.marker_outputs.weight.copy_(own)


def test_an_llm_with_fewer_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vocab_size is 97, but the LLM has 96 embeddings"):
        extend_vocabulary(tiny_llm(tmp_path).model, MarkerConfig("vocabulary", vocab_size=97), nn.Embedding(4, 32))


@pytest.mark.parametrize("change", [{"pad_row": True}, {"vocab_size": 9}])
def test_markers_beside_the_vocabulary_have_no_rows_in_it(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="are of markers whose place is the vocabulary"):
        MarkerConfig(**change)


def test_layer_norm_may_differ_by_modality() -> None:
    config = ProjectorConfig(layer_norm={Modality.AUDIO: True, Modality.VIDEO: False})
    assert [config.has_layer_norm(modality) for modality in Modality] == [True, False]
    assert from_mapping(ProjectorConfig, to_mapping(config)) == config


def test_attended_padding_counts_as_the_clips_own(published: OmniAVSR) -> None:
    batch, frames = tiny_batch(), 9
    config = published.config
    try:
        published.config = replace(config, padding="attended")
        lengths = {m: f.lengths.tolist() for m, f in published.encode(batch.inputs).items()}
    finally:
        published.config = config
    assert lengths[Modality.VIDEO] == [frames] * 3
    assert len(set(lengths[Modality.AUDIO])) == 1
    assert published.encode(batch.inputs)[Modality.VIDEO].lengths.tolist() == [9, 4, 7]


def test_sampling_follows_its_seed_and_leaves_the_global_state_alone(published: OmniAVSR) -> None:
    features = published.encode(tiny_batch().inputs)
    state = torch.get_rng_state()
    texts = [
        published.generate(features, Task.ASR, RATES, 1, 12, PublishedSearch(temperature=2.0, top_p=1.0, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_sampling_is_by_the_settings_of_llama_and_of_transformers(published: OmniAVSR) -> None:
    settings = generation_config(published.text, published=PublishedSearch(temperature=0.6))
    assert (settings.do_sample, settings.temperature, settings.top_p, settings.top_k) == (True, 0.6, 0.9, 50)


def test_greedy_search_is_the_same_by_either_rule(published: OmniAVSR) -> None:
    features = published.encode(tiny_batch().inputs)
    plain = published.generate(features, Task.ASR, RATES, 1, 8)
    assert published.generate(features, Task.ASR, RATES, 1, 8, PublishedSearch()) == plain


def test_the_stop_rule_is_gone_after_the_block() -> None:
    model = tiny_model()
    before = dict(vars(model))
    with pytest.raises(KeyError, match="stop"):
        stopped(model)
    assert vars(model).keys() == before.keys()


def stopped(model: PreTrainedModel) -> None:
    own = set(vars(model))
    with published_beam_stop(model):
        assert set(vars(model)) - own
        raise KeyError("stop")


def loss_of(
    model: OmniAVSR, config: RecognitionObjectiveConfig, frames: tuple[int, ...], texts: tuple[str, ...]
) -> float:
    with torch.no_grad():
        return float(RecognitionObjective(config, 0, 4)(model, tiny_batch(0, frames, texts)).loss)


def test_averaging_by_clips_divides_a_batch_mean_by_the_clips(published: OmniAVSR) -> None:
    weights = {Task.ASR: 1.0}
    tokens = RecognitionObjectiveConfig(task_weights=weights)
    clips = RecognitionObjectiveConfig(task_weights=weights, averaging="clips")
    ratio = loss_of(published, tokens, (9, 4, 7), TEXTS) / loss_of(published, clips, (9, 4, 7), TEXTS)
    assert ratio == pytest.approx(3.0)
    ratio = loss_of(published, tokens, (9,), ("bin blue",)) / loss_of(published, clips, (9,), ("bin blue",))
    assert ratio == pytest.approx(1.0)


def test_validation_by_clips_is_the_mean_of_a_batch(published: OmniAVSR) -> None:
    clips = RecognitionObjective(RecognitionObjectiveConfig(averaging="clips"), 0, 4).eval()
    tokens = RecognitionObjective(RecognitionObjectiveConfig(), 0, 4).eval()
    with torch.no_grad():
        found, expected = (float(objective(published, tiny_batch()).loss) for objective in (clips, tokens))
    assert found == pytest.approx(expected)


def test_scored_padding_is_eos_to_the_loss_and_real_to_the_attention() -> None:
    tokens = {Modality.AUDIO: Features(torch.zeros(2, 2, 1), torch.tensor([2, 1]))}
    text = TextIds(None, 1, {Task.ASR: [5]})
    plain = assemble(Task.ASR, tokens, text, [[7, 8, 9], [7]])
    scored = with_scored_padding(plain)
    assert plain.attention_mask[1].tolist().count(0) == 3
    assert bool(scored.attention_mask.all())
    assert scored.labels[1, -3:].tolist() == [1, 1, 1]
    assert plain.labels[1, -3:].tolist() == [IGNORE_INDEX] * 3
    assert torch.equal(scored.labels[0], plain.labels[0])


def test_scored_padding_moves_the_loss_of_unequal_texts_alone(published: OmniAVSR) -> None:
    plain = RecognitionObjectiveConfig(averaging="clips")
    scored = replace(plain, score_padding=True)
    assert loss_of(published, scored, (9, 4), ("see", "a")) != pytest.approx(
        loss_of(published, plain, (9, 4), ("see", "a"))
    )
    alone = (loss_of(published, scored, (9,), ("see",)), loss_of(published, plain, (9,), ("see",)))
    assert alone[0] == pytest.approx(alone[1])
    with pytest.raises(ValueError, match="score_padding needs averaging clips"):
        RecognitionObjectiveConfig(score_padding=True)


def statistics(model: OmniAVSR) -> Tensor:
    return torch.cat([value.flatten() for name, value in model.named_buffers() if name.endswith("running_mean")])


def test_a_drifting_encoder_moves_its_statistics_and_they_are_kept(tmp_path: Path) -> None:
    model, batch = published_model(tmp_path), tiny_batch()
    freeze_all_but(model, ["projectors.*", "encoders.video.*lora_*"])
    set_modes(model)
    before = statistics(model).clone()
    model.encode(batch.inputs)
    assert torch.equal(statistics(model), before)
    assert not [name for name in trained_state(model) if "running_mean" in name]
    set_modes(model, ["encoders.video"])
    model.encode(batch.inputs)
    assert not torch.equal(statistics(model), before)
    kept = [name for name in trained_state(model) if "running_mean" in name]
    assert kept
    assert all(name.startswith("encoders.video.") for name in kept)
    assert not model.encoders["audio"].training
    with pytest.raises(ValueError, match="matches no module to leave in training mode"):
        set_modes(model, ["encoders.smell"])


def test_drifting_features_cannot_be_stored() -> None:
    with pytest.raises(ValueError, match="set feature_variants to 0"):
        StageConfig(
            RecognitionObjectiveConfig(), ("projectors.*",), 1, drifting=("encoders.video",), feature_variants=2
        )


def test_fixed_batches_are_the_same_in_every_epoch_but_for_their_order() -> None:
    sizes = [ClipSize(20 + index % 13, 3, (Modality.AUDIO,)) for index in range(60)]
    fixed = BatchingConfig(max_clips=4, max_frames=100, composition="fixed")
    epochs = [plan_epoch(sizes, fixed, 7, epoch) for epoch in range(2)]
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]
    drawn = [set(plan_epoch(sizes, replace(fixed, composition="drawn"), 7, epoch)) for epoch in range(2)]
    assert drawn[0] != drawn[1]


def test_zero_db_as_published_is_any_level() -> None:
    clips = [Clip(f"c{number}", "a", "test", 1.0, Path("a")) for number in range(60)]
    noise = NoiseSource([MemoryRecording(torch.randn(4000, generator=torch.Generator().manual_seed(1)))], "clip")
    speech = 0.01 * torch.randn(2000, generator=torch.Generator().manual_seed(2))

    def levels(zero_db: Any, snr_db: float) -> list[float]:
        inputs = ConditionInputs(clips, FileReader(), noise, 3, zero_db)
        found = [inputs.waveform(index, speech, snr_db, MATCHED) - speech for index in range(len(clips))]
        return [10 * math.log10(speech.square().mean() / n.square().mean()) if n.any() else math.inf for n in found]

    assert levels("exact", 0.0) == pytest.approx([0.0] * len(clips), abs=0.1)
    assert levels("published", -2.5) == pytest.approx([-2.5] * len(clips), abs=0.1)
    drawn = {level if level == math.inf else float(round(level)) for level in levels("published", 0.0)}
    assert drawn == {math.inf if level is None else level for level in PUBLISHED_LEVELS}


def test_training_on_test_noise_has_to_be_said(tmp_path: Path) -> None:
    noise = tmp_path / "babble.wav"
    write_audio(noise, (0.1 * torch.randn(32_000, generator=torch.Generator().manual_seed(0))).numpy())
    config = DataConfig(noise=noise, test_noise=noise)
    with pytest.raises(ValueError, match="babble"):
        config.read_noise()
    assert replace(config, shared_noise=True).read_noise() is not None


def test_settings_of_the_model_survive_json(published: OmniAVSR) -> None:
    assert from_mapping(ModelConfig, to_mapping(published.config)) == published.config
