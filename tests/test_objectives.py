"""What stages minimise: weights of tasks, means over the global batch, frame targets, rates drawn from the seed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_model import TEXTS, single, tiny_batch, tiny_model
from torch import nn

from omni_avsr.compression import draw_rates
from omni_avsr.encoders.ctc import encode_text
from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.base import Objective, ObjectiveOutput
from omni_avsr.objectives.build import build_objective
from omni_avsr.objectives.ctc import CTCObjective
from omni_avsr.objectives.frame_targets import (
    AudioCTCFrameTargets,
    AudioFeatureFrameTargets,
    WordFrameTargets,
    per_frame,
)
from omni_avsr.objectives.recognition import RecognitionObjective, step_passes
from omni_avsr.stages import CTCObjectiveConfig, RecognitionObjectiveConfig
from omni_avsr.types import IGNORE_INDEX, Batch, Features, Modality, Rates, Task, Word

WEIGHTS = {Task.ASR: 1.0, Task.VSR: 1.5, Task.AVSR: 1.0}
VOCABULARY = ["bin", "blue"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OmniAVSR:
    """In eval mode, so without dropout."""
    return tiny_model(tmp_path_factory.mktemp("models"), compression={"audio_rates": [1, 2, 3], "video_rates": [1, 2]})


@pytest.fixture
def batch() -> Batch:
    """Clips with word times; the second word of the third clip is not in the vocabulary."""
    made = tiny_batch()
    times = [("bin", 0.04, 0.16), ("blue", 0.16, 0.3)], [("blue", 0.0, 0.1)], [("bin", 0.0, 0.12), ("odd", 0.12, 0.28)]
    words = [tuple(Word(*word) for word in row) for row in times]
    return replace(made, clips=tuple(replace(c, words=w) for c, w in zip(made.clips, words, strict=True)))


def frame_targets(dim: int = 16) -> WordFrameTargets:
    torch.manual_seed(0)
    return WordFrameTargets(dim, VOCABULARY)


def objectives() -> Mapping[str, Objective]:
    return {
        "recognition": RecognitionObjective(RecognitionObjectiveConfig(task_weights=WEIGHTS), 3, 8),
        "audio_ctc": CTCObjective(Modality.AUDIO),
        "video_ctc_with_words": CTCObjective(Modality.VIDEO, {"words": frame_targets()}, {"words": 0.5}),
    }


def with_totals(objective: Objective, model: nn.Module, batch: Batch) -> Batch:
    """The batch with the totals that the planner would give it, by the objective's own count."""
    total = sum(objective.num_label_tokens(model, text) for text in batch.texts)
    return replace(batch, num_label_tokens=dict.fromkeys(Task, total))


def test_the_loss_is_the_weighted_sum_of_the_task_losses_over_their_number(model: OmniAVSR, batch: Batch) -> None:
    output = RecognitionObjective(RecognitionObjectiveConfig(task_weights=WEIGHTS), 3, 8)(model, batch)
    asr, vsr, avsr = (float(output.figures[f"{task}_loss"]) for task in Task)
    assert len({asr, vsr, avsr}) == 3
    assert output.loss.item() == pytest.approx((asr + 1.5 * vsr + avsr) / 3, rel=1e-6)
    assert float(output.figures["loss"]) == output.loss.item()


def test_a_task_loss_is_the_mean_over_label_tokens_not_over_clips(model: OmniAVSR, batch: Batch) -> None:
    output = RecognitionObjective(RecognitionObjectiveConfig(task_weights=WEIGHTS), 3, 8)(model, batch)
    rates = draw_rates(model.config.compression, 3, batch.step)
    counts = [len(text) + 1 for text in TEXTS]
    assert len(set(counts)) == 3
    means = []
    for row, count in enumerate(counts):
        one = single(batch, row)
        alone = model.loss(model.encode(one.inputs), one.texts, rates, {Task.AVSR: 1.0}, {Task.AVSR: count})
        means.append(alone.loss.item())
    expected = sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts)
    assert float(output.figures["avsr_loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", objectives())
def test_micro_batches_with_the_global_totals_add_up_to_the_batch(name: str, model: OmniAVSR, batch: Batch) -> None:
    objective = objectives()[name]
    whole = with_totals(objective, model, batch)
    together = objective(model, whole)
    parts = [objective(model, single(whole, row)) for row in range(len(batch))]
    assert together.loss.item() == pytest.approx(sum(part.loss.item() for part in parts), rel=1e-5)
    assert together.figures.keys() == parts[0].figures.keys()
    for figure, value in together.figures.items():
        assert float(value) == pytest.approx(sum(float(part.figures[figure]) for part in parts), rel=1e-5)
    assert together.num_tokens == sum(part.num_tokens for part in parts)
    assert all(part.num_tokens == part.num_padded_tokens for part in parts)
    assert together.num_tokens < together.num_padded_tokens


def test_the_ctc_loss_is_in_nats_per_character(model: OmniAVSR, batch: Batch) -> None:
    objective = CTCObjective(Modality.AUDIO)
    whole = with_totals(objective, model, batch)
    assert whole.num_label_tokens[Task.ASR] == sum(map(len, TEXTS))
    encoder = model.encoders["audio"]
    features = encoder(batch.inputs[Modality.AUDIO])
    log_probs = encoder.ctc(features).values
    losses = [
        nn.functional.ctc_loss(
            log_probs[row, :length],
            torch.tensor(encode_text(text)),
            length,
            torch.tensor(len(text)),
            reduction="sum",
            zero_infinity=True,
        )
        for row, (text, length) in enumerate(zip(TEXTS, features.lengths, strict=True))
    ]
    expected = float(sum(losses)) / sum(map(len, TEXTS))
    assert float(objective(model, whole).loss) == pytest.approx(expected, rel=1e-5)


def test_frame_targets_add_their_weighted_mean_over_clips(model: OmniAVSR, batch: Batch) -> None:
    objective = CTCObjective(Modality.VIDEO, {"words": frame_targets()}, {"words": 0.5})
    output = objective(model, with_totals(objective, model, batch))
    assert output.loss.item() == pytest.approx(float(output.figures["ctc"] + 0.5 * output.figures["words"]), rel=1e-6)
    features = model.encoders["video"](batch.inputs[Modality.VIDEO])
    per_clip = objective.frames["words"].loss(model, batch, features, objective.modality)
    assert float(output.figures["words"]) == pytest.approx(float(per_clip.mean()), rel=1e-6)


def test_each_frame_is_the_word_spoken_in_its_middle(batch: Batch) -> None:
    features = Features(torch.zeros(3, 9, 16), torch.tensor([9, 4, 7]))
    silence, bin_, blue, none = 0, 1, 2, IGNORE_INDEX
    assert frame_targets().targets(batch.clips, features, 25.0).tolist() == [
        # middles at 20, 60, 100, 140, 180 ... ms
        [silence, bin_, bin_, bin_, blue, blue, blue, silence, silence],
        [blue, blue, silence, silence, none, none, none, none, none],
        [bin_, bin_, bin_, none, none, none, none, none, none],
    ]


def test_frame_targets_follow_the_frame_rate(batch: Batch) -> None:
    features = Features(torch.zeros(1, 8, 16), torch.tensor([8]))
    assert frame_targets().targets(batch.clips[1:2], features, 50.0).tolist() == [[2, 2, 2, 2, 2, 0, 0, 0]]


def test_a_clip_without_word_times_is_not_scored(model: OmniAVSR, batch: Batch) -> None:
    clips = (replace(batch.clips[0], words=()),)
    features = Features(torch.randn(1, 9, 16), torch.tensor([9]))
    targets = frame_targets()
    assert targets.targets(clips, features, 25.0).eq(IGNORE_INDEX).all()
    assert targets.loss(model, Batch(clips, {}), features, Modality.VIDEO).tolist() == [0.0]


def test_the_vocabulary_is_ranked_by_frequency_then_alphabet(batch: Batch) -> None:
    assert WordFrameTargets.vocabulary([*batch.clips, batch.clips[1]]) == ["blue", "bin", "odd"]
    assert WordFrameTargets.vocabulary(batch.clips) == ["bin", "blue", "odd"]
    with pytest.raises(ValueError, match="needs word times"):
        WordFrameTargets.vocabulary([replace(clip, words=()) for clip in batch.clips])


def test_rates_are_drawn_from_the_seed_and_the_step(
    model: OmniAVSR, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Rates] = []
    loss = OmniAVSR.loss
    monkeypatch.setattr(
        OmniAVSR,
        "loss",
        lambda self, features, texts, rates, *rest: seen.append(rates) or loss(self, features, texts, rates, *rest),
    )

    def rates_of(seed: int, state: int) -> list[Rates]:
        torch.manual_seed(state)
        seen.clear()
        for step in range(12):
            RecognitionObjective(RecognitionObjectiveConfig(task_weights=WEIGHTS), seed, 8)(
                model, replace(batch, step=step)
            )
        return list(seen)

    first = rates_of(seed=1, state=0)
    assert rates_of(seed=1, state=99) == first
    assert rates_of(seed=2, state=0) != first
    assert {rates.audio for rates in first} == {1, 2, 3}
    assert {rates.video for rates in first} == {1, 2}


def test_all_rates_give_each_task_the_mean_over_its_pairs(
    model: OmniAVSR, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Task, Rates]] = []
    route, tokens = model.router.route, model.tokens
    monkeypatch.setattr(model, "tokens", lambda f, task, rates: seen.append((task, rates)) or tokens(f, task, rates))
    passes = []
    monkeypatch.setattr(model.router, "route", lambda task: passes.append(task) or route(task))
    config = RecognitionObjectiveConfig(rates="all", task_weights=WEIGHTS)
    output = RecognitionObjective(config, 3, 8)(model, batch)
    num_pairs = {Task.ASR: 3, Task.VSR: 2, Task.AVSR: 6}
    assert {task: passes.count(task) for task in Task} == num_pairs
    read = tuple(seen)
    assert len(set(read)) == len(read) == sum(num_pairs.values())
    features, totals = model.encode(batch.inputs), batch.num_label_tokens
    expected = 0.0
    for task, weight in WEIGHTS.items():
        losses = [float(model.loss(features, batch.texts, r, {task: 1.0}, totals).loss) for t, r in read if t is task]
        mean = sum(losses) / num_pairs[task]
        assert float(output.figures[f"{task}_loss"]) == pytest.approx(mean, rel=1e-5)
        expected += weight * mean / 3
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_all_rates_of_one_task_make_a_pass_for_each_of_its_own_rates(model: OmniAVSR) -> None:
    config = RecognitionObjectiveConfig(rates="all", task_weights={Task.VSR: 1.0})
    passes = step_passes(config, model.config.compression, 0, 0)
    assert passes == {Rates(1, 1): {Task.VSR: 2}, Rates(1, 2): {Task.VSR: 2}}


def output_of(model: OmniAVSR, batch: Batch) -> ObjectiveOutput:
    return RecognitionObjective(RecognitionObjectiveConfig(task_weights=WEIGHTS), 3, 8)(model, batch)


def test_a_batch_without_video_trains_asr_alone_and_keeps_its_share(model: OmniAVSR, batch: Batch) -> None:
    audio_only = replace(batch, inputs={Modality.AUDIO: batch.inputs[Modality.AUDIO]})
    whole, part = output_of(model, batch), output_of(model, audio_only)
    assert part.figures.keys() == whole.figures.keys()
    assert float(part.figures["asr_loss"]) == pytest.approx(float(whole.figures["asr_loss"]), rel=1e-6)
    assert float(part.figures["vsr_loss"]) == float(part.figures["avsr_loss"]) == 0
    assert part.loss.item() == pytest.approx(float(whole.figures["asr_loss"]) / 3, rel=1e-6)


def test_stored_features_stand_in_for_inputs(model: OmniAVSR, batch: Batch) -> None:
    stored = replace(batch, inputs={}, features=model.encode(batch.inputs))
    assert output_of(model, stored).loss.item() == output_of(model, batch).loss.item()


def test_the_planner_counts_the_tokens_that_are_scored(model: OmniAVSR, batch: Batch) -> None:
    scored = []
    head = model.llm.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, arguments: scored.append(arguments[0].shape[:-1].numel()))
    output_of(model, batch)
    hook.remove()
    objective = RecognitionObjective(RecognitionObjectiveConfig(task_weights=WEIGHTS), 3, 8)
    assert scored == 3 * [sum(objective.num_label_tokens(model, text) for text in TEXTS)]


def test_an_encoder_without_a_ctc_head_is_an_error(tmp_path: Path, batch: Batch) -> None:
    model = tiny_model(tmp_path, audio="whisper_trimmed")
    with pytest.raises(ValueError, match="the audio encoder carries no CTC head; set its ctc to true"):
        CTCObjective(Modality.AUDIO)(model, batch)


def test_validation_reads_every_supported_task_at_its_lowest_and_highest_rates(model: OmniAVSR, batch: Batch) -> None:
    objective = RecognitionObjective(RecognitionObjectiveConfig(task_weights=WEIGHTS), 3, 4)
    found = objective.transcribe(model, batch)
    assert list(found) == ["asr_1", "asr_3", "vsr_1", "vsr_2", "avsr_1_1", "avsr_3_2"]
    assert found["avsr_3_2"] == model.generate(model.encode(batch.inputs), Task.AVSR, Rates(3, 2), max_new_tokens=4)
    audio_only = replace(batch, inputs={Modality.AUDIO: batch.inputs[Modality.AUDIO]})
    assert list(objective.transcribe(model, audio_only)) == ["asr_1", "asr_3"]


def test_a_clip_keeps_its_targets_with_longer_ones_beside_it(model: OmniAVSR, batch: Batch) -> None:
    torch.manual_seed(1)
    targets, values = frame_targets(), torch.randn(3, 9, 16)
    together = targets.loss(model, batch, Features(values, torch.tensor([9, 4, 7])), Modality.VIDEO)
    for row, length in enumerate((9, 4, 7)):
        features = Features(values[row : row + 1, :length], torch.tensor([length]))
        alone = targets.loss(model, Batch(batch.clips[row : row + 1], {}), features, Modality.VIDEO)
        torch.testing.assert_close(alone[0], together[row])


def test_audio_targets_are_the_mean_posteriors_of_the_audio_frames_in_each_video_frame(
    model: OmniAVSR, batch: Batch
) -> None:
    video = model.encoders["video"](batch.inputs[Modality.VIDEO])
    targets = AudioCTCFrameTargets.targets(model, batch, video, Modality.VIDEO)
    audio = model.encoders["audio"]
    posteriors = audio.ctc(audio(batch.inputs[Modality.AUDIO])).values.exp()
    assert targets.shape == (*video.values.shape[:2], posteriors.shape[2])
    torch.testing.assert_close(targets[0, 1], posteriors[0, 2:4].mean(0))
    torch.testing.assert_close(targets.sum(-1), torch.ones(targets.shape[:2]))


def test_feature_targets_are_the_normalised_mean_of_the_audio_features_in_each_video_frame(
    model: OmniAVSR, batch: Batch
) -> None:
    video = model.encoders["video"](batch.inputs[Modality.VIDEO])
    targets = AudioFeatureFrameTargets.targets(model, batch, video, Modality.VIDEO)
    heard = model.encoders["audio"](batch.inputs[Modality.AUDIO]).values
    mean = heard[0, 2:4].mean(0)
    assert targets.shape == (*video.values.shape[:2], heard.shape[2])
    torch.testing.assert_close(targets[0, 1], (mean - mean.mean()) / (mean.var(unbiased=False) + 1e-5).sqrt())


def test_targets_of_unequal_frame_rates_are_refused(batch: Batch) -> None:
    heard, frames = (Features(torch.zeros(1, steps, 4), torch.tensor([steps])) for steps in (10, 5))
    assert per_frame(heard, frames, 2.0).shape == (1, 5, 2, 4)
    with pytest.raises(ValueError, match=r"a whole number of audio steps per frame, not 1\.5"):
        per_frame(heard, frames, 1.5)


@pytest.mark.parametrize("kind", ["audio_ctc", "audio_features"])
def test_audio_targets_teach_the_video_encoder_and_not_the_audio_encoder(
    kind: str, model: OmniAVSR, batch: Batch
) -> None:
    config = CTCObjectiveConfig(Modality.VIDEO, frame_targets={kind: 1.0})
    torch.manual_seed(0)
    objective = build_objective(config, model.config, model, batch.clips, 0)
    assert isinstance(objective, CTCObjective)
    frames = objective.frames[kind]
    model.requires_grad_(True)
    model.zero_grad()
    batch = with_totals(objective, model, batch)
    output = objective(model, batch)
    output.loss.backward()
    assert all(parameter.grad is None for parameter in model.encoders["audio"].parameters())
    assert model.encoders["video"].encoder.stem[0].weight.grad.abs().max() > 0
    model.requires_grad_(False)
    features = model.encoders["video"](batch.inputs[Modality.VIDEO])
    per_clip = frames.loss(model, batch, features, Modality.VIDEO)
    for row in range(len(batch)):
        alone = Batch(
            batch.clips[row : row + 1],
            {
                modality: Features(part.values[row : row + 1, : part.lengths[row]], part.lengths[row : row + 1])
                for modality, part in batch.inputs.items()
            },
        )
        single = model.encoders["video"](alone.inputs[Modality.VIDEO])
        found = frames.loss(model, alone, single, Modality.VIDEO)
        torch.testing.assert_close(found[0], per_clip[row], rtol=1e-4, atol=1e-5)


def test_the_audio_encoder_cannot_be_its_own_teacher() -> None:
    with pytest.raises(ValueError, match="cannot teach itself"):
        CTCObjectiveConfig(Modality.AUDIO, frame_targets={"audio_ctc": 1.0})
