"""Mixup of CTC stages: which rows mix, what they hold, how their losses add up, and only in training."""

from dataclasses import replace

import pytest
import torch
from helpers_model import tiny_batch, tiny_model

from omni_avsr.model import OmniAVSR
from omni_avsr.objectives.ctc import CTCObjective
from omni_avsr.objectives.frame_targets import WordFrameTargets
from omni_avsr.objectives.mixup import mix
from omni_avsr.stages import MixupConfig
from omni_avsr.types import Batch, Features, Modality, Task, Word

MIXUP = MixupConfig(share=1.0, weight=0.4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OmniAVSR:
    """In eval mode, so without dropout."""
    return tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def batch() -> Batch:
    """Three clips of unequal lengths with word times; what stands behind a clip is not zero."""
    made = tiny_batch()
    words = [Word("bin", 0.0, 0.08)], [Word("blue", 0.0, 0.12)], [Word("bin", 0.04, 0.2)]
    clips = tuple(replace(clip, words=tuple(row)) for clip, row in zip(made.clips, words, strict=True))
    return replace(made, clips=clips)


def frame_targets() -> WordFrameTargets:
    torch.manual_seed(0)
    return WordFrameTargets(16, ["bin", "blue"])


def test_rows_are_the_weighted_sum_of_two_clips_and_as_long_as_the_longer(batch: Batch) -> None:
    mixed = mix(batch, Modality.VIDEO, 1.0, 0.4, seed=3)
    own = batch.inputs[Modality.VIDEO]
    assert [clip.id for clip in mixed.other.clips] == [*[clip.id for clip in batch.clips][1:], batch.clips[0].id]
    for row, weight in enumerate(mixed.weights.tolist()):
        assert 0 < weight <= 0.4
        other = (row + 1) % len(batch)
        lengths = int(own.lengths[row]), int(own.lengths[other])
        expected = torch.zeros_like(own.values[0])
        expected[: lengths[0]] += (1 - weight) * own.values[row, : lengths[0]]
        expected[: lengths[1]] += weight * own.values[other, : lengths[1]]
        assert int(mixed.inputs.lengths[row]) == max(lengths)
        torch.testing.assert_close(mixed.inputs.values[row], expected)


def test_the_share_and_the_weights_follow_the_seed_and_the_step(batch: Batch) -> None:
    def weights(share: float, seed: int) -> torch.Tensor:
        steps = (mix(replace(batch, step=step), Modality.VIDEO, share, 0.4, seed) for step in range(300))
        return torch.cat([mixed.weights for mixed in steps])

    drawn = weights(0.25, 1)
    assert 0.2 < float((drawn > 0).float().mean()) < 0.3
    assert float(drawn.max()) <= 0.4
    assert float(drawn[drawn > 0].mean()) == pytest.approx(0.2, abs=0.03)
    assert torch.equal(weights(0.25, 1), drawn)
    assert not torch.equal(weights(0.25, 2), drawn)


def test_rows_that_do_not_mix_stay_as_they_are(batch: Batch) -> None:
    own = batch.inputs[Modality.VIDEO]
    mixed = mix(batch, Modality.VIDEO, 0.0, 0.4, seed=3)
    assert mixed.weights.tolist() == [0.0] * len(batch)
    assert torch.equal(mixed.inputs.lengths, own.lengths)
    assert torch.equal(mixed.inputs.values[own.mask()], own.values[own.mask()])


def test_the_loss_is_each_transcripts_by_the_weight_of_its_clip(model: OmniAVSR, batch: Batch) -> None:
    objective = CTCObjective(Modality.VIDEO, {"words": frame_targets()}, {"words": 0.5}, MIXUP, seed=3)
    found = objective(model, batch)
    mixed = mix(batch, Modality.VIDEO, MIXUP.share, MIXUP.weight, seed=3)
    features = model.encoders["video"](mixed.inputs)
    head, frames = model.encoders["video"].ctc, objective.frames["words"]
    ctc = frame = torch.tensor(0.0)
    for clips, weights in ((batch, 1 - mixed.weights), (mixed.other, mixed.weights)):
        ctc = ctc + (head.loss(features, clips.texts) * weights).sum()
        frame = frame + (frames.loss(model, clips, features, Modality.VIDEO) * weights).sum()
    total = batch.num_label_tokens[Task.VSR]
    assert float(found.figures["ctc"]) == pytest.approx(float(ctc.detach()) / total, rel=1e-5)
    assert float(found.figures["words"]) == pytest.approx(float(frame.detach()) / len(batch), rel=1e-5)
    assert found.loss.item() == pytest.approx(float(found.figures["ctc"] + 0.5 * found.figures["words"]), rel=1e-6)


def test_validation_and_a_batch_of_one_hear_their_clips_alone(model: OmniAVSR, batch: Batch) -> None:
    plain, mixing = CTCObjective(Modality.AUDIO), CTCObjective(Modality.AUDIO, mixup=MIXUP)
    assert mixing(model, batch).loss.item() != plain(model, batch).loss.item()
    mixing.eval()
    assert mixing(model, batch).loss.item() == plain(model, batch).loss.item()
    mixing.train()
    part = batch.inputs[Modality.AUDIO]
    one = replace(batch, clips=batch.clips[:1], inputs={Modality.AUDIO: Features(part.values[:1], part.lengths[:1])})
    assert mixing(model, one).loss.item() == pytest.approx(plain(model, one).loss.item(), rel=1e-6)
