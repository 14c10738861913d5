"""Parameters in shares, in a group of one process; what two of them do is in test_sharded.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers_model import SELF_SUPERVISED, tiny_batch, tiny_model, tiny_self_supervised
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from omni_avsr.config import PUBLISHED_TASK_WEIGHTS, AVHubertConfig
from omni_avsr.encoders.avhubert import AVHubertEncoder
from omni_avsr.encoders.self_supervised import SelfSupervisedEncoder
from omni_avsr.model import OmniAVSR
from omni_avsr.resume import trained_state
from omni_avsr.sharding import load_optimizer_state, shard, whole, whole_optimizer_state
from omni_avsr.stages import freeze_all_but
from omni_avsr.types import Batch, Features, Rates, Task

AVHUBERT = AVHubertConfig(dim=32, num_layers=2, num_heads=4, ffn_dim=64, channels=(8, 8, 16, 16))
JOINT = ("projectors.*", "markers.*", "llm.*lora_*")


class Step(nn.Module):
    """What a stage does with a model, which has no forward of its own."""

    def __init__(self, model: OmniAVSR) -> None:
        super().__init__()
        self.model = model

    def loss(self, batch: Batch) -> torch.Tensor:
        features = self.model.encode(batch.inputs)
        weights, totals = PUBLISHED_TASK_WEIGHTS, batch.num_label_tokens
        return self.model.loss(features, batch.texts, Rates(2, 3), weights, totals).loss

    def texts(self, batch: Batch) -> list[str]:
        features = self.model.encode(batch.inputs)
        return self.model.generate(features, Task.AVSR, Rates(2, 3), max_new_tokens=4)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def joint_step(folder: Path, dtype: str = "float32") -> Step:
    model = tiny_model(folder, audio="whisper_trimmed", llm={"dtype": dtype})
    freeze_all_but(model, JOINT)
    return Step(model)


def test_every_parameter_is_shared_out_layer_by_layer_under_its_old_name(tmp_path: Path, mesh: DeviceMesh) -> None:
    step = joint_step(tmp_path)
    before = {name: (value.requires_grad, value.detach().clone()) for name, value in step.named_parameters()}
    shard(step, mesh, ("loss", "texts"))
    after = dict(step.named_parameters())
    assert after.keys() == before.keys()
    for name, (trained, value) in before.items():
        assert isinstance(after[name], DTensor), name
        assert after[name].requires_grad is trained
        assert torch.equal(whole(after[name].detach()), value), name
    layers = {name for name, module in step.named_modules() if isinstance(module, FSDPModule) and name}
    assert {"model.llm.model.layers.1", "model.encoders.audio.encoder.encoder.layers.0"} <= layers
    assert step.model.llm.get_output_embeddings().weight is step.model.llm.get_input_embeddings().weight


def test_a_sharded_step_computes_what_it_did_before(tmp_path: Path, mesh: DeviceMesh) -> None:
    step, batch = joint_step(tmp_path), tiny_batch()
    loss, texts = step.loss(batch), step.texts(batch)
    loss.backward()
    gradients = {name: value.grad for name, value in step.named_parameters() if value.grad is not None}
    step.zero_grad(set_to_none=True)
    shard(step, mesh, ("loss", "texts"))
    torch.testing.assert_close(step.loss(batch), loss)
    assert step.texts(batch) == texts
    step.loss(batch).backward()
    after = {name: value.grad for name, value in step.named_parameters() if value.grad is not None}
    assert after.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(whole(after[name]), gradient, msg=name)


@pytest.mark.parametrize("kind", [*SELF_SUPERVISED, "avhubert"])
def test_every_published_encoder_computes_what_it_did_before(kind: str, mesh: DeviceMesh) -> None:
    """Their layers only: the convolutions of a waveform run for each clip, in each process as often as it has clips."""
    torch.manual_seed(0)
    if kind == "avhubert":
        encoder: nn.Module = AVHubertEncoder(AVHUBERT).eval()
        inputs = Features.pad([torch.randn(length, 88, 88) for length in (4, 3)])
    else:
        encoder = SelfSupervisedEncoder(tiny_self_supervised(kind).config, normalize=True).eval()
        inputs = Features.pad([torch.randn(length) for length in (3000, 2000)])
    expected = encoder(inputs).values
    expected.square().sum().backward()
    gradients = {name: value.grad for name, value in encoder.named_parameters()}
    encoder.zero_grad(set_to_none=True)
    shard(encoder, mesh, ())
    found = encoder(inputs).values
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    for name, value in encoder.named_parameters():
        gradient = gradients[name]
        assert (value.grad is None) is (gradient is None), name
        if gradient is not None:
            torch.testing.assert_close(whole(value.grad), gradient, rtol=1e-4, atol=1e-5, msg=name)
    sharded = {name for name, module in encoder.named_modules() if isinstance(module, FSDPModule) and name}
    assert sharded
    assert all(name.split(".")[-2] == "layers" for name in sharded)


def test_what_is_trained_can_be_read_while_weights_are_gathered(tmp_path: Path, mesh: DeviceMesh) -> None:
    """After a validation everything but the layers is still whole, and torch takes that away as soon as it is asked."""
    step = joint_step(tmp_path)
    expected = {name: value.clone() for name, value in trained_state(step).items()}
    shard(step, mesh, ("loss", "texts"))
    step.texts(tiny_batch())
    found = trained_state(step)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_optimizer_states_are_whole_outside_and_shared_out_inside(tmp_path: Path, mesh: DeviceMesh) -> None:
    step = joint_step(tmp_path)
    shard(step, mesh, ("loss", "texts"))
    trained = [value for value in step.parameters() if value.requires_grad]
    first, second = (torch.optim.AdamW(trained, 1e-3) for _ in range(2))
    step.loss(tiny_batch()).backward()
    first.step()
    state = whole_optimizer_state(first)
    assert not any(isinstance(value, DTensor) for own in state["state"].values() for value in own.values())
    load_optimizer_state(second, state)
    moments = second.state[trained[0]]
    assert isinstance(moments["exp_avg"], DTensor)
    assert moments["step"] == 1
    torch.testing.assert_close(whole_optimizer_state(second), state, rtol=0, atol=0)


def test_trained_parameters_of_several_dtypes_are_refused(tmp_path: Path, mesh: DeviceMesh) -> None:
    step = joint_step(tmp_path, "bfloat16")
    freeze_all_but(step.model, ["projectors.*", "llm.model.norm.*"])
    with pytest.raises(ValueError, match=r"one dtype, not of torch\.bfloat16 and torch\.float32"):
        shard(step, mesh, ("loss",))
