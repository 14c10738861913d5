"""The compact encoders: the contract, independence of padding, and what the video stem computes."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_avsr.config import CompactAudioConfig, CompactVideoConfig
from omni_avsr.encoders.compact_audio import CompactAudioEncoder
from omni_avsr.encoders.compact_video import STEM_FRAMES, CompactVideoEncoder
from omni_avsr.encoders.trunk import SelfAttention, Trunk, rotate
from omni_avsr.types import Features

AUDIO = CompactAudioConfig(dim=16, num_layers=2, num_heads=2, kernel=5)
VIDEO = CompactVideoConfig(dim=16, num_layers=2, num_heads=2, kernel=5, channels=(4, 6), image_size=16)

KINDS = ["audio", "video"]
LENGTHS = {"audio": (4000, 1601, 7, 3200), "video": (9, 4, 1, 6)}
BEHIND = (float("nan"), 1e9)


def make(kind: str) -> CompactAudioEncoder | CompactVideoEncoder:
    torch.manual_seed(0)
    return CompactAudioEncoder(AUDIO) if kind == "audio" else CompactVideoEncoder(VIDEO)


def clips(kind: str, lengths: tuple[int, ...] | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = () if kind == "audio" else (20, 20)
    return [torch.randn(length, *size, generator=generator) for length in lengths or LENGTHS[kind]]


def filled_behind(batch: Features, content: float, extra: int) -> Features:
    """The same clips with ``extra`` more steps of padding, and ``content`` in all of it."""
    shape = batch.values.shape
    values = torch.full((shape[0], shape[1] + extra, *shape[2:]), content)
    values[:, : shape[1]][batch.mask()] = batch.values[batch.mask()]
    return Features(values, batch.lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_equals_singles(kind: str) -> None:
    encoder = make(kind).eval()
    rows = clips(kind)
    together = encoder(Features.pad(rows))
    for index, row in enumerate(rows):
        alone = encoder(Features.pad([row]))
        assert alone.lengths[0] == together.lengths[index]
        own = together.values[index, : alone.lengths[0]]
        torch.testing.assert_close(own, alone.values[0], atol=1e-5, rtol=1e-5)
    assert not together.values[~together.mask()].any()


@pytest.mark.parametrize("content", BEHIND)
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_behind_a_clip_never_matters(kind: str, content: float) -> None:
    encoder = make(kind).eval()
    batch = Features.pad(clips(kind))
    expected, result = encoder(batch), encoder(filled_behind(batch, content, extra=len(batch.values[0]) // 3))
    assert torch.equal(result.lengths, expected.lengths)
    width = expected.values.shape[1]
    torch.testing.assert_close(result.values[:, :width], expected.values, atol=1e-5, rtol=1e-5)
    assert not result.values[:, width:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_and_reach_every_parameter(kind: str) -> None:
    encoder = make(kind).train()
    output = encoder(filled_behind(Features.pad(clips(kind)), torch.nan, extra=3))
    (output.values * torch.randn(output.values.shape)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # a key's bias shifts all scores of a query alike, which softmax takes back out
        parts = parameter.grad.view(3, -1).unbind() if name.endswith("qkv.bias") else [parameter.grad]
        assert all(parts[index].any() for index in range(len(parts)) if index != 1), name


@pytest.mark.parametrize(
    ("samples", "frames"), [(1, 1), (160, 1), (161, 1), (320, 1), (321, 2), (640, 2), (16_000, 50), (48_000, 150)]
)
def test_audio_gives_a_feature_for_every_started_20_ms(samples: int, frames: int) -> None:
    encoder = make("audio").eval()
    output = encoder(Features.pad([torch.randn(samples)]))
    assert output.lengths.tolist() == [frames]
    assert output.values.shape == (1, frames, AUDIO.dim)
    assert encoder.output_dim == AUDIO.dim
    assert encoder.frame_rate == 50.0


def test_video_gives_a_feature_for_every_frame() -> None:
    encoder = make("video").eval()
    output = encoder(Features.pad(clips("video")))
    assert output.lengths.tolist() == list(LENGTHS["video"])
    assert output.values.shape == (4, 9, VIDEO.dim)
    assert encoder.output_dim == VIDEO.dim
    assert encoder.frame_rate == 25.0


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_clip_is_an_error(kind: str) -> None:
    batch = Features.pad(clips(kind))
    batch.lengths[1] = 0
    with pytest.raises(ValueError, match=r"without (audio samples|video frames)"):
        make(kind)(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_draws_nothing_and_training_drops_out(kind: str) -> None:
    encoder, batch = make(kind), Features.pad(clips(kind))
    encoder.eval()
    assert torch.equal(encoder(batch).values, encoder(batch).values)
    encoder.train()
    assert not torch.equal(encoder(batch).values, encoder(batch).values)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_autocast_stays_close(kind: str) -> None:
    encoder, batch = make(kind).eval(), Features.pad(clips(kind))
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(batch).values
    assert torch.isfinite(half).all()
    assert (half.float() - encoder(batch).values).abs().mean() < 0.05


def batch_norms(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in encoder.named_buffers() if "running" in name or "num_batches" in name}


def test_batch_norm_statistics_see_no_padding() -> None:
    rows = clips("video", (9, 4))
    tight, loose = make("video").train(), make("video").train()
    tight(Features.pad(rows))
    loose(filled_behind(Features.pad(rows), 1e4, extra=11))
    before = batch_norms(make("video"))
    for name, value in batch_norms(tight).items():
        assert not torch.equal(value, before[name]), name
        torch.testing.assert_close(batch_norms(loose)[name], value, msg=name)


def test_batch_norm_counts_every_real_frame_of_every_clip_once() -> None:
    """The stem's batch norm against the statistics of the clips' own stem outputs, one clip at a time."""
    rows = clips("video", (9, 4))
    encoder = make("video").train()
    outputs: list[Tensor] = []
    hook = encoder.stem[0].register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    single = copy.deepcopy(encoder)
    for row in rows:
        single(Features.pad([row]))
    hook.remove()
    encoder(Features.pad(rows))
    frames = torch.cat(outputs).transpose(0, 1).flatten(1)
    norm = encoder.stem[1]
    torch.testing.assert_close(norm.running_mean, 0.1 * frames.mean(1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * frames.var(1), atol=1e-6, rtol=1e-4)


def test_the_stem_equals_a_real_3d_convolution() -> None:
    encoder = make("video").eval()
    size = VIDEO.image_size
    video = torch.randn(2, 7, size, size, generator=torch.Generator().manual_seed(2))
    seen: list[Tensor] = []
    encoder.stem[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    encoder(Features(video, torch.tensor([7, 7])))
    weight = encoder.stem[0].weight[:, None]  # [channels, 1, frames, 7, 7]
    assert weight.shape[2] == STEM_FRAMES
    expected = F.conv3d(video[:, None], weight, stride=(1, 2, 2), padding=(STEM_FRAMES // 2, 3, 3))
    torch.testing.assert_close(seen[0], expected.transpose(1, 2).flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_crops_of_another_size_are_resized() -> None:
    encoder = make("video").eval()
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    small = F.interpolate(ramp, size=(16, 16), mode="bilinear", antialias=True)
    lengths = torch.tensor([3])
    large = encoder(Features(ramp, lengths)).values
    torch.testing.assert_close(large, encoder(Features(small, lengths)).values)


@pytest.mark.parametrize(("channels", "image_size"), [((4, 6), 20), ((4, 6, 8), 24), ((4,), 18)])
def test_an_image_size_that_does_not_divide_is_an_error(channels: tuple[int, ...], image_size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size {image_size} must be a multiple of"):
        replace(VIDEO, channels=channels, image_size=image_size)


def test_the_trunk_refuses_heads_that_do_not_divide_and_even_kernels() -> None:
    with pytest.raises(ValueError, match="dim 18 must be a multiple of twice the 4 attention heads"):
        CompactAudioEncoder(replace(AUDIO, dim=18, num_heads=4))
    with pytest.raises(ValueError, match="must be odd to keep time aligned, got 4"):
        CompactAudioEncoder(replace(AUDIO, kernel=4))


def test_rotation_makes_attention_scores_depend_on_relative_time_alone() -> None:
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).unbind()
    rotated_query, rotated_key = (rotate(x.expand(1, 1, 6, 8))[0, 0] for x in (query, key))
    scores = rotated_query @ rotated_key.T
    for offset in range(-5, 6):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores[0, 0], query @ key)
    assert scores[0].std() > 0.01


def test_attention_depends_on_relative_time_alone() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, 2, dropout=0.0)
    clip = torch.randn(1, 4, 8)
    early, late = F.pad(clip, (0, 0, 0, 5)), F.pad(clip, (0, 0, 5, 0))
    first = attention(early, (torch.arange(9) < 4)[None])[:, :4]
    torch.testing.assert_close(attention(late, (torch.arange(9) >= 5)[None])[:, 5:], first, atol=1e-5, rtol=1e-4)
    reversed_clip = attention(clip.flip(1), torch.ones(1, 4, dtype=torch.bool)).flip(1)
    assert not torch.allclose(reversed_clip, first, atol=1e-3)


def test_attention_reaches_over_the_whole_clip_and_never_into_padding() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, 2, dropout=0.0)
    x = torch.randn(1, 6, 8, requires_grad=True)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    attention(x, mask)[0, 0].sum().backward()
    assert x.grad is not None
    assert [bool(row.any()) for row in x.grad[0]] == [True] * 4 + [False] * 2


def test_a_trunk_gives_zeros_behind_each_length() -> None:
    torch.manual_seed(0)
    trunk = Trunk(8, 1, 2, 3, dropout=0.0)
    output = trunk(Features(torch.randn(2, 5, 8), torch.tensor([5, 2])))
    assert not output.values[1, 2:].any()
    assert output.values[1, :2].any()
