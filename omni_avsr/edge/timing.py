"""How long a request takes: FLOPs of the encoders, and passes of the language model by FLOPs and by bytes they read.

A pass of the LLM costs so much for each layer, whatever it computes; so much for each byte of weights and of the cache,
which it has to read; and so much for each FLOP. The prompt is one pass over many positions, in which FLOPs count, and
each new token one over a single position of each row, in which bytes do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as settings

from omni_avsr.config import STRICT
from omni_avsr.edge.ledger import MemoryLedger, torch_dtype
from omni_avsr.edge.request import Request, lengths_in
from omni_avsr.encoders.access import encoder_of
from omni_avsr.flops.decoders import LABELS, llm_tape
from omni_avsr.flops.encoders import PAIRS, STEPS, EncoderCost, encoder_cost
from omni_avsr.flops.tape import Tape
from omni_avsr.types import Modality, Task

NonNegative = Annotated[float, Field(ge=0)]


@settings(frozen=True, config=STRICT)
class PassConstants:
    """Seconds of a pass of the LLM for each layer, each byte read and each FLOP, with weights of one format."""

    layer: NonNegative
    byte: NonNegative
    flop: NonNegative


@settings(frozen=True, config=STRICT)
class TimeConstants:
    """What a device takes. encoders: seconds for each FLOP, by modality. passes: by the format of the LLM's weights."""

    encoders: dict[Modality, NonNegative] = field(default_factory=dict)
    passes: dict[str, PassConstants] = field(default_factory=dict)


@dataclass(frozen=True)
class Seconds:
    """Of a request. encoding: by modality. tokens: all new ones but the first, which the prompt gives."""

    encoding: Mapping[Modality, float]
    prompt: float
    tokens: float

    @property
    def total(self) -> float:
        return sum(self.encoding.values()) + self.prompt + self.tokens


@dataclass(frozen=True)
class Pass:
    """A pass of the LLM: its layers, what it reads, and what it computes."""

    layers: int
    bytes_read: int
    flops: float

    def seconds(self, constants: PassConstants) -> float:
        return self.layers * constants.layer + self.bytes_read * constants.byte + self.flops * constants.flop


@dataclass(frozen=True)
class Work:
    """What a request makes a device do. num_steps: passes of a single position a row."""

    encoder_flops: Mapping[Modality, float]
    prompt: Pass
    step: Pass
    num_steps: int

    def seconds(self, constants: TimeConstants, weight_format: str) -> Seconds | None:
        """None where the device was not measured with such weights, or with such inputs."""
        if weight_format not in constants.passes or not self.encoder_flops.keys() <= constants.encoders.keys():
            return None
        of_pass = constants.passes[weight_format]
        return Seconds(
            encoding={m: flops * constants.encoders[m] for m, flops in self.encoder_flops.items()},
            prompt=self.prompt.seconds(of_pass),
            tokens=self.num_steps * self.step.seconds(of_pass),
        )


@dataclass(frozen=True)
class WorkLedger:
    """What requests ask of the model of a memory ledger. Its costs are counted once, whatever lengths are asked for."""

    memory: MemoryLedger

    def of(self, request: Request) -> Work:
        """ValueError: as of ``lengths_in``."""
        memory, lengths = self.memory, lengths_in(self.memory.model, request)
        costs = {modality: self._encoders[modality] for modality in lengths.inputs}
        encoder_flops = {
            modality: cost.tape.flops(cost.sizes(lengths.inputs[modality]), graph=False).total
            for modality, cost in costs.items()
        }
        tape, dtype, beams = self._tapes[request.task], torch_dtype(memory.dtype), request.num_beams
        weights = memory.llm.read_bytes(dtype, memory.quantization)

        def of_pass(rows: int, positions: int, cached: int) -> Pass:
            sizes = {STEPS: rows * positions, PAIRS: rows * positions * cached, LABELS: rows}
            read = weights + memory.llm.cache_bytes(rows * cached, dtype)
            return Pass(memory.llm.num_layers, read, tape.flops(sizes, graph=False).total)

        # Half of the new tokens are there at a mean step.
        step = of_pass(request.batch_size * beams, 1, lengths.prompt + request.new_tokens // 2)
        prompt = of_pass(request.batch_size, lengths.prompt, lengths.prompt)
        # Beams read the last position of their prompt by themselves.
        return Work(encoder_flops, prompt, step, request.new_tokens - 1 if beams == 1 else request.new_tokens)

    @cached_property
    def _encoders(self) -> Mapping[Modality, EncoderCost]:
        model = self.memory.model
        return {m: encoder_cost(encoder_of(model, m)) for m in map(Modality, model.encoders)}

    @cached_property
    def _tapes(self) -> Mapping[Task, Tape]:
        model = self.memory.model
        return {task: llm_tape(model, task, False, False) for task in model.config.tasks}
