"""Omni-LoRA: peft's LoRA layers under several named adapters, and the router that picks which of them are active.

The three strategies of Omni-AVSR (section 1.2) differ in ``ROUTES`` alone. peft's own ``set_adapter`` also flips
``requires_grad``; between the forward passes of three tasks that leaves all but the last without gradient. The router
sets the active adapters and nothing else, so every adapter stays trainable.
"""

from __future__ import annotations

import copy
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from omni_avsr.config import AdapterConfig
from omni_avsr.llm import CACHE_ARGUMENTS
from omni_avsr.streaming import MergedRows, Rows
from omni_avsr.types import Task

SHARED = "shared"
_PUBLISHED_STD = 0.02
LORA = ".lora_"
"""What the names of adapters' parameters have in them."""
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
PEFT_PREFIX = "base_model.model."
"""What stands before a module's name in peft's files."""

ROUTES: Mapping[str, Mapping[Task, tuple[str, ...]]] = {
    "shared": dict.fromkeys(Task, (SHARED,)),
    "task_specific": {task: (task.value,) for task in Task},
    "hybrid": {task: (SHARED, task.value) for task in Task},
}
"""Strategy -> task -> the adapters whose outputs are added to the frozen layer's."""


def adapter_names(config: AdapterConfig, tasks: Sequence[Task] = tuple(Task)) -> tuple[str, ...]:
    """The adapters that ``tasks`` need under the strategy, each once, shared first."""
    return tuple(dict.fromkeys(name for task in tasks for name in ROUTES[config.strategy][task]))


def add_adapters(
    model: nn.Module,
    config: AdapterConfig,
    generator: torch.Generator,
    tasks: Sequence[Task] = tuple(Task),
    dtype: torch.dtype = torch.float32,
) -> AdapterRouter:
    """Put the adapters that ``tasks`` need on ``model`` in place, and return their router.

    All weights of ``model`` are frozen; all adapters are trainable, and in float32 whatever the dtype of the model,
    since small steps vanish in bfloat16; another ``dtype`` is for adapters that only run. B starts at zero and A
    uniform as in peft (or both normal, as ``config.init`` says), drawn from ``generator`` (on the CPU) alone, so a seed
    gives the same adapters on every device. The scaling is ``alpha / rank``.

    Raises:
        ValueError: when ``model`` has adapters already, or no module of a name in ``target_modules``.
    """
    if any(isinstance(module, LoraLayer) for module in model.modules()):
        raise ValueError("the model has LoRA adapters already")
    leaves = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if missing := set(config.target_modules) - leaves:  # peft is content when one of them exists
        raise ValueError(f"target_modules {sorted(missing)} are not modules of {type(model).__name__}")
    names = adapter_names(config, tasks)
    settings: dict[str, Any] = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
    settings |= {"target_modules": list(config.target_modules), "task_type": "CAUSAL_LM"}
    with torch.random.fork_rng(devices=[]):
        # One config object per adapter, since peft writes into it.
        # On the meta device, or their memory would come and go before they have a value.
        tuner = LoraModel(model, {name: LoraConfig(**settings) for name in names}, names[0], low_cpu_mem_usage=True)
        for name in names[1:]:
            tuner.inject_adapter(model, name, low_cpu_mem_usage=True)
    model.requires_grad_(False)
    for name in names:
        for key, (layer, device) in _adapter_layers(model, name).items():
            start = torch.zeros(layer.weight.shape)
            if config.init == "normal":
                nn.init.normal_(start, std=_PUBLISHED_STD, generator=generator)
            elif ".lora_A." in key:
                nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            layer.weight = nn.Parameter(start.to(device, dtype))
    # The new modules come in train mode; without this their dropout would be on inside a model in eval mode.
    model.train(model.training)
    return AdapterRouter(model, config)


class AdapterRouter:
    """Sets which adapters of a model are active, for a block of code::

        with router.route(Task.ASR):
            output = llm(inputs_embeds=embeds)  # or llm.generate(...)

    Outside any route no adapter is active: the model is the frozen base model, bit for bit. Routes may be nested; the
    outer one is back after the inner one, after an exception too. What a backward pass needs is fixed in the forward
    pass, so it may run outside the route. The state belongs to the model: one route at a time, not one per thread.
    ``active`` holds the names of the adapters that are active now.
    """

    active: tuple[str, ...]

    def __init__(self, model: nn.Module, config: AdapterConfig) -> None:
        self._routes = ROUTES[config.strategy]
        self._layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        self._names = {name for layer in self._layers for name in layer.lora_A}
        self._activate(())

    @contextmanager
    def route(self, task: Task) -> Iterator[None]:
        """Make the adapters of ``task`` active inside the ``with`` block. ValueError when the model lacks one."""
        names = self._routes[task]
        if missing := set(names) - self._names:
            raise ValueError(f"task {task} needs the adapters {sorted(missing)}, which this model was built without")
        with self._activated(names):
            yield

    def enable_gradient_checkpointing(self, model: nn.Module) -> None:
        """Keep only the inputs of ``model``'s decoder layers in a forward pass and recompute the rest in the backward.

        The recompute runs under the route of its own forward pass. transformers' switch acts on layers in train mode
        only, and the LLM stays in eval mode because it is frozen; so the forward of each layer is wrapped instead,
        which leaves modes and names alone. Passes without gradients (generation) are not touched.

        Raises:
            ValueError: when ``model`` has no such layers, or later, when a pass with gradients fills a cache.
        """
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not layers:
            raise ValueError(f"{type(model).__name__} has no layers that support gradient checkpointing")
        for layer in layers:
            if not isinstance(layer.forward, _CheckpointedForward):
                # An instance attribute goes before the method of the class.
                layer.forward = _CheckpointedForward(self, layer.forward)

    @contextmanager
    def _activated(self, names: tuple[str, ...]) -> Iterator[None]:
        previous = self.active
        self._activate(names)
        try:
            yield
        finally:
            self._activate(previous)

    def _activate(self, names: tuple[str, ...]) -> None:
        for layer in self._layers:
            # Not layer.set_adapter(): it also sets requires_grad (see the module's docstring).
            layer._active_adapter = list(names)
        self.active = names


class MergedRouter(AdapterRouter):
    """The router of a model without adapters, whose weights hold those of one task already."""

    def __init__(self, model: nn.Module, config: AdapterConfig, task: Task) -> None:
        super().__init__(model, config)
        self.task = task

    @contextmanager
    def route(self, task: Task) -> Iterator[None]:
        """Nothing to do for the merged task. ValueError for others."""
        if task is not self.task:
            raise ValueError(
                f"the adapters of {self.task} are merged into this model, it cannot do {task}; load it anew"
            )
        yield


class _CheckpointedForward:
    """A decoder layer's forward under gradient checkpointing; an object rather than a closure, so deepcopy follows."""

    def __init__(self, router: AdapterRouter, forward: Any) -> None:
        self.router = router
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        if any(kwargs.get(name) is not None for name in CACHE_ARGUMENTS):
            raise ValueError("gradient checkpointing would fill the cache twice; pass use_cache=False")
        return checkpoint(partial(self._routed, self.router.active), *args, use_reentrant=False, **kwargs)

    def _routed(self, names: tuple[str, ...], *args: Any, **kwargs: Any) -> Any:
        with self.router._activated(names):
            return self.forward(*args, **kwargs)


def adapter_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """Adapter ``name``'s parameters by module, under the keys of peft's files. ValueError when there is no such one."""
    parameters = {key: cast(nn.Parameter, layer.weight) for key, (layer, _) in _adapter_layers(model, name).items()}
    if not parameters:
        raise ValueError(f"the model has no adapter {name!r}")
    return parameters


def _adapter_layers(model: nn.Module, name: str) -> dict[str, tuple[nn.Linear, torch.device]]:
    """Adapter ``name``'s layers by key, each with the device of the layer that it stands upon."""
    layers = {}
    for module_name, module in model.named_modules():
        if isinstance(module, LoraLayer) and name in module.lora_A:
            base = module.get_base_layer().weight
            assert isinstance(base, Tensor)
            for part in ("lora_A", "lora_B"):
                layers[f"{PEFT_PREFIX}{module_name}.{part}.weight"] = getattr(module, part)[name], base.device
    return layers


def parameter_name(key: str, adapter: str) -> str:
    """The LLM's own name of a weight that stands under ``key`` in a file of ``adapter``."""
    module, part, _ = key.removeprefix(PEFT_PREFIX).rsplit(".", 2)
    return f"{module}.{part}.{adapter}.weight"


def adapter_state(model: nn.Module, name: str) -> dict[str, Tensor]:
    """``adapter_parameters``, detached."""
    return {key: parameter.detach() for key, parameter in adapter_parameters(model, name).items()}


def load_adapter_state(model: nn.Module, name: str, state: Mapping[str, Tensor]) -> None:
    """Copy ``state`` (as ``adapter_state`` gives it) into adapter ``name``.

    Raises:
        ValueError: naming the missing, unexpected and misshapen weights; nothing is copied then.
    """
    own = adapter_state(model, name)
    misshapen = [key for key in own if key in state and state[key].shape != own[key].shape]
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "shape": [f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}" for key in misshapen],
    }
    if found := [f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys]:
        raise ValueError(f"adapter {name!r} does not fit the model; " + "; ".join(found))
    for key, weight in own.items():
        weight.copy_(state[key])


def save_adapter(
    model: nn.Module, name: str, folder: Path, dtype: torch.dtype | None = None, base_model: str | None = None
) -> None:
    """Write adapter ``name`` into ``folder`` in peft's layout, for ``PeftModel.from_pretrained`` and the like.

    dtype: of the stored weights; None keeps them as they are. base_model: the reference to note as the base model.
    Each file is replaced in one step.
    """
    state = {key: weight.to("cpu", dtype).contiguous() for key, weight in adapter_state(model, name).items()}
    config = copy.copy(_peft_config(model, name))
    config.target_modules = sorted(config.target_modules or ())  # peft makes it a set, whose order differs by process
    config.base_model_name_or_path = base_model
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        # Bytes written from here get the usual permissions; safetensors' own writer makes files for the owner only.
        weights = safetensors.torch.save(state, metadata={"format": "pt"})
        (Path(temporary) / SAFETENSORS_WEIGHTS_NAME).write_bytes(weights)
        config.save_pretrained(temporary)
        for file in (SAFETENSORS_WEIGHTS_NAME, CONFIG_NAME):
            os.replace(Path(temporary) / file, folder / file)


def load_adapter(model: nn.Module, name: str, folder: Path) -> None:
    """Read ``folder``, written by ``save_adapter`` or by peft, into adapter ``name``.

    Raises:
        ValueError: when a file is missing, a setting that changes results differs (rank, alpha, variants of LoRA), or
            the weights do not fit exactly.
    """
    (saved, state), own = _read_adapter(folder), _peft_config(model, name).to_dict()
    for setting in ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "bias", "rank_pattern", "alpha_pattern"):
        if saved.get(setting) != own[setting]:
            raise ValueError(f"adapter {folder} has {setting} {saved.get(setting)}, but {name!r} has {own[setting]}")
    load_adapter_state(model, name, state)


def _read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights. ValueError: a file is missing."""
    for file in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
        if not (folder / file).is_file():
            raise ValueError(f"no adapter in {folder}: {file} is missing")
    settings = LoraConfig.from_pretrained(str(folder)).to_dict()
    return settings, safetensors.torch.load_file(folder / SAFETENSORS_WEIGHTS_NAME)


def merged(rows: Mapping[str, Rows], folder: Path, config: AdapterConfig, task: Task) -> dict[str, Rows]:
    """The LLM's weights with the adapters of ``task`` added to them, by the same names.

    folder: of the adapters' folders, as ``save_adapter`` or peft wrote them.

    Raises:
        ValueError: an adapter is missing, has another rank or scale than ``config`` says, or is of other weights.
    """
    changes: dict[str, list[tuple[float, Tensor, Tensor]]] = {}
    for name in ROUTES[config.strategy][task]:
        saved, state = _read_adapter(folder / name)
        if (saved["r"], saved["lora_alpha"]) != (config.rank, config.alpha):
            raise ValueError(
                f"adapter {folder / name} has rank {saved['r']} and alpha {saved['lora_alpha']}, "
                f"expected {config.rank} and {config.alpha}"
            )
        for key in (key for key in state if key.endswith(_DOWN)):
            target, up = key.removeprefix(PEFT_PREFIX).removesuffix(_DOWN), key.removesuffix(_DOWN) + _UP
            if f"{target}.weight" not in rows or up not in state:
                raise ValueError(f"adapter {folder / name} is not of these weights: {target} is not among them")
            changes.setdefault(f"{target}.weight", []).append((config.alpha / config.rank, state[key], state[up]))
    return {**rows, **{name: MergedRows(rows[name], tuple(change)) for name, change in changes.items()}}


def _peft_config(model: nn.Module, name: str) -> LoraConfig:
    adapter_parameters(model, name)  # raises when there is none
    configs: Any = model.peft_config
    return configs[name]
