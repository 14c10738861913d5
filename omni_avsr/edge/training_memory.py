"""What training on a device takes: gradients, the optimizer's state, and what forward passes keep for the backward one.

For stages that train projectors, markers and LoRA through the LLM, or projectors towards its embeddings; what an
encoder keeps that is trained as a whole is not described. One task's graph is in memory at a time, so the longest one
counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from omni_avsr.adapters import LORA, ROUTES
from omni_avsr.config import BridgeFormerConfig, ProjectorConfig
from omni_avsr.edge.encoder_memory import FLOAT32
from omni_avsr.edge.ledger import Bytes, Memory, MemoryConstants, MemoryLedger, Part, Stage, torch_dtype
from omni_avsr.edge.request import Request, lengths_in, num_tokens_of
from omni_avsr.encoders.access import encoder_of
from omni_avsr.encoders.avhubert import AVHubertEncoder
from omni_avsr.encoders.build import SpeechEncoder
from omni_avsr.flops.encoders import STEPS, encoder_cost
from omni_avsr.stages import EmbedLinkObjectiveConfig, RecognitionObjectiveConfig, StageConfig, freeze_all_but
from omni_avsr.types import Modality, Rates

Precision = Literal["32-true", "bf16-mixed"]
BFLOAT16 = 2
_MOMENTS = 2
"""Numbers that AdamW keeps of each parameter."""
GRAPH_SCALE = 1.85
"""Bytes that the allocator holds for each byte of a graph, whose many tensors come and go in another order; measured
with glibc on steps of SmolLM2-135M in float32 and bfloat16, on clips of 3 and of 12 s: 1.80 to 1.97."""


@dataclass(frozen=True)
class Step:
    """One micro-batch: clips, all of ``seconds``, with so many labels each, the end token included."""

    rates: Rates
    seconds: float
    num_clips: int
    num_labels: int
    precision: Precision = "32-true"


def training_memory(ledger: MemoryLedger, stage: StageConfig, step: Step, constants: MemoryConstants) -> Memory:
    """The memory of a process that trains ``stage``. What the stage freezes is frozen in the ledger's model.

    Raises:
        ValueError: the stage trains an encoder alone, or more of one than LoRA.
    """
    model = ledger.model
    names = freeze_all_but(model, stage.trainable)
    if isinstance(stage.objective, EmbedLinkObjectiveConfig):
        return _linking_memory(ledger, stage.objective, step, constants)
    if not isinstance(stage.objective, RecognitionObjectiveConfig):
        raise ValueError(f"the memory of a stage with the objective {stage.objective.kind} is not known")
    if whole := [name for name in sorted(names) if name.startswith("encoders.") and LORA not in name]:
        raise ValueError(f"what an encoder keeps that is trained is not known, but for its LoRA; {whole[0]} is trained")
    own = sum(value.nbytes for value in model.parameters() if value.requires_grad)
    task = max(stage.objective.tasks, key=lambda task: len(task.modalities))
    request = Request(task, step.rates, step.seconds, batch_size=step.num_clips)
    lengths, transcribing = lengths_in(model, request), ledger.transcribing(request, constants)
    always: dict[Part, int] = {"optimizer": _MOMENTS * own, "adapters": ledger.weights.get("adapters", 0)}
    stages = ledger.reading(constants)
    graph = 0
    for modality, samples in lengths.inputs.items():
        name: Stage = "encoding audio" if modality is Modality.AUDIO else "encoding video"
        steps = int(encoder_cost(encoder_of(model, modality)).sizes(samples)[STEPS])
        graph += _kept_by_encoder(encoder_of(model, modality), steps)
        stages[name] = {**transcribing.stages[name], **always, "graph": round(GRAPH_SCALE * graph)}
    positions = step.num_clips * (lengths.prompt + step.num_labels)
    graph += _kept_by_projectors(ledger, request) + _kept_by_llm(ledger, stage, step, positions)
    given = {**transcribing.stages["prompt"], **always, "kv_cache": 0}
    passing = round(constants.scale * ledger.llm.pass_bytes(positions, torch_dtype(ledger.dtype)))
    held = round(GRAPH_SCALE * graph)
    stages["training"] = {**given, "gradients": own, "graph": held, "activations": passing}
    # The parts of the loss have given their gradients, which are handed on to the parameters one by one.
    stages["update"] = {**given, "gradients": 2 * own, "activations": 0}
    return Memory(stages)


def _linking_memory(
    ledger: MemoryLedger, objective: EmbedLinkObjectiveConfig, step: Step, constants: MemoryConstants
) -> Memory:
    """Of a stage that has the LLM's embeddings alone, as floats; frozen encoders have gone before, clip by clip."""
    own = sum(value.nbytes for value in ledger.model.parameters() if value.requires_grad)
    table = ledger.llm.table_bytes(torch_dtype(ledger.dtype), None)
    parts = ledger.held(constants).items()
    held: dict[Part, int] = {part: size for part, size in parts if part not in ("llm", "adapters")}
    held = held | {"embeddings": table, "optimizer": _MOMENTS * own}
    stages: dict[Stage, Bytes] = {"reading encoders": ledger.reading(constants)["reading encoders"]}
    graph = 0
    for task in objective.tasks:
        [modality] = task.modalities
        if modality not in ledger.model.frame_rates:
            continue
        single = Request(task, step.rates, step.seconds)
        alone = ledger.transcribing(single, constants).stages
        name: Stage = "encoding audio" if modality is Modality.AUDIO else "encoding video"
        stages[name] = held | {part: alone[name][part] for part in ("inputs", "features", "activations")}
        graph += _kept_by_projectors(ledger, replace(single, batch_size=step.num_clips))
        rate, features = step.rates.of(modality), lengths_in(ledger.model, single).features[modality]
        num_tokens = step.num_clips * num_tokens_of(ledger.model, modality, rate, features)
        graph += num_tokens * ledger.llm.hidden * FLOAT32  # differences
        if objective.contrast_weight:
            graph += num_tokens * ledger.llm.vocab_size * FLOAT32
    stages["training"] = held | {"gradients": own, "graph": round(GRAPH_SCALE * graph)}
    return Memory(stages)


def _kept_by_encoder(speech: SpeechEncoder, steps: int) -> int:
    """Bytes of an encoder with LoRA in training, 0 of a frozen one."""
    encoder = speech.encoder
    ranks = [value.shape[0] for name, value in speech.named_parameters() if ".lora_A." in name and value.requires_grad]
    if not ranks:
        return 0
    assert isinstance(encoder, AVHubertEncoder), "only AV-HuBERT has LoRA of ours"
    itemsize, width = encoder.fuse.weight.element_size(), encoder.output_dim
    # Of each layer: what the two norms read, queries, keys, values and their mixture, and what GELU reads.
    of_layers = len(encoder.layers) * (6 * width + encoder.layers[0].get_submodule("fc1").out_features) * itemsize
    # LoRA reads one float32 copy for Q and V where there is no cast, and one for each where there is.
    copies = len(encoder.layers) * (1 if itemsize == FLOAT32 else 2)
    return steps * (of_layers + (copies * width + sum(ranks)) * FLOAT32)


def _kept_by_projectors(ledger: MemoryLedger, request: Request) -> int:
    """What their layers read, and the tokens that they give."""
    kept, config = 0, ledger.model.config.projector
    lengths = lengths_in(ledger.model, request)
    for modality, length in lengths.features.items():
        rate, width = request.rates.of(modality), encoder_of(ledger.model, modality).output_dim
        read, given = -(-length // rate), num_tokens_of(ledger.model, modality, rate, length)
        numbers = given * 2 * ledger.llm.hidden
        match config:
            case ProjectorConfig():
                numbers += read * (width + config.hidden_dim)
            case BridgeFormerConfig(hidden_dim=dim):
                # Of a layer: what its norms, its attention and its feed-forward matrices read, and what GELU does.
                of_layers = config.num_layers * (8 * dim + 2 * config.ffn_dim)
                numbers += read * (width + 4 * dim + of_layers) + given * 3 * dim
        kept += request.batch_size * numbers * FLOAT32
    return kept


def _kept_by_llm(ledger: MemoryLedger, stage: StageConfig, step: Step, positions: int) -> int:
    """Bytes of the decoder's layers and of the logits."""
    llm, dtype = ledger.llm, torch_dtype(ledger.dtype)
    autocast = step.precision == "bf16-mixed"
    # Of all layers: what the two norms read in float32; queries, keys, values and their mixture; gate and up.
    of_layers = 2 * llm.num_layers * llm.hidden * FLOAT32
    itemsize = BFLOAT16 if autocast else dtype.itemsize
    of_layers += (2 * llm.queries + llm.cached + 2 * llm.num_layers * llm.widened) * itemsize
    of_layers += _kept_by_adapters(ledger, autocast)
    labels = step.num_clips * step.num_labels * llm.vocab_size * (itemsize + 2 * FLOAT32)
    if stage.gradient_checkpointing:
        between = llm.num_layers * llm.hidden * dtype.itemsize
        return labels + positions * (between + of_layers // llm.num_layers)
    # Frozen float32 matrices are kept as autocast casts them.
    casts = sum(rows * columns for rows, columns in llm.matrices) if autocast and dtype.itemsize == FLOAT32 else 0
    return labels + positions * of_layers + casts * BFLOAT16


def _kept_by_adapters(ledger: MemoryLedger, autocast: bool) -> int:
    """Bytes for a position of what LoRA in training reads, in all layers."""
    routes = ROUTES[ledger.model.config.adapters.strategy]
    active = max(routes.values(), key=len)
    found = [
        (name.split(".lora_A.")[0], value.shape)
        for name, value in ledger.model.llm.named_parameters()
        if ".lora_A." in name and value.requires_grad and name.split(".lora_A.")[1].split(".")[0] in active
    ]
    ranks, widths = sum(shape[0] for _, shape in found), [shape[1] for _, shape in found]
    if autocast:
        # Cast for each of them.
        return (sum(widths) + ranks) * BFLOAT16
    modules = {module: shape[1] for module, shape in found}
    if ledger.dtype == "float32":
        # What several matrices of a layer read is one tensor.
        layers = {module.rpartition(".")[0]: width for module, width in modules.items()}
        return (sum(layers.values()) + ranks) * FLOAT32
    return (sum(modules.values()) + ranks) * FLOAT32
