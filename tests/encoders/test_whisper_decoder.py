"""Whisper's decoder as an objective: it scores the right tokens, and padding changes nothing."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration

from omni_avsr.encoders.whisper import Context, WhisperEncoder
from omni_avsr.encoders.whisper_decoder import WhisperDecoderObjective
from omni_avsr.types import Features

SPECIALS = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|notimestamps|>",
    "<|transcribe|>",
    "<|en|>",
]
WORDS = ["bin", "blue", "at", "f", "two", "now"]


def tokenizer() -> PreTrainedTokenizerFast:
    """As in Whisper's, the space before a word belongs to its token; a word without one is unknown ("_now")."""
    vocabulary = SPECIALS + [f"_{word}" for word in WORDS]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="_now"))
    words.pre_tokenizer = pre_tokenizers.Metaspace(replacement="_", prepend_scheme="never")
    return PreTrainedTokenizerFast(tokenizer_object=words, additional_special_tokens=SPECIALS)


def config(vocab_size: int = 11, max_target_positions: int = 12) -> WhisperConfig:
    return WhisperConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=10,
        max_target_positions=max_target_positions,
        vocab_size=vocab_size,
        init_std=0.5,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
    )


def read_audio(path: Path) -> Tensor:
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return torch.from_numpy(np.concatenate([frame.to_ndarray()[0] for frame in frames]))


def tiny() -> WhisperDecoderObjective:
    torch.manual_seed(0)
    return WhisperDecoderObjective(config(), tokenizer()).eval()


def features() -> Features:
    values = torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(1))
    return Features(values, torch.tensor([10, 4, 7]))


def test_a_batch_scores_what_its_clips_score_alone_whatever_stands_behind_them() -> None:
    objective, batch = tiny(), features()
    texts = ["bin blue at f two now", "two", "bin at f"]
    loss, num_tokens = objective(batch, texts)
    alone = [
        objective(Features(batch.values[i : i + 1, :n], batch.lengths[i : i + 1]), [texts[i]])
        for i, n in enumerate(batch.lengths.tolist())
    ]
    assert num_tokens == objective.num_tokens(texts) == sum(n for _, n in alone) == 6 + 1 + 3 + 3
    torch.testing.assert_close(loss, torch.stack([loss for loss, _ in alone]).sum(), atol=1e-4, rtol=1e-5)


def test_the_loss_is_that_of_transformers_whisper(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = WhisperForConditionalGeneration(config()).eval()
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    objective = WhisperDecoderObjective.from_folder(tmp_path)
    one = Features(features().values[:1], torch.tensor([10]))
    loss, num_tokens = objective(one, ["  bin two "])
    ids = torch.tensor([[1, 2, 5, 9, 0]])
    logits = model(encoder_outputs=(one.values,), decoder_input_ids=ids[:, :-1]).logits[0, 1:]
    torch.testing.assert_close(loss, F.cross_entropy(logits, ids[0, 2:], reduction="sum"), atol=1e-5, rtol=1e-5)
    assert num_tokens == 3


def test_gradients_reach_the_features_that_are_attended_and_no_others() -> None:
    batch = features()
    values = batch.values.requires_grad_()
    tiny()(Features(values, batch.lengths), ["bin", "blue", "at"])[0].backward()
    assert values.grad is not None
    assert torch.equal(values.grad.abs().sum(-1) > 0, batch.mask())


def test_a_multilingual_model_gets_language_and_task() -> None:
    multilingual = config(vocab_size=51_865)
    objective = WhisperDecoderObjective(multilingual, tokenizer(), language="en")
    assert objective.prefix_ids == [
        SPECIALS.index(token) for token in (SPECIALS[1], "<|en|>", SPECIALS[3], SPECIALS[2])
    ]
    with pytest.raises(ValueError, match="needs a language"):
        WhisperDecoderObjective(multilingual, tokenizer())
    with pytest.raises(ValueError, match=r"no token <\|xx\|>"):
        WhisperDecoderObjective(multilingual, tokenizer(), language="xx")
    with pytest.raises(ValueError, match="takes no language"):
        WhisperDecoderObjective(config(), tokenizer(), language="en")


def test_the_longest_text_fits_and_one_token_more_is_refused() -> None:
    objective = tiny()
    one = Features(features().values[:1], torch.tensor([10]))
    assert objective(one, [" two" * 10])[1] == 11
    with pytest.raises(ValueError, match="11 tokens, the decoder has 12"):
        objective(one, [" two" * 11])


def test_a_text_for_every_row() -> None:
    with pytest.raises(ValueError, match="3 rows of features, but 2 texts"):
        tiny()(features(), ["bin", "two"])


@pytest.mark.parametrize("context", ["full", "trimmed"])
def test_real_tiny_en_prefers_what_was_said(context: Context, shared: Path) -> None:
    folder = shared / "models/whisper-tiny.en"
    lines = (shared / "data/grid_unseen/transcripts.tsv").read_text().splitlines()[1:4]
    names, _, texts = zip(*(line.split("\t") for line in lines), strict=True)
    waveforms = [read_audio(shared / "data/grid_unseen" / name) for name in names]
    objective = WhisperDecoderObjective.from_folder(folder)
    with torch.no_grad():
        heard = WhisperEncoder.from_folder(folder, context)(Features.pad(waveforms))
        for i in range(len(texts)):
            one = Features(heard.values[i : i + 1], heard.lengths[i : i + 1])
            losses = [objective(one, [text])[0] / objective(one, [text])[1] for text in texts]
            assert min(losses) == losses[i]
