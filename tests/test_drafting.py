"""CTC-drafted decoding: drafts save passes and change nothing, whatever is drafted, alone and in batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_llm import save_tiny_llm, tiny_llm
from helpers_llm import tiny_model as tiny_causal_lm
from helpers_model import FRAMES, single, tiny_batch, tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

import omni_avsr.model
from data_prep.corpora.grid import read_grid
from omni_avsr.config import DraftConfig, PublishedSearch, from_mapping
from omni_avsr.decode import DecodeConfig, decode
from omni_avsr.drafts import ctc_drafts, draft_ids, following
from omni_avsr.encoders.ctc import ALPHABET
from omni_avsr.features import prepare_video, prepare_waveform
from omni_avsr.llm import LLM
from omni_avsr.model import OmniAVSR
from omni_avsr.recording import VideoOptions, read_recording, tell_nobody
from omni_avsr.scorer import Scorer, ScoringConfig
from omni_avsr.speculative import DraftCounts, write_from_drafts
from omni_avsr.transcribe import TranscribeOptions, load
from omni_avsr.types import Features, Modality, Rates, Task

CHECKPOINT = Path(__file__).resolve().parents[1] / "experiments" / "001-grid-s1" / "checkpoint"
RATES = Rates(2, 3)
DRAFT = DraftConfig()
EOS = 1
"""Of ``helpers_llm``'s llama."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny models are saved; their LLMs can write nothing but what their tokenizers know."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("llama", "qwen2", "qwen3"):
        save_tiny_llm(folder / f"llm-{family}", family, vocab_size=72)
    return folder


@contextmanager
def counted_passes(llm: nn.Module) -> Iterator[list[int]]:
    """How many positions each pass of ``llm`` reads."""
    widths: list[int] = []
    handle = llm.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        yield widths
    finally:
        handle.remove()


# The LLM's side: any draft, right or wrong, gives the ids of greedy search.


def prompts(seed: int) -> tuple[Tensor, Tensor]:
    """Three prompts of unequal length, padded at the left."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[0, :5] = mask[2, :2] = 0
    return torch.randn(3, 9, 32, generator=generator), mask


def greedy(llm: Any, embeds: Tensor, mask: Tensor, eos_id: int, length: int) -> Tensor:
    return llm.generate(
        inputs_embeds=embeds, attention_mask=mask, max_new_tokens=length, eos_token_id=eos_id, pad_token_id=eos_id
    )


def spoilt(rows: Sequence[Sequence[int]], eos_id: int, seed: int) -> Callable[[int, Sequence[int]], list[int]]:
    """Proposals of what greedy search writes, with wrong tokens, gaps, ends too early and ends missing."""
    generator = torch.Generator().manual_seed(seed)

    def propose(row: int, written: Sequence[int]) -> list[int]:
        draft = list(rows[row][len(written) :])
        draft = draft[: draft.index(eos_id)] if eos_id in draft else draft
        for place in range(len(draft)):
            if torch.rand((), generator=generator) < 0.2:
                draft[place] = int(torch.randint(2, 90, (), generator=generator))
        length = int(torch.randint(0, len(draft) + 2, (), generator=generator))
        return [*draft[:length], *([eos_id] if torch.rand((), generator=generator) < 0.7 else [])]

    return propose


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("length", [1, 2, 7, 40])
@torch.no_grad()
def test_any_draft_gives_the_ids_of_greedy_search_alone_and_in_batches(family: str, length: int) -> None:
    for seed in range(4):
        llm = tiny_causal_lm(family, seed=seed)
        embeds, mask = prompts(seed)
        # An end that some clip writes early, so that clips leave the batch one by one.
        eos_id = int(greedy(llm, embeds, mask, 95, length)[1, min(4, length - 1)])
        expected = greedy(llm, embeds, mask, eos_id, length)
        propose = spoilt(expected.tolist(), eos_id, seed)
        with counted_passes(llm) as widths:
            found = write_from_drafts(llm, embeds, mask, propose, eos_id, length)
        assert torch.equal(found.ids, expected)
        assert len(widths) == max(counts.passes for counts in found.counts)
        for row in range(3):
            real = mask[row : row + 1].bool()
            alone = write_from_drafts(
                llm,
                embeds[row : row + 1, real[0]],
                mask[row : row + 1, real[0]],
                lambda _, written, row=row, propose=propose: propose(row, written),
                eos_id,
                length,
            )
            ids = expected[row].tolist()
            written = ids[: ids.index(eos_id) + 1] if eos_id in ids else ids
            assert alone.ids[0].tolist() == written
            [counts] = alone.counts
            assert counts.passes <= len(written)
            assert counts.accepted <= counts.drafted
            # Every token is a draft's, or the one that a pass adds of itself; the last pass may end with the draft.
            assert counts.accepted + counts.passes - len(written) in (0, 1)


@torch.no_grad()
def test_a_draft_that_is_right_takes_one_pass_and_one_that_is_empty_as_many_as_greedy_search() -> None:
    llm = tiny_causal_lm()
    embeds, mask = prompts(0)
    expected = greedy(llm, embeds, mask, EOS, 12)
    rows = expected.tolist()
    with counted_passes(llm) as widths:
        found = write_from_drafts(llm, embeds, mask, lambda row, written: rows[row][len(written) :], EOS, 12)
    assert torch.equal(found.ids, expected)
    assert widths == [9 + 11]  # the last of twelve tokens is the one that the pass adds
    assert [(counts.passes, counts.accepted) for counts in found.counts] == [(1, 11)] * 3
    found = write_from_drafts(llm, embeds, mask, lambda row, written: [], EOS, 12)
    assert torch.equal(found.ids, expected)
    assert [(counts.passes, counts.drafted) for counts in found.counts] == [(12, 0)] * 3


@torch.no_grad()
def test_the_cache_is_kept_and_only_what_is_new_is_read() -> None:
    llm = tiny_causal_lm()
    embeds, mask = prompts(0)
    expected = greedy(llm, embeds, mask, EOS, 12)[:1, :]
    wrong = [token if place != 4 else (token + 1) % 90 + 2 for place, token in enumerate(expected[0].tolist())]
    with counted_passes(llm) as widths:
        found = write_from_drafts(llm, embeds[:1, 5:], mask[:1, 5:], lambda _, written: wrong[len(written) :], EOS, 12)
    assert torch.equal(found.ids, expected)
    assert widths == [4 + 11, 1 + 6]
    [counts] = found.counts
    assert (counts.passes, counts.drafted, counts.accepted) == (2, 11 + 6, 4 + 6)


@torch.no_grad()
def test_a_threshold_keeps_what_is_probable_enough_and_nothing_else() -> None:
    llm = tiny_causal_lm()
    embeds, mask = prompts(0)
    embeds, mask = embeds[1:2], mask[1:2]
    logits = llm(inputs_embeds=embeds, attention_mask=mask).logits[0, -1]
    third = int(logits.argsort(descending=True)[2])
    share = float((logits[third] - logits.max()).exp())

    def first_written(threshold: float | None) -> int:
        found = write_from_drafts(llm, embeds, mask, lambda _, written: [third][len(written) :], EOS, 3, threshold)
        return int(found.ids[0, 0])

    assert first_written(0.99 * share) == third
    assert first_written(1.01 * share) == first_written(None) == int(logits.argmax())


def test_an_llm_that_forgets_positions_is_refused() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma3TextConfig(vocab_size=20, head_dim=8, num_hidden_layers=6, sliding_window=4, **sizes)
    with pytest.raises(ValueError, match="cannot take back rejected tokens"):
        write_from_drafts(Gemma3ForCausalLM(config), torch.zeros(1, 2, 16), torch.ones(1, 2), lambda *_: [], EOS, 2)


# The text's side: how a draft goes on behind what the LLM corrected.


@pytest.mark.parametrize(
    ("said", "draft", "rest"),
    [
        ("", "bin blue", "bin blue"),
        ("bin blue at", "bin blue at f", "f"),
        ("bin red", "bin blue at f", "at f"),  # another word in its place
        ("bin blue at", "bin blue f two", "two"),  # left out in the draft: taken for a word in its place
        ("bin blue at f", "bin blue f two", "two"),  # and right again at the next word
        ("bin blue at", "bin blue a at f", "f"),  # a word too many in the draft
        ("now", "two", ""),
        ("bin blue at f", "", ""),
    ],
)
def test_the_draft_goes_on_behind_the_beginning_that_is_nearest(said: str, draft: str, rest: str) -> None:
    assert following(said.split(), draft.split()) == rest.split()


def word_pieces(folder: Path) -> LLM:
    """A tiny LLM whose tokenizer has pieces of words, as byte pair encodings do."""
    merges = ["k a", "ka t", "t h", "th e", "the n", "c a", "h e", "r i", "ri n", "rin e", "g o"]
    tokens = ["<eos>", *"\u0120abcdefghijklmnopqrstuvwxyz", *(merge.replace(" ", "") for merge in merges)]
    bpe = models.BPE(
        {token: number for number, token in enumerate(dict.fromkeys(tokens))}, [tuple(m.split()) for m in merges]
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    llm = tiny_llm(folder)
    return LLM(
        **{
            **vars(llm),
            "tokenizer": PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>"),
            "eos_id": 0,
        }
    )


@pytest.mark.parametrize(
    ("said", "draft", "rest"),
    [
        ([], "then go", ["then", "\u0120", "go", "<eos>"]),
        # Whoever meant "then" would have written it in one piece.
        (["the"], "then go", ["\u0120", "go", "<eos>"]),
        # A space that is written is not drafted again.
        (["the", "\u0120"], "a go", ["go", "<eos>"]),
        # Pieces that the tokenizer would not choose: what follows is made apart.
        (["t", "h", "e"], "thy go", ["\u0120", "go", "<eos>"]),
        (["go"], "go", ["<eos>"]),
    ],
)
def test_the_rest_of_a_draft_has_the_tokens_of_the_whole_text(
    said: list[str], draft: str, rest: list[str], tmp_path: Path
) -> None:
    llm = word_pieces(tmp_path)
    found = draft_ids(llm, draft, llm.tokenizer.convert_tokens_to_ids(said))
    assert llm.tokenizer.convert_ids_to_tokens(found) == rest


# The whole model.


def drafted_texts(model: OmniAVSR, texts: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CTC heads read ``texts``."""
    monkeypatch.setattr(omni_avsr.model, "ctc_drafts", lambda *_: list(texts))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("task", list(Task))
@torch.no_grad()
def test_generate_writes_the_same_with_a_draft(
    task: Task, family: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = tiny_model(folder, family=family), tiny_batch()
    features = model.encode(batch.inputs)
    expected = model.generate_ids(features, task, RATES, max_new_tokens=9)
    assert torch.equal(model.generate_ids(features, task, RATES, max_new_tokens=9, draft=DRAFT), expected)
    for row in range(len(FRAMES)):
        alone = model.encode(single(batch, row).inputs)
        ids = model.generate_ids(alone, task, RATES, max_new_tokens=9)
        assert torch.equal(model.generate_ids(alone, task, RATES, max_new_tokens=9, draft=DRAFT), ids)
    # A draft of what is written, with one letter changed.
    texts = [model.text.decode(row) for row in expected]
    drafted_texts(model, [text[:4] + ("x" if text[4:5] != "x" else "y") + text[5:] for text in texts], monkeypatch)
    written = model.write(features, task, RATES, max_new_tokens=9, draft=DRAFT)
    assert torch.equal(written.ids, expected)
    assert any(counts.accepted for counts in written.counts)


@torch.no_grad()
def test_the_end_is_drafted_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model(folder, family="qwen3"), tiny_batch()
    features = model.encode(batch.inputs)
    found = [(task, model.generate_ids(features, task, RATES, max_new_tokens=4)) for task in Task]
    texts = [(task, row, ids[row], model.text.decode(ids[row])) for task, ids in found for row in range(3)]
    task, row, ids, text = next(entry for entry in texts if len(set(entry[3])) == 4)
    # What is written fourth ends the text from here on.
    model.text = LLM(**{**vars(model.text), "eos_id": int(ids[3]), "pad_id": int(ids[3])})
    expected = model.generate_ids(features, task, RATES, max_new_tokens=9)
    drafted_texts(model, [text[:3]] * 3, monkeypatch)
    written = model.write(features, task, RATES, max_new_tokens=9, draft=DRAFT)
    assert torch.equal(written.ids, expected)
    assert written.counts[row] == DraftCounts(passes=1, drafted=4, accepted=4)


@torch.no_grad()
def test_features_are_not_encoded_again_and_nothing_is_counted_without_a_draft(folder: Path) -> None:
    model, batch = tiny_model(folder), tiny_batch()
    features = model.encode(batch.inputs)

    def forbidden(*_: Any) -> None:
        raise AssertionError("encoded again")

    handles = [encoder.register_forward_pre_hook(forbidden) for encoder in model.encoders.values()]
    try:
        assert len(model.write(features, Task.AVSR, RATES, draft=DRAFT).counts) == 3
        assert model.write(features, Task.AVSR, RATES).counts == ()
    finally:
        for handle in handles:
            handle.remove()


def set_head(model: OmniAVSR, modality: Modality, letters: Sequence[str], sureness: Sequence[float]) -> Features:
    """Features of clips in each of which the CTC head of ``modality`` reads one letter, as surely as is said."""
    head = model.encoders[str(modality)].ctc
    head.linear.weight.zero_()
    head.linear.bias.zero_()
    rows = []
    for row, (letter, sure) in enumerate(zip(letters, sureness, strict=True)):
        head.linear.weight[1 + ALPHABET.index(letter), row] = 1.0
        rows.append(torch.nn.functional.one_hot(torch.tensor(row), head.linear.in_features) * sure)
    # Behind the first clip's end stands what would make it sure of something else.
    values = torch.stack(rows)[:, None].repeat(1, 3, 1)
    values[0, 2] = 100 * torch.nn.functional.one_hot(torch.tensor(1), head.linear.in_features)
    return Features(values, torch.tensor([2, 3]))


@torch.no_grad()
def test_the_surer_stream_drafts_each_clip(folder: Path) -> None:
    model = tiny_model(folder)
    features = {
        Modality.AUDIO: set_head(model, Modality.AUDIO, "ab", (5.0, 2.0)),
        Modality.VIDEO: set_head(model, Modality.VIDEO, "cd", (2.0, 5.0)),
    }
    assert ctc_drafts(model, features, Task.ASR) == ["a", "b"]
    assert ctc_drafts(model, features, Task.VSR) == ["c", "d"]
    assert ctc_drafts(model, features, Task.AVSR) == ["a", "d"]


def test_a_head_on_one_stream_is_enough_and_none_is_an_error(folder: Path) -> None:
    deaf = tiny_model(folder, audio="whisper_trimmed")  # its audio encoder carries no CTC head
    batch = tiny_batch()
    features = deaf.encode(batch.inputs)
    ids = deaf.generate_ids(features, Task.AVSR, RATES, max_new_tokens=4)
    assert torch.equal(deaf.generate_ids(features, Task.AVSR, RATES, max_new_tokens=4, draft=DRAFT), ids)
    with pytest.raises(ValueError, match="no draft for asr: no audio encoder of this model carries a CTC head"):
        deaf.generate(features, Task.ASR, RATES, draft=DRAFT)
    with pytest.raises(ValueError, match="no draft for asr"):
        Scorer(deaf, batch.clips, tuple(Task), ScoringConfig(decode=DecodeConfig(draft=DRAFT)), None, ())


def test_only_greedy_search_is_drafted(folder: Path) -> None:
    sampled = PublishedSearch(temperature=0.6)
    model = tiny_model(folder)
    features = model.encode(tiny_batch().inputs)
    with pytest.raises(ValueError, match="not 3 beams"):
        model.generate(features, Task.ASR, RATES, num_beams=3, draft=DRAFT)
    with pytest.raises(ValueError, match="at temperature"):
        model.generate(features, Task.ASR, RATES, published=sampled, draft=DRAFT)
    with pytest.raises(ValueError, match="at temperature"):  # as the model's own settings say
        tiny_model(folder, search=sampled).generate(features, Task.ASR, RATES, draft=DRAFT)
    with pytest.raises(ValueError, match="not 3 beams"):
        DecodeConfig(num_beams=3, draft=DRAFT)
    with pytest.raises(ValueError, match="at temperature"):
        DecodeConfig(published=sampled, draft=DRAFT)
    with pytest.raises(ValueError, match="not 2 beams"):
        TranscribeOptions(num_beams=2, draft=DRAFT)
    for threshold in (0.0, 1.0, 2.0):
        with pytest.raises(ValueError, match="threshold"):
            DraftConfig(threshold=threshold)
    # Beams' stop rule alone changes nothing of greedy search.
    assert model.generate(features, Task.ASR, RATES, published=PublishedSearch(), draft=DRAFT) == model.generate(
        features, Task.ASR, RATES
    )


@torch.no_grad()
def test_evaluation_takes_it_from_settings_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model(folder), tiny_batch()
    features = model.encode(batch.inputs)
    config = from_mapping(DecodeConfig, {"max_new_tokens": 5, "draft": {"threshold": 1e-9}})
    drafted_texts(model, ["abc", "de", "f"], monkeypatch)
    hypotheses = decode(model, batch.clips, features, Task.AVSR, RATES, config)
    assert [h.text for h in hypotheses] == ["abc", "de", "f"]  # at this threshold anything stands
    assert "draft" in str(config)
    assert str(config) != str(DecodeConfig(max_new_tokens=5, draft=DRAFT))
    assert "draft" not in str(DecodeConfig())


# Real clips.


@pytest.mark.slow
@pytest.mark.usefixtures("real_models")
@torch.no_grad()
def test_on_real_clips_the_ids_are_those_of_greedy_search(shared: Path) -> None:
    """In quiet and in noise, so that drafts are right and wrong, at the lowest and the highest rates."""
    model = load(CHECKPOINT, llm_dtype="float32").model
    sources = [clip for clip in read_grid(shared / "data" / "grid") if clip.split == "test"][:4]
    recordings = [read_recording(clip.media, Task.AVSR, tuple(Task), VideoOptions(), tell_nobody) for clip in sources]
    generator = torch.Generator().manual_seed(0)
    crops = [torch.from_numpy(recording.crops) for recording in recordings]
    sounds = [torch.from_numpy(recording.waveform) for recording in recordings]
    sounds += [wave + 2 * wave.std() * torch.randn(wave.shape, generator=generator) for wave in sounds]
    sounds.append(sounds[0][:20000])
    crops = [*crops, *crops, crops[0][:31]]
    inputs = {
        Modality.AUDIO: Features.pad([prepare_waveform(wave, model.config.waveform) for wave in sounds]),
        Modality.VIDEO: Features.pad([prepare_video(frames) for frames in crops]),
    }
    features = model.encode(inputs)
    saved = {}
    for task in Task:
        for rates in (Rates(4, 2), Rates(16, 5)):
            expected = model.generate_ids(features, task, rates)
            written = model.write(features, task, rates, draft=DRAFT)
            assert torch.equal(written.ids, expected), (task, rates)
            saved[task] = [counts.passes for counts in written.counts[:4]]
            for row in (0, 4, 8):
                alone = {
                    modality: Features(
                        part.values[row : row + 1, : int(part.lengths[row])], part.lengths[row : row + 1]
                    )
                    for modality, part in features.items()
                }
                [ids] = model.generate_ids(alone, task, rates, draft=DRAFT).tolist()
                assert ids == expected[row, : len(ids)].tolist(), (task, rates, row)
    # Greedily these commands take seven passes each.
    assert sum(saved[Task.ASR]) <= 7
    assert sum(saved[Task.AVSR]) <= 7
    assert sum(saved[Task.VSR]) <= 14
