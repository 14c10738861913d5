"""Every part's settings as validated frozen dataclasses; strict from plain mappings, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from omni_avsr.types import Modality, Rates, Task

STRICT = ConfigDict(extra="forbid")

PUBLISHED_PROMPTS = {
    Task.ASR: "Transcribe speech to text.",
    Task.VSR: "Transcribe video to text.",
    Task.AVSR: "Transcribe speech and video to text.",
}
PUBLISHED_TASK_WEIGHTS = {Task.ASR: 1.0, Task.VSR: 1.5, Task.AVSR: 1.0}

DType = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["int8", "nf4"]
QuantizationChoice = Literal["int8", "nf4", "none"]
"""Where None means: as it was trained."""
Positive = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class LoRAConfig:
    """LoRA of one set of layers; ``rank`` and ``alpha`` are true values, so the scaling is their quotient."""

    rank: Positive
    alpha: Annotated[float, Field(gt=0)]
    dropout: Probability = 0.0


@dataclass(frozen=True, config=STRICT)
class WhisperConfig:
    """A Whisper encoder of any size. ``context`` full pads to 30 s as Whisper was trained; trimmed encodes the clip.

    ``length`` covering keeps the feature of the last started 20 ms; published leaves it out, but gives at least 25
    features, those of silence included (Omni-AVSR 1.2), for which the context has to be full. ``dtype`` is of the
    encoder's weights; a smaller one saves memory where they stay frozen. Log-mel and the features are float32.
    """

    weights: str
    kind: Literal["whisper"] = "whisper"
    context: Literal["full", "trimmed"] = "trimmed"
    length: Literal["covering", "published"] = "covering"
    dtype: DType = "float32"
    ctc: bool = False
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.length == "published" and self.context != "full":
            raise ValueError("length published keeps features behind a clip, which only context full has")


@dataclass(frozen=True, config=STRICT)
class AVHubertConfig:
    """The video path of AV-HuBERT; sizes are those of Large. ``weights`` is a published checkpoint (null: random).

    ``lora`` is on Q and V of every layer (published: rank dim / 16, alpha twice that). ``dropout`` and ``layer_drop``
    act where the encoder is trained as a whole, or left in training mode as published (stages' ``drifting``).
    ``dtype`` is of the encoder's weights, for where they stay frozen; LoRA and the features are float32.
    """

    weights: str | None = None
    kind: Literal["avhubert"] = "avhubert"
    dim: Positive = 1024
    num_layers: Positive = 24
    num_heads: Positive = 16
    ffn_dim: Positive = 4096
    channels: tuple[Positive, Positive, Positive, Positive] = (64, 128, 256, 512)
    dropout: Probability = 0.1
    layer_drop: Probability = 0.05
    lora: LoRAConfig | None = None
    dtype: DType = "float32"
    ctc: bool = False
    sha256: str | None = None


@dataclass(frozen=True, config=STRICT)
class SelfSupervisedConfig:
    """A wav2vec 2.0, HuBERT or WavLM encoder of any size; ``dtype`` is of its weights, the features are float32."""

    weights: str
    kind: Literal["wav2vec2", "hubert", "wavlm"]
    dtype: DType = "float32"
    ctc: bool = False
    sha256: str | None = None


@dataclass(frozen=True, config=STRICT)
class CompactAudioConfig:
    """A small audio encoder trained from scratch: log-mel, strided convolutions, ``num_layers`` trunk layers."""

    kind: Literal["compact_audio"] = "compact_audio"
    dim: Positive = 192
    num_layers: Positive = 4
    num_heads: Positive = 4
    kernel: Positive = 15
    dropout: Probability = 0.1
    ctc: bool = True


@dataclass(frozen=True, config=STRICT)
class CompactVideoConfig:
    """A small video encoder trained from scratch: 3-D convolution, ResNet of ``channels``, trunk. Crops are resized."""

    kind: Literal["compact_video"] = "compact_video"
    dim: Positive = 192
    num_layers: Positive = 4
    num_heads: Positive = 4
    kernel: Positive = 15
    dropout: Probability = 0.1
    channels: tuple[Positive, ...] = (32, 64, 128, 192)
    image_size: Positive = 64
    ctc: bool = True

    def __post_init__(self) -> None:
        if self.image_size % self.stride:
            raise ValueError(f"image_size {self.image_size} must be a multiple of {self.stride}, the encoder's stride")

    @property
    def stride(self) -> int:
        """Pixels to one place of the last feature map: 4 by the stem, 2 by every further stage."""
        return 4 * 2 ** (len(self.channels) - 1)


PretrainedEncoderConfig = WhisperConfig | SelfSupervisedConfig | AVHubertConfig
"""Encoders whose weights may be a base model's."""
AnyEncoderConfig = PretrainedEncoderConfig | CompactAudioConfig | CompactVideoConfig
EncoderConfig = Annotated[AnyEncoderConfig, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT)
class CompressionConfig:
    """Matryoshka compression (Omni-AVSR 1.2). ``tail`` keep averages what the last window has; drop is as published."""

    mode: Literal["average", "stack"] = "average"
    tail: Literal["keep", "drop"] = "keep"
    audio_rates: tuple[Positive, ...] = (4, 16)
    video_rates: tuple[Positive, ...] = (2, 5)

    def __post_init__(self) -> None:
        for name, rates in (("audio_rates", self.audio_rates), ("video_rates", self.video_rates)):
            if not rates or len(set(rates)) != len(rates):
                raise ValueError(f"{name} must name at least one rate, each once, got {list(rates)}")

    def rates_of(self, modality: Modality) -> tuple[int, ...]:
        return self.audio_rates if modality is Modality.AUDIO else self.video_rates

    def check(self, rates: Rates, task: Task) -> None:
        """Raise ValueError when ``task`` would use a rate that was not trained."""
        for modality in task.modalities:
            rate, trained = rates.of(modality), self.rates_of(modality)
            if rate not in trained:
                raise ValueError(f"{modality} rate {rate} was not trained; choose one of {list(trained)}")


@dataclass(frozen=True, config=STRICT)
class ProjectorConfig:
    """MLP from encoder width to LLM width. Layer norm is what the paper meant and its matryoshka code lost (1.8 D1).

    ``layer_norm`` for both modalities or for each: the published code's stacking may have it for audio alone (D2).
    """

    hidden_dim: Positive = 1024
    layer_norm: bool | dict[Modality, bool] = True
    sharing: Literal["per_rate", "shared"] = "per_rate"
    kind: Literal["mlp"] = "mlp"

    def has_layer_norm(self, modality: Modality) -> bool:
        return self.layer_norm if isinstance(self.layer_norm, bool) else self.layer_norm[modality]


@dataclass(frozen=True, config=STRICT)
class BridgeFormerConfig:
    """Tiny-Align's projector (section 2): MLP, transformer without positions, pooling to ``num_tokens``, MLP.

    The parts and their order are the paper's; it states no size, so all numbers are ours, and so are the layer norm at
    the end, which gives tokens the spread of the LLM's embeddings, and ``sharing`` over rates. ``num_tokens`` is the
    paper's T: so many vectors for every clip, however long. Null, ours, leaves out the pooling.
    """

    kind: Literal["bridgeformer"] = "bridgeformer"
    hidden_dim: Positive = 768
    num_layers: Positive = 2
    num_heads: Positive = 8
    ffn_dim: Positive = 1536
    dropout: Probability = 0.0
    num_tokens: Positive | None = 16
    layer_norm: bool = True
    sharing: Literal["per_rate", "shared"] = "per_rate"

    def __post_init__(self) -> None:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be a multiple of num_heads {self.num_heads}")

    def has_layer_norm(self, modality: Modality) -> bool:
        return self.layer_norm


def _projector_kind(value: Any) -> Any:
    return value.get("kind", "mlp") if isinstance(value, Mapping) else value.kind


AnyProjectorConfig = Annotated[
    Annotated[ProjectorConfig, Tag("mlp")] | Annotated[BridgeFormerConfig, Tag("bridgeformer")],
    Discriminator(_projector_kind),
]
"""Checkpoints of before there were two have no kind: an MLP."""


@dataclass(frozen=True, config=STRICT)
class MarkerConfig:
    """The four markers around audio and video tokens: vectors of the model, beside the LLM's vocabulary.

    ``place`` vocabulary, as published: they are rows behind the first ``vocab_size`` of the LLM's own (null: all), in
    its output matrix too, so that it can write them. ``pad_row``: one more before them, for padding (Llama).
    """

    place: Literal["beside", "vocabulary"] = "beside"
    pad_row: bool = False
    vocab_size: Positive | None = None

    def __post_init__(self) -> None:
        if self.place == "beside" and (self.pad_row or self.vocab_size):
            raise ValueError("pad_row and vocab_size are of markers whose place is the vocabulary")

    @property
    def num_rows(self) -> int:
        return 4 + self.pad_row


@dataclass(frozen=True, config=STRICT)
class AdapterConfig:
    """Omni-LoRA (Omni-AVSR 1.2): shared = S, task_specific = T, hybrid = ST. ``rank`` and ``alpha`` are true values.

    ``init`` zero starts as the LLM is; normal is what the published code comes to: both matrices N(0, 0.02).
    """

    strategy: Literal["shared", "task_specific", "hybrid"] = "hybrid"
    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Probability = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    init: Literal["zero", "normal"] = "zero"


@dataclass(frozen=True, config=STRICT)
class PublishedSearch:
    """How the authors' code searches where it differs from ours (Omni-AVSR 1.7).

    Beams stop by the rule of transformers 4.43. With a ``temperature``, tokens are sampled, as Llama's own settings
    make it (0.6, ``top_p`` 0.9, and the ``top_k`` that transformers has where a model names none): results then depend
    on ``seed`` and on which clips share a batch.
    """

    temperature: Annotated[float, Field(gt=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: Positive = 50
    seed: Annotated[int, Field(ge=0)] = 7


@dataclass(frozen=True, config=STRICT)
class DraftConfig:
    """Greedy search in fewer passes of the LLM: it reads what the encoders' CTC heads wrote, and corrects it.

    ``threshold`` null writes what greedy search writes but for rounding: the same in float32, while in bfloat16 and
    with quantised weights a near tie may fall the other way. A number keeps a drafted token wherever its probability
    is at least that share of the best token's, which saves passes and may keep errors of the draft.
    """

    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None


def check_draft(draft: DraftConfig | None, num_beams: int, published: PublishedSearch | None = None) -> None:
    """Raise ValueError where a draft is asked for and the search is not greedy."""
    if draft is None:
        return
    if num_beams > 1:
        raise ValueError(f"a draft serves greedy search, not {num_beams} beams; use 1 beam, or no draft")
    if published is not None and published.temperature is not None:
        raise ValueError(
            f"a draft serves greedy search, not tokens sampled at temperature {published.temperature:g}; use no draft"
        )


@dataclass(frozen=True, config=STRICT)
class LLMConfig:
    """A causal language model of transformers: Hub id, local folder, or a GGUF inside an installed package.

    ``sha256`` pins the weights that adapters were trained on; loading others under the same name is then an error.
    ``num_layers`` keeps only the first so many decoder layers, which makes a small model for small experiments.
    ``quantization`` holds the frozen weights in 8 or 4 bits (``quantization.py``); ``dtype`` is then of the rest and of
    the activations.
    """

    weights: str
    dtype: DType = "float32"
    sha256: str | None = None
    num_layers: Positive | None = None
    quantization: Quantization | None = None


class BaseWeights(NamedTuple):
    """Weights that a model is built upon, and their fingerprint where it is known."""

    reference: str
    sha256: str | None


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """Everything that rebuilds an ``OmniAVSR`` but its trained weights.

    ``padding`` attended is the published code's: the padding of a batch's shorter clips counts as theirs (1.8 D5).
    ``search`` is how the model writes where a call does not say otherwise; imported checkpoints search as published.
    """

    llm: LLMConfig
    audio_encoder: EncoderConfig | None = None
    video_encoder: EncoderConfig | None = None
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    projector: AnyProjectorConfig = field(default_factory=ProjectorConfig)
    adapters: AdapterConfig = field(default_factory=AdapterConfig)
    markers: MarkerConfig = field(default_factory=MarkerConfig)
    prompts: dict[Task, str] = field(default_factory=lambda: dict(PUBLISHED_PROMPTS))
    waveform: Literal["raw", "layer_norm"] = "raw"
    padding: Literal["masked", "attended"] = "masked"
    search: PublishedSearch | None = None

    def __post_init__(self) -> None:
        if self.audio_encoder is None and self.video_encoder is None:
            raise ValueError("a model needs an audio encoder, a video encoder or both")
        if missing := [str(task) for task in self.tasks if task not in self.prompts]:
            raise ValueError(f"prompts name none for {', '.join(missing)}")

    def encoder_of(self, modality: Modality) -> AnyEncoderConfig | None:
        return self.audio_encoder if modality is Modality.AUDIO else self.video_encoder

    @property
    def base_weights(self) -> dict[str, BaseWeights]:
        """The base models, by what the names of their tensors begin with in the whole model."""
        found = {"llm.": BaseWeights(self.llm.weights, self.llm.sha256)}
        for modality in Modality:
            encoder = self.encoder_of(modality)
            if isinstance(encoder, PretrainedEncoderConfig) and encoder.weights is not None:
                found[f"encoders.{modality}.encoder."] = BaseWeights(encoder.weights, encoder.sha256)
        return found

    def pinned(self, sha256: Mapping[str, str]) -> ModelConfig:
        """The same settings with the fingerprints of the base models, by the keys of ``base_weights``."""
        parts: dict[str, Any] = {"llm": replace(self.llm, sha256=sha256["llm."])}
        for modality in Modality:
            encoder, key = self.encoder_of(modality), f"encoders.{modality}.encoder."
            if isinstance(encoder, PretrainedEncoderConfig) and key in sha256:
                parts[f"{modality}_encoder"] = replace(encoder, sha256=sha256[key])
        return replace(self, **parts)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks whose modalities the model has encoders for."""
        return tuple(task for task in Task if all(self.encoder_of(modality) for modality in task.modalities))


ConfigT = TypeVar("ConfigT")


def from_mapping(config_class: type[ConfigT], values: Mapping[str, Any], name: str = "config") -> ConfigT:
    """Build a settings dataclass from plain values.

    Raises:
        ValueError: with one line for every unknown, missing or invalid field, by its dotted name.
    """
    try:
        return TypeAdapter(config_class).validate_python(dict(values))
    except ValidationError as error:
        lines = [
            f"{'.'.join([name, *_path(item['loc'], values)])}: {item['msg']} (got {item['input']!r})"
            for item in error.errors()
        ]
        raise ValueError("\n".join(lines)) from None


def _path(loc: Sequence[int | str], values: Any) -> list[str]:
    """The keys that lead to a field: pydantic's location without the tags of unions and the marks of bad keys."""
    path = []
    for part in loc:
        if part == "[key]" or (isinstance(values, Mapping) and part not in values and part == values.get("kind")):
            continue
        path.append(str(part))
        values = values.get(part) if isinstance(values, Mapping) else None
    return path


def to_mapping(config: Any) -> dict[str, Any]:
    """The plain values of a settings dataclass, such as JSON can hold."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")
