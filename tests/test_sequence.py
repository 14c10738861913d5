"""The layout of a sequence, its padding and labels, and how features fill its slots."""

import random
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from omni_avsr.sequence import NUM_MARKERS, SLOT_BASE, Slot, TextIds, TokenSequence, assemble, embed, prefix_ids
from omni_avsr.types import IGNORE_INDEX, Features, Modality, Task

HIDDEN, VOCABULARY = 6, 40
PROMPTS = {Task.ASR: [10, 11], Task.VSR: [12], Task.AVSR: [13, 14, 15]}
WITH_BOS = TextIds(bos=1, eos=2, prompts=PROMPTS)
WITHOUT_BOS = TextIds(bos=None, eos=2, prompts=PROMPTS)
A0, A, A1 = Slot.AUDIO_START, Slot.AUDIO, Slot.AUDIO_END
V0, V, V1 = Slot.VIDEO_START, Slot.VIDEO, Slot.VIDEO_END


def tokens(audio: list[int], video: list[int], seed: int = 0) -> dict[Modality, Features]:
    """Random tokens of these lengths, NaN behind each: only lengths and real tokens may be read."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for modality, lengths in ((Modality.AUDIO, audio), (Modality.VIDEO, video)):
        rows = [torch.randn(length, HIDDEN, generator=generator) for length in lengths]
        padded = Features.pad(rows)
        made[modality] = Features(padded.values.masked_fill(~padded.mask()[..., None], torch.nan), padded.lengths)
    return made


def row_of(features: Mapping[Modality, Features], row: int) -> dict[Modality, Features]:
    return {
        modality: Features(value.values[row : row + 1, : value.lengths[row]], value.lengths[row : row + 1])
        for modality, value in features.items()
    }


@pytest.fixture
def tables() -> tuple[nn.Embedding, nn.Embedding]:
    """The LLM's embedding and the markers."""
    torch.manual_seed(0)
    return nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(NUM_MARKERS, HIDDEN)


LAYOUTS = {
    Task.ASR: [A0, A, A, A1, 10, 11],
    Task.VSR: [V0, V, V, V, V1, 12],
    Task.AVSR: [A0, A, A, A1, V0, V, V, V, V1, 13, 14, 15],
}


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize(("text", "start"), [(WITH_BOS, [1]), (WITHOUT_BOS, [])], ids=["bos", "no bos"])
def test_layout_of_each_task(task: Task, text: TextIds, start: list[int]) -> None:
    sequence = assemble(task, tokens([2], [3]), text, [[20, 21]])
    expected = [*start, *LAYOUTS[task]]
    assert sequence.ids[0].tolist() == [*expected, 20, 21, 2]
    assert sequence.labels[0].tolist() == [IGNORE_INDEX] * len(expected) + [20, 21, 2]
    assert sequence.attention_mask[0].all()
    assert assemble(task, tokens([2], [3]), text).ids[0].tolist() == expected


def test_slots_lie_outside_of_any_vocabulary() -> None:
    assert min(Slot) == SLOT_BASE > 10_000_000
    assert sorted(Slot)[:NUM_MARKERS] == [A0, A1, V0, V1]


def test_ids_for_generation_are_a_prefix_of_the_ids_for_training() -> None:
    draw = random.Random(0)
    for _ in range(100):
        task, text = draw.choice(list(Task)), draw.choice([WITH_BOS, WITHOUT_BOS])
        rows = draw.randint(1, 4)
        features = tokens([draw.randint(0, 9) for _ in range(rows)], [draw.randint(0, 9) for _ in range(rows)])
        transcripts = [[draw.randrange(3, VOCABULARY) for _ in range(draw.randint(0, 6))] for _ in range(rows)]
        training, generation = assemble(task, features, text, transcripts), assemble(task, features, text)
        for row, transcript in enumerate(transcripts):
            prefix = generation.ids[row][generation.attention_mask[row].bool()].tolist()
            whole = training.ids[row][training.attention_mask[row].bool()].tolist()
            assert whole == [*prefix, *transcript, text.eos]
            scored = training.labels[row] != IGNORE_INDEX
            assert training.labels[row][scored].tolist() == [*transcript, text.eos]
            assert torch.equal(training.labels[row][scored], training.ids[row][scored])
        assert (generation.labels == IGNORE_INDEX).all()


def test_training_pads_right_and_generation_left_with_eos_under_the_mask() -> None:
    features = tokens([3, 1], [1, 1])
    training, generation = assemble(Task.ASR, features, WITH_BOS, [[20], [21]]), assemble(Task.ASR, features, WITH_BOS)
    assert training.attention_mask[1].tolist() == [1] * 8 + [0, 0]
    assert training.ids[1, 8:].tolist() == [2, 2]
    assert training.labels[1, 8:].tolist() == [IGNORE_INDEX] * 2
    assert generation.attention_mask[1].tolist() == [0, 0] + [1] * 6
    assert generation.ids[1, :2].tolist() == [2, 2]


def test_as_many_transcripts_as_clips_are_needed() -> None:
    with pytest.raises(ValueError):
        assemble(Task.ASR, tokens([3, 1], [1, 1]), WITH_BOS, [[20]])


def test_embeddings_stand_where_their_ids_stand(tables: tuple[nn.Embedding, nn.Embedding]) -> None:
    embedding, markers = tables
    features = tokens([2, 1], [1, 3])
    sequence = assemble(Task.AVSR, features, WITH_BOS, [[20], [21, 22]])
    embeds = embed(sequence, features, embedding, markers)
    audio, video = features[Modality.AUDIO].values, features[Modality.VIDEO].values
    text, mark = embedding.weight, markers.weight
    first = [text[1], mark[0], audio[0, 0], audio[0, 1], mark[1], mark[2], video[0, 0], mark[3]]
    second = [text[1], mark[0], audio[1, 0], mark[1], mark[2], video[1, 0], video[1, 1], video[1, 2], mark[3]]
    for row, expected, transcript in ((0, first, [20]), (1, second, [21, 22])):
        expected += [text[index] for index in (*PROMPTS[Task.AVSR], *transcript, 2)]
        assert torch.equal(embeds[row, : len(expected)], torch.stack(expected))
    assert torch.isfinite(embeds).all()


@pytest.mark.parametrize("transcripts", [None, [[20], [21, 22, 23], []]], ids=["generation", "training"])
@pytest.mark.parametrize("task", Task)
def test_embeddings_of_a_batch_equal_singles(
    task: Task, transcripts: list[list[int]] | None, tables: tuple[nn.Embedding, nn.Embedding]
) -> None:
    features = tokens([2, 5, 1], [4, 1, 3])
    sequence = assemble(task, features, WITH_BOS, transcripts)
    together = embed(sequence, features, *tables)
    for row in range(3):
        own = row_of(features, row)
        single = assemble(task, own, WITH_BOS, None if transcripts is None else [transcripts[row]])
        alone = embed(single, own, *tables)
        assert torch.equal(together[row][sequence.attention_mask[row].bool()], alone[0])


def test_gradient_reaches_tokens_and_the_markers_of_the_task(tables: tuple[nn.Embedding, nn.Embedding]) -> None:
    embedding, markers = tables
    embedding.requires_grad_(False)
    features = {
        modality: Features(value.values.nan_to_num().requires_grad_(), value.lengths)
        for modality, value in tokens([2, 3], [1, 2]).items()
    }
    sequence = assemble(Task.ASR, features, WITH_BOS, [[20], [21]])
    embed(sequence, features, embedding, markers).sum().backward()
    assert markers.weight.grad is not None
    assert markers.weight.grad[:, 0].tolist() == [2.0, 2.0, 0.0, 0.0]
    audio = features[Modality.AUDIO]
    assert audio.values.grad is not None
    assert torch.equal(audio.values.grad[..., 0], audio.mask().float())
    assert features[Modality.VIDEO].values.grad is None


def test_embeddings_have_the_dtype_of_the_llm(tables: tuple[nn.Embedding, nn.Embedding]) -> None:
    embedding, markers = tables
    features = tokens([2], [1])
    sequence = assemble(Task.AVSR, features, WITH_BOS)
    embeds = embed(sequence, features, embedding.bfloat16(), markers)
    assert embeds.dtype is torch.bfloat16
    assert torch.equal(embeds[0, 2], features[Modality.AUDIO].values[0, 0].bfloat16())


@pytest.mark.parametrize("other", [1, 3], ids=["fewer tokens", "more tokens"])
def test_slots_and_tokens_must_be_as_many(other: int, tables: tuple[nn.Embedding, nn.Embedding]) -> None:
    sequence = assemble(Task.ASR, tokens([2], [1]), WITH_BOS)
    with pytest.raises(ValueError, match=f"2 audio slots for {other} tokens"):
        embed(sequence, tokens([other], [1]), *tables)


def test_an_id_of_the_vocabularys_end_is_text(tables: tuple[nn.Embedding, nn.Embedding]) -> None:
    last = VOCABULARY - 1
    sequence = TokenSequence(torch.tensor([[last]]), torch.ones(1, 1), torch.full((1, 1), IGNORE_INDEX))
    assert torch.equal(embed(sequence, {}, *tables)[0, 0], tables[0].weight[last])


def test_prefix_ids_are_plain_integers() -> None:
    assert {type(value) for value in prefix_ids(Task.ASR, {Modality.AUDIO: 1}, WITH_BOS)} == {int}
