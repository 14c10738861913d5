"""Whisper's decoder as a stage's objective: what it is divided by, what it trains, and how it is built."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_model import (
    TEXTS,
    model_values,
    run_values,
    single,
    stage_tensors,
    stage_values,
    tiny_batch,
    write_corpus,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration

from omni_avsr.build import Encoders, build_encoders
from omni_avsr.checkpoint import load_checkpoint
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.encoders.whisper_decoder import WhisperDecoderObjective
from omni_avsr.objectives.build import build_objective
from omni_avsr.objectives.decoder import DecoderObjective
from omni_avsr.resume import trained_state
from omni_avsr.run import RunConfig, run
from omni_avsr.stages import DecoderObjectiveConfig, freeze_all_but, set_modes
from omni_avsr.types import Batch, Features, Modality, Task

END, START, NO_TIMESTAMPS = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
SPECIALS = [END, START, NO_TIMESTAMPS, "<|transcribe|>", "<|en|>"]
CHARACTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = {token: i for i, token in enumerate([*SPECIALS, *CHARACTERS, *(f" {char}" for char in CHARACTERS)])}
NUM_TOKENS = (8, 2, 6)
"""Scored tokens of TEXTS: "bin blue", "a", "set it"; a space belongs to the letter behind it, and the end counts."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter; a letter with the space before it is a token of its own."""
    letters = Tokenizer(models.WordLevel(VOCABULARY, unk_token=END))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex(" ?[a-z]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=letters, additional_special_tokens=SPECIALS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a random English-only Whisper with its tokenizer, where ``model_values`` expects one."""
    made = tmp_path_factory.mktemp("models")
    config = WhisperConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=30,
        max_target_positions=16,
        vocab_size=len(VOCABULARY),
        init_std=0.5,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        WhisperForConditionalGeneration(config).save_pretrained(made / "whisper")
    tokenizer().save_pretrained(made / "whisper")
    return made


def model_config(folder: Path, audio: str = "whisper_trimmed") -> ModelConfig:
    return from_mapping(ModelConfig, model_values(folder, audio))


@pytest.fixture
def model(folder: Path) -> Encoders:
    return build_encoders(model_config(folder), 0, [Modality.AUDIO])


@pytest.fixture
def objective(folder: Path) -> DecoderObjective:
    return DecoderObjective(WhisperDecoderObjective.from_folder(folder / "whisper"))


@pytest.fixture
def batch() -> Batch:
    """Sound of three clips; VSR's total is another one, so that using it shows."""
    made = tiny_batch()
    totals = {Task.ASR: sum(NUM_TOKENS), Task.VSR: 1}
    return replace(made, inputs={Modality.AUDIO: made.inputs[Modality.AUDIO]}, num_label_tokens=totals)


def gradients(module: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def expected_sum(folder: Path, encoded: Features, texts: Sequence[str]) -> float:
    """Summed cross entropy of each clip alone, by transformers' own forward pass."""
    whisper = WhisperForConditionalGeneration.from_pretrained(folder / "whisper").eval()
    summed = 0.0
    for row, text in enumerate(texts):
        words = text.split(" ")
        tokens = [token for word in words for token in (f" {word[0]}", *word[1:])]
        ids = torch.tensor([VOCABULARY[token] for token in (START, NO_TIMESTAMPS, *tokens, END)])
        features = encoded.values[row : row + 1, : int(encoded.lengths[row])]
        logits = whisper(encoder_outputs=(features,), decoder_input_ids=ids[None, :-1]).logits[0]
        summed += float(F.cross_entropy(logits[1:], ids[2:], reduction="sum"))
    return summed


@torch.no_grad()
def test_the_loss_is_the_summed_cross_entropy_over_the_asr_label_tokens(
    folder: Path, model: Encoders, objective: DecoderObjective, batch: Batch
) -> None:
    encoded = model.encoders["audio"](batch.inputs[Modality.AUDIO])
    summed = expected_sum(folder, encoded, TEXTS)
    output = objective(model, batch)
    assert float(output.loss) == pytest.approx(summed / 16, rel=1e-5)
    assert float(output.figures["decoder"]) == float(output.loss)
    twice = replace(batch, num_label_tokens={Task.ASR: 32})
    assert float(objective(model, twice).loss) == pytest.approx(summed / 32, rel=1e-5)
    assert output.num_tokens == int(encoded.lengths.sum())
    assert output.num_padded_tokens == len(TEXTS) * int(encoded.lengths.max())


@pytest.mark.parametrize(("text", "count"), [*zip(TEXTS, NUM_TOKENS, strict=True), (" a ", 2)])
def test_label_tokens_are_the_tokens_of_the_text_and_the_end(
    text: str, count: int, model: Encoders, objective: DecoderObjective
) -> None:
    assert objective.num_label_tokens(model, text) == count


def test_gradients_reach_all_of_the_encoder_and_nothing_of_the_decoder(
    model: Encoders, objective: DecoderObjective, batch: Batch
) -> None:
    freeze_all_but(model, ["encoders.audio.*"])
    stage = nn.ModuleDict({"model": model, "objective": objective})
    set_modes(stage)
    objective(model, batch).loss.backward()
    assert all(grad is not None and bool(grad.abs().max() > 0) for grad in gradients(model).values())
    assert set(gradients(objective).values()) == {None}
    assert not any(part.training for part in objective.modules())
    assert {name.split(".")[0] for name in trained_state(stage)} == {"model"}


def test_two_micro_batches_add_up_to_the_batch(model: Encoders, objective: DecoderObjective, batch: Batch) -> None:
    freeze_all_but(model, ["encoders.audio.*"])
    together = objective(model, batch)
    together.loss.backward()
    whole = gradients(model)
    model.zero_grad()
    audio = batch.inputs[Modality.AUDIO]
    first = {Modality.AUDIO: Features(audio.values[:2], audio.lengths[:2])}
    parts = [replace(batch, clips=batch.clips[:2], inputs=first), single(batch, 2)]
    outputs = [objective(model, part) for part in parts]
    for output in outputs:
        output.loss.backward()
    assert sum(output.loss.item() for output in outputs) == pytest.approx(together.loss.item(), rel=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-3, atol=1e-5, msg=name)
    assert sum(output.num_tokens for output in outputs) == together.num_tokens


def test_training_by_it_lowers_the_loss(model: Encoders, objective: DecoderObjective, batch: Batch) -> None:
    freeze_all_but(model, ["encoders.audio.*"])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(10):
        loss = objective(model, batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_there_is_nothing_to_read_in_validation(model: Encoders, objective: DecoderObjective, batch: Batch) -> None:
    assert objective.transcribe(model, batch) == {}


def test_it_is_built_from_the_settings_of_the_stage_and_the_model(
    folder: Path, model: Encoders, objective: DecoderObjective, batch: Batch
) -> None:
    built = build_objective(DecoderObjectiveConfig(), model_config(folder), model, batch.clips, seed=0)
    assert isinstance(built, DecoderObjective)
    with torch.no_grad():
        assert torch.equal(built(model, batch).loss, objective(model, batch).loss)


def test_a_language_that_the_whisper_cannot_take_is_an_error(folder: Path, model: Encoders, batch: Batch) -> None:
    config = DecoderObjectiveConfig(language="en")
    with pytest.raises(ValueError, match='takes no language, but "en" was asked for'):
        build_objective(config, model_config(folder), model, batch.clips, seed=0)


def test_an_audio_encoder_that_is_no_whisper_is_an_error(folder: Path, batch: Batch) -> None:
    compact = model_config(folder, "compact_audio")
    model = build_encoders(compact, 0, [Modality.AUDIO])
    with pytest.raises(ValueError, match=r"trains a Whisper encoder; model\.audio_encoder is none"):
        build_objective(DecoderObjectiveConfig(), compact, model, batch.clips, seed=0)


def test_a_run_trains_the_encoder_by_it_and_then_the_rest(folder: Path) -> None:
    write_corpus(folder / "corpus")
    stage = stage_values("joint", 2, objective={"kind": "whisper_decoder"}, trainable=["encoders.audio.*"])
    values = run_values(folder, folder / "decoder", {"audio_encoder": stage})
    values["model"] = model_values(folder, "whisper_trimmed")
    run(from_mapping(RunConfig, values))
    record = json.loads((folder / "decoder" / "stages" / "0-audio_encoder" / "record.json").read_text())
    assert 0 < record["metrics"]["validation/loss"] < 100
    assert (folder / "decoder" / "stages" / "0-audio_encoder" / "learning-curve.png").is_file()
    trained = stage_tensors(folder / "decoder")["0-audio_encoder"]
    assert {name.split(".")[1] for name in trained} == {"audio"}
    # The LLM never ran: there is no model to put into a checkpoint yet.
    assert not (folder / "decoder" / "checkpoint").exists()
    values["stages"]["joint"] = stage_values("joint", 1)
    run(from_mapping(RunConfig, values))
    state = load_checkpoint(folder / "decoder" / "checkpoint").state_dict()
    for name, value in trained.items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-3)
