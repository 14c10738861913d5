"""The Whisper encoder keeps its contract in both contexts, and equals transformers' own encoder."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from omni_avsr.encoders.whisper import Context, WhisperEncoder
from omni_avsr.types import Features

CONTEXTS: tuple[Context, Context] = ("full", "trimmed")
TINY = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 100,
    "vocab_size": 20,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "decoder_start_token_id": 1,
}
LENGTHS = (32_000, 31_990, 31_841, 31_680, 16_000, 4_961, 4_800, 321, 320, 160, 1)
"""In samples; up to the 2 s that 100 positions hold, with odd and even numbers of mel frames."""


def tiny(context: Context) -> WhisperEncoder:
    torch.manual_seed(0)
    return WhisperEncoder(WhisperConfig(**TINY), context).eval()


def clips(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


def save_tiny_model(folder: Path, sizes: dict[str, int] | None = None, **options: str) -> WhisperModel:
    torch.manual_seed(3)
    model = WhisperModel(WhisperConfig(**(TINY | (sizes or {})))).eval()
    model.half().save_pretrained(folder, **options)
    return model.float()


def transformers_features(model: WhisperModel, waveform: Tensor, seconds: int) -> Tensor:
    extractor = WhisperFeatureExtractor(model.config.num_mel_bins, chunk_length=seconds)
    mel = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        return model.encoder(mel).last_hidden_state[0]


def read_audio(path: Path) -> Tensor:
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return torch.from_numpy(np.concatenate([frame.to_ndarray()[0] for frame in frames]))


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_clip_is_the_same_alone_and_in_a_batch_whatever_stands_behind_it(context: Context) -> None:
    encoder, rows = tiny(context), clips()
    batch = Features.pad(rows)
    garbage = torch.where(batch.mask(), batch.values, torch.full_like(batch.values, 1e3))
    with torch.no_grad():
        together = encoder(Features(garbage, batch.lengths))
        for row, length, clip in zip(together.values, together.lengths, rows, strict=True):
            alone = encoder(Features.pad([clip]))
            assert alone.values.shape == (1, length, 32)
            torch.testing.assert_close(row[:length], alone.values[0], atol=1e-5, rtol=0)
            assert not row[length:].any()


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_feature_stands_for_20_ms_begun(context: Context) -> None:
    encoder = tiny(context)
    result = encoder(Features.pad(clips()))
    assert result.lengths.tolist() == [-(-length // 320) for length in LENGTHS]
    assert result.values.shape[1:] == (100, encoder.output_dim)
    assert encoder.frame_rate == 50.0


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_clip_that_fills_the_context_equals_transformers(context: Context, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path)
    clip = clips((32_000,))[0]
    result = WhisperEncoder.from_folder(tmp_path, context)(Features.pad([clip])).values[0]
    torch.testing.assert_close(result, transformers_features(model, clip, seconds=2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_size_is_the_configs_with_the_128_mel_bands_of_large_v3_as_well(context: Context, tmp_path: Path) -> None:
    sizes = {"num_mel_bins": 128, "d_model": 48, "encoder_layers": 3, "encoder_attention_heads": 4}
    model = save_tiny_model(tmp_path, sizes | {"encoder_ffn_dim": 80, "max_source_positions": 150})
    clip = clips((48_000,))[0]
    encoder = WhisperEncoder.from_folder(tmp_path, context)
    assert (encoder.output_dim, encoder.max_seconds, encoder.frame_rate) == (48, 3.0, 50.0)
    result = encoder(Features.pad([clip])).values[0]
    torch.testing.assert_close(result, transformers_features(model, clip, seconds=3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_samples", [31_700, 9_999, 1])
def test_full_context_equals_transformers_on_the_clips_own_time(num_samples: int, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path)
    clip = clips((num_samples,))[0]
    result = WhisperEncoder.from_folder(tmp_path, "full")(Features.pad([clip])).values[0]
    expected = transformers_features(model, clip, seconds=2)[: len(result)]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_without_layers_trimmed_equals_full_since_only_attention_differs() -> None:
    encoder = tiny("full")
    encoder.encoder.layers = torch.nn.ModuleList()
    batch = Features.pad(clips())
    with torch.no_grad():
        full = encoder(batch).values
        encoder.context = "trimmed"
        torch.testing.assert_close(encoder(batch).values, full, atol=1e-5, rtol=0)


def test_bfloat16_autocast_stays_near_float32_and_ignores_padding() -> None:
    encoder, rows = tiny("trimmed"), clips((9_000, 3_000))
    exact = encoder(Features.pad(rows))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        together, alone = encoder(Features.pad(rows)), encoder(Features.pad(rows[1:]))
    torch.testing.assert_close(together.values.float(), exact.values, atol=0.1, rtol=0)
    torch.testing.assert_close(together.values[1:, : alone.lengths], alone.values, atol=0.1, rtol=0)


def test_gradients_reach_every_weight_but_the_fixed_positions() -> None:
    encoder = tiny("trimmed").train()
    encoder(Features.pad(clips((8_000, 3_000)))).values.square().sum().backward()
    silent = {name for name, weight in encoder.named_parameters() if weight.grad is None}
    assert silent == {"encoder.embed_positions.weight"}


def test_half_precision_weights_load_as_float32_or_as_asked(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    assert {weight.dtype for weight in WhisperEncoder.from_folder(tmp_path).parameters()} == {torch.float32}
    encoder = WhisperEncoder.from_folder(tmp_path, "trimmed", torch.bfloat16)
    assert encoder(Features.pad(clips((5_000, 320)))).values.dtype == torch.bfloat16


def test_shards_load_like_one_file(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "one")
    save_tiny_model(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = (WhisperEncoder.from_folder(tmp_path / name).state_dict() for name in ("one", "many"))
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({name: value for name, value in state.items() if "encoder.conv1" not in name}, tmp_path / "x")
    (tmp_path / "x").replace(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"(?s)encoder weights.*conv1.weight"):
        WhisperEncoder.from_folder(tmp_path)


def test_a_folder_without_whisper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json does not exist"):
        WhisperEncoder.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match='"llama"'):
        WhisperEncoder.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "whisper"} | TINY))
    with pytest.raises(ValueError, match=r"neither model.safetensors nor"):
        WhisperEncoder.from_folder(tmp_path)


@pytest.mark.parametrize("context", CONTEXTS)
def test_clips_too_long_or_empty_are_refused(context: Context) -> None:
    encoder = tiny(context)
    with pytest.raises(ValueError, match=r"2\.50 s .* 2 s; cut it"):
        encoder(Features.pad(clips((800, 40_000))))
    with pytest.raises(ValueError, match="without samples"):
        encoder(Features(torch.zeros(2, 800), torch.tensor([800, 0])))


def test_an_unknown_context_is_refused() -> None:
    with pytest.raises(ValueError, match='"half"'):
        WhisperEncoder(WhisperConfig(**TINY), "half")  # type: ignore[arg-type]


def test_real_tiny_en_equals_transformers_and_ignores_padding(shared: Path) -> None:
    folder = shared / "models/whisper-tiny.en"
    paths = [min((shared / "data/grid/s1").glob("*.mp4")), shared / "data/grid_unseen/s3_sbia1a.mp4"]
    waveforms = [read_audio(path) for path in paths]
    waveforms[1] = waveforms[1][:30_000]
    model = WhisperModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        full = WhisperEncoder.from_folder(folder, "full")(Features.pad(waveforms))
        for row, length, waveform in zip(full.values, full.lengths, waveforms, strict=True):
            expected = transformers_features(model, waveform, seconds=30)[:length]
            torch.testing.assert_close(row[:length], expected, atol=1e-3, rtol=1e-4)
        encoder = WhisperEncoder.from_folder(folder, "trimmed")
        trimmed = encoder(Features.pad(waveforms))
        alone = encoder(Features.pad(waveforms[1:]))
    assert torch.equal(trimmed.lengths, full.lengths)
    torch.testing.assert_close(trimmed.values[1:, : alone.lengths], alone.values, atol=1e-4, rtol=1e-4)
