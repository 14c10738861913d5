"""EmbedLink at word times: projected tokens meet the LLM's embeddings of what is said, and the LLM never runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_llm import tiny_model as tiny_transformer
from helpers_model import (
    model_values,
    run_config,
    single,
    stage_tensors,
    stage_values,
    tiny_batch,
    tiny_model,
    write_corpus,
)
from torch import Tensor, nn

from omni_avsr.build import build_model, build_without_decoder
from omni_avsr.checkpoint import load_checkpoint
from omni_avsr.compression import compress, draw_rates
from omni_avsr.config import ModelConfig, from_mapping
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.alignment import align_pooled, align_words
from omni_avsr.objectives.build import build_objective
from omni_avsr.objectives.embed_link import EmbedLinkObjective, project
from omni_avsr.run import run
from omni_avsr.stages import EmbedLinkObjectiveConfig, freeze_all_but
from omni_avsr.types import Batch, Features, Modality, Rates, Task, Word

WORDS = ((Word("bin", 0.04, 0.16), Word("blue", 0.16, 0.3)), (), (Word("set", 0.0, 0.12),))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OmniAVSR:
    return tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def batch() -> Batch:
    """Three clips; the second has no word times, and the third is silent at its end."""
    made = tiny_batch()
    return replace(made, clips=tuple(replace(c, words=w) for c, w in zip(made.clips, WORDS, strict=True)))


def embedding(model: OmniAVSR, word: str) -> Tensor:
    table = model.llm.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    return table[model.text.encode(f" {word}")].mean(0)


def test_a_token_should_be_the_word_spoken_in_its_middle(model: OmniAVSR) -> None:
    found = align_words(model.text, WORDS[0], 5, vectors_per_second=12.5)  # middles at 0.04, 0.12 ... s
    pieces = [model.text.encode(f" {word.text}") for word in WORDS[0]]
    assert found.ids.tolist() == [*pieces[0], *pieces[1]]
    for place, spoken in enumerate((0, 0, 1, 1)):
        expected = [0.0] * len(found.ids)
        start = len(pieces[0]) * spoken
        expected[start : start + len(pieces[spoken])] = [1 / len(pieces[spoken])] * len(pieces[spoken])
        assert found.weights[place].tolist() == pytest.approx(expected)
    assert not found.weights[4].any()
    assert align_words(model.text, (), 2, 12.5).weights.shape == (2, 0)


@pytest.mark.parametrize("num_vectors", [1, 3, 20])
def test_pooled_targets_are_means_of_the_transcripts_embeddings(model: OmniAVSR, num_vectors: int) -> None:
    text = "bin blue at f two now"
    found = align_pooled(model.text, text, num_vectors)
    assert found.ids.tolist() == model.text.encode(text)
    table = model.llm.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    own = table[found.ids]
    expected = nn.functional.adaptive_avg_pool1d(own.T[None], num_vectors)[0].T
    torch.testing.assert_close(found.weights @ own, expected)


def test_the_loss_is_squared_error_and_cosine_distance_averaged_over_tokens_then_clips(
    model: OmniAVSR, batch: Batch
) -> None:
    objective = EmbedLinkObjective(EmbedLinkObjectiveConfig(cosine_weight=0.5), seed=3)
    output = objective(model, batch)
    rates = draw_rates(model.config.compression, 3, batch.step)
    for modality, features in model.encode(batch.inputs).items():
        rate = rates.of(modality)
        tokens = model.projectors[modality](compress(features, rate, model.config.compression), rate)
        expected = []
        for row, clip in enumerate(batch.clips):
            losses = []
            for place in range(int(tokens.lengths[row])):
                middle = (place + 0.5) * rate / model.frame_rates[modality]
                for word in clip.words:
                    if word.start <= middle < word.end:
                        token, target = tokens.values[row, place], embedding(model, word.text)
                        cosine = torch.dot(token, target) / (token.norm() * target.norm())
                        squared = (token - target).square().mean() / model.text.embedding_std**2
                        losses.append((squared + 0.5 * (1 - cosine)).item())
            expected.append(sum(losses) / len(losses) if losses else 0.0)
        assert float(output.figures[f"{modality}_link"]) == pytest.approx(sum(expected) / 3, rel=1e-4)
    assert output.loss.item() == pytest.approx(sum(map(float, output.figures.values())), rel=1e-6)


def test_the_contrast_is_with_the_whole_vocabulary(model: OmniAVSR, batch: Batch) -> None:
    config = EmbedLinkObjectiveConfig(targets="pooled")
    plain = EmbedLinkObjective(config, 3)(model, batch).figures["audio_link"]
    contrast = replace(config, contrast_weight=0.5, temperature=0.2)
    found = EmbedLinkObjective(contrast, 3)(model, batch).figures["audio_link"] - plain
    tokens = project(model, model.encode(batch.inputs), draw_rates(model.config.compression, 3, batch.step))
    table, expected = model.llm.get_input_embeddings().weight, []
    assert isinstance(table, Tensor)
    for row, text in enumerate(batch.texts):
        own = tokens[Modality.AUDIO].values[row, : tokens[Modality.AUDIO].lengths[row]]
        alignment = align_pooled(model.text, text, len(own))
        cosines = nn.functional.cosine_similarity(own[:, None], table[None], dim=-1)
        log_probs = (cosines / 0.2).log_softmax(-1)
        expected.append(-(alignment.weights * log_probs[:, alignment.ids]).sum(1).mean().item())
    assert float(found) == pytest.approx(0.5 * sum(expected) / 3, rel=1e-4)


def test_the_nearest_embeddings_read_what_was_meant(model: OmniAVSR, batch: Batch) -> None:
    """Each token of a clip an embedding of its transcript, a little off."""
    objective = EmbedLinkObjective(EmbedLinkObjectiveConfig(), 3)
    table = model.llm.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    rows = [2.0 * table[torch.tensor(model.text.encode(text))].repeat_interleave(2, 0) + 1e-4 for text in batch.texts]
    with pytest.MonkeyPatch.context() as patch:
        meant = {Modality.VIDEO: Features.pad(rows)}
        patch.setattr("omni_avsr.objectives.embed_link.project", lambda *_: meant)
        found = objective.transcribe(model, batch)
    expected = [model.text.decode(torch.tensor(model.text.encode(t)).unique_consecutive()) for t in batch.texts]
    assert found == {"nearest_video": expected}


def test_words_that_a_ctc_head_heard_serve_as_times(model: OmniAVSR, batch: Batch) -> None:
    said = (Word("set", 0.0, 0.1), Word("white", 0.1, 0.3))
    timed = replace(batch, clips=tuple(replace(clip, words=said) for clip in batch.clips))
    expected = EmbedLinkObjective(EmbedLinkObjectiveConfig(), 3)(model, timed).figures
    objective, calls = EmbedLinkObjective(EmbedLinkObjectiveConfig(targets="heard"), 3), []

    def hear(log_probs: Tensor, text: str, frames_per_second: float) -> tuple[Word, ...]:
        calls.append((len(log_probs), text, frames_per_second))
        return said

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omni_avsr.objectives.embed_link.spoken_words", hear)
        for _ in range(2):  # the second time from what was found
            assert objective(model, batch).figures == expected
    lengths = {m: part.lengths.tolist() for m, part in model.encode(batch.inputs).items()}
    assert calls == [
        (lengths[modality][row], batch.texts[row], model.frame_rates[modality])
        for modality in lengths
        for row in range(3)
    ]


@pytest.mark.parametrize("targets", ["pooled", "words", "heard"])
def test_a_projector_of_fixed_length_takes_pooled_targets_alone(tmp_path: Path, batch: Batch, targets: str) -> None:
    config = EmbedLinkObjectiveConfig(targets=targets)  # type: ignore[arg-type]
    bridge = {"kind": "bridgeformer", "hidden_dim": 8, "num_layers": 1, "num_heads": 2, "num_tokens": 6}
    made = tiny_model(tmp_path, projector=bridge)
    if targets != "pooled":
        with pytest.raises(ValueError, match=r"pools a clip to 6; set model\.projector\.num_tokens=null, or targets"):
            build_objective(config, made.config, made, batch.clips, 0)
        return
    freeze_all_but(made, ["projectors.*"])
    output = build_objective(config, made.config, made, batch.clips, 0)(made, batch)
    output.loss.backward()
    assert output.num_tokens == 2 * 3 * 6


def test_clips_one_by_one_add_up_to_the_batch(model: OmniAVSR, batch: Batch) -> None:
    objective = EmbedLinkObjective(EmbedLinkObjectiveConfig(), 3)
    alone = sum(objective(model, single(batch, row)).loss.item() for row in range(3))
    assert alone == pytest.approx(objective(model, batch).loss.item(), rel=1e-4)


def test_the_llm_never_runs_and_only_projectors_learn(
    model: OmniAVSR, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    for module in model.llm.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_: passes.append(1))
    freeze_all_but(model, ["projectors.*"])
    objective = EmbedLinkObjective(EmbedLinkObjectiveConfig(), 3)
    before = objective(model, batch).loss
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    before.backward()
    for _ in range(30):
        optimizer.step()
        optimizer.zero_grad()
        loss = objective(model, batch).loss
        loss.backward()
    assert loss.item() < 0.7 * before.item()
    assert not passes


def test_stored_features_stand_in_for_inputs(model: OmniAVSR, batch: Batch) -> None:
    objective = EmbedLinkObjective(EmbedLinkObjectiveConfig(), 3)
    stored = replace(batch, inputs={}, features=model.encode(batch.inputs))
    assert objective(model, stored).loss.item() == objective(model, batch).loss.item()


def test_a_batch_of_sound_alone_trains_its_projector(model: OmniAVSR, batch: Batch) -> None:
    heard = replace(batch, inputs={Modality.AUDIO: batch.inputs[Modality.AUDIO]})
    figures = EmbedLinkObjective(EmbedLinkObjectiveConfig(), 3)(model, heard).figures
    assert float(figures["video_link"]) == 0  # there all the same, for the other ranks' sake
    assert (
        figures["audio_link"] == EmbedLinkObjective(EmbedLinkObjectiveConfig(), 3)(model, batch).figures["audio_link"]
    )


def test_a_corpus_without_word_times_is_refused(model: OmniAVSR) -> None:
    with pytest.raises(
        ValueError, match="embed_link with targets words needs word times, and no training clip has any"
    ):
        build_objective(EmbedLinkObjectiveConfig(), model.config, model, tiny_batch().clips, 0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", ["words", "pooled"])
def test_of_the_llm_the_embeddings_are_enough(tmp_path: Path, batch: Batch, tied: bool, targets: str) -> None:
    values = model_values(tmp_path)
    llm = tiny_transformer()
    if not tied:
        llm.config.tie_word_embeddings = False
        llm = type(llm)(llm.config)
    llm.save_pretrained(values["llm"]["weights"])
    config = from_mapping(ModelConfig, values)
    whole, part = build_model(config, 1).eval(), build_without_decoder(config, 1).eval()
    objective = EmbedLinkObjective(EmbedLinkObjectiveConfig(targets=targets, contrast_weight=1.0), 3)  # type: ignore[arg-type]
    assert objective(part, batch).figures == objective(whole, batch).figures
    assert objective.transcribe(part, batch) == objective.transcribe(whole, batch)
    table = part.llm.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    others = [value for name, value in part.llm.named_parameters() if value is not table]
    assert sum(value.numel() for value in others) == part.text.hidden_size  # the last norm
    with pytest.raises(ValueError, match="which this model was built without"):
        part.generate(part.encode(batch.inputs), Task.ASR, Rates(2, 1))


def test_it_is_a_stage_of_a_run(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    link = stage_values(
        "projector", 2, objective={"kind": "embed_link"}, trainable=["projectors.*"], feature_variants=1
    )
    output = run(run_config(tmp_path, tmp_path / "out", {"link": link, "joint": stage_values("joint", 1)}))
    trained = stage_tensors(output)
    assert all(name.startswith("projectors.") for name in trained["0-link"])
    assert (output / "checkpoint").is_dir()


def test_projectors_trained_alone_are_a_checkpoint_to_start_from(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    link = stage_values("projector", 2, objective={"kind": "embed_link"}, trainable=["projectors.*"])
    first = run(run_config(tmp_path, tmp_path / "first", {"link": link}, checkpoint_dtype="float32"))
    trained = stage_tensors(first)["0-link"]
    start = {"checkpoint": first / "checkpoint", "parts": ["projectors.*"]}
    marked = {"joint": stage_values("joint", 1, trainable=["markers.*"])}
    second = load_checkpoint(run(run_config(tmp_path, tmp_path / "second", marked, start=start)) / "checkpoint")
    assert trained
    for name, value in trained.items():
        assert torch.allclose(second.state_dict()[name], value, rtol=1e-3)  # stored in half precision
