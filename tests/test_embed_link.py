"""EmbedLink at word times: projected tokens meet the LLM's embeddings of what is said, and the LLM never runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_model import run_config, single, stage_tensors, stage_values, tiny_batch, tiny_model, write_corpus
from torch import Tensor, nn

from omni_avsr.checkpoint import load_checkpoint
from omni_avsr.compression import compress, draw_rates
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.build import build_objective
from omni_avsr.objectives.embed_link import EmbedLinkObjective, embedding_targets
from omni_avsr.run import run
from omni_avsr.stages import EmbedLinkObjectiveConfig, freeze_all_but
from omni_avsr.types import Batch, Features, Modality, Word

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


def test_a_token_should_be_the_word_spoken_in_its_middle(model: OmniAVSR, batch: Batch) -> None:
    tokens = Features(torch.zeros(3, 5, model.text.hidden_size), torch.tensor([5, 2, 4]))
    targets, scored = embedding_targets(model, batch.clips, tokens, tokens_per_second=12.5)  # middles 0.04, 0.12 ... s
    assert scored.tolist() == [[True] * 4 + [False], [False] * 5, [True] + [False] * 4]
    for place, word in enumerate(("bin", "bin", "blue", "blue")):
        assert torch.equal(targets[0, place], embedding(model, word))
    assert torch.equal(targets[2, 0], embedding(model, "set"))


def test_the_loss_is_squared_error_and_cosine_distance_averaged_over_tokens_then_clips(
    model: OmniAVSR, batch: Batch
) -> None:
    objective = EmbedLinkObjective(cosine_weight=0.5, seed=3)
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


def test_clips_one_by_one_add_up_to_the_batch(model: OmniAVSR, batch: Batch) -> None:
    objective = EmbedLinkObjective(1.0, 3)
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
    objective = EmbedLinkObjective(1.0, 3)
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
    objective = EmbedLinkObjective(1.0, 3)
    stored = replace(batch, inputs={}, features=model.encode(batch.inputs))
    assert objective(model, stored).loss.item() == objective(model, batch).loss.item()


def test_a_batch_of_sound_alone_trains_its_projector(model: OmniAVSR, batch: Batch) -> None:
    heard = replace(batch, inputs={Modality.AUDIO: batch.inputs[Modality.AUDIO]})
    figures = EmbedLinkObjective(1.0, 3)(model, heard).figures
    assert float(figures["video_link"]) == 0  # there all the same, for the other ranks' sake
    assert figures["audio_link"] == EmbedLinkObjective(1.0, 3)(model, batch).figures["audio_link"]


def test_a_corpus_without_word_times_is_refused(model: OmniAVSR) -> None:
    with pytest.raises(ValueError, match="embed_link needs word times, and no training clip has any"):
        build_objective(EmbedLinkObjectiveConfig(), model.config, model, tiny_batch().clips, 0)


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
