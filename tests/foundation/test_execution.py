"""Precision, activation checkpointing and compilation change what it costs, not what is computed."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.autograd.graph import saved_tensors_hooks

from foundation.conditions import Conditions
from foundation.execution import ExecutionConfig, execute
from foundation.lora import LoraConfig, inject
from foundation.model import FlowModel
from tests.foundation.conftest import random_conditions

GUIDANCE = 2.0


def states(batch: int, length: int) -> Tensor:
    return torch.randn(batch, 27, length, generator=torch.Generator().manual_seed(5))


def evaluate(model: FlowModel) -> tuple[Tensor, dict[str, Tensor], int]:
    """A guided velocity, the gradients of its mean square, and the bytes kept for the backward pass."""
    kept: dict[int, int] = {}
    parameters = {p.data_ptr() for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.zero_grad()
    prepared = model.prepare(model.condition(random_conditions(2), 24), 24, GUIDANCE)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        velocity = model.velocity(states(2, 24), torch.tensor([0.4, 0.6]), prepared)
    velocity.square().mean().backward()
    gradients = {name: p.grad for name, p in model.trainable().items() if p.grad is not None}
    return velocity.detach(), gradients, sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [False, True])
def test_activation_checkpointing_keeps_less_and_computes_the_same_bits(
    small_model: FlowModel, precision: str, lora: bool
) -> None:
    if lora:
        inject(small_model.requires_grad_(False), LoraConfig(rank=2))
    found = []
    for again in (False, True):
        config = ExecutionConfig.model_validate({"precision": precision, "activation_checkpointing": again})
        found.append(evaluate(execute(small_model, config)))
    (plain, gradients, much), (recomputed, same, little) = found
    assert torch.equal(plain, recomputed)
    assert gradients.keys() == same.keys()
    assert len(gradients) >= 28
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)
    assert little < much / 3


def test_bf16_stays_close_and_hands_out_float32(small_model: FlowModel) -> None:
    plain, gradients, much = evaluate(small_model)
    narrow, near, little = evaluate(execute(small_model, ExecutionConfig(precision="bf16")))
    assert narrow.dtype == torch.float32
    assert 0 < (narrow - plain).square().mean().sqrt() < 0.01 * plain.square().mean().sqrt()
    assert all(g.dtype == torch.float32 for g in near.values())
    assert all((near[n] - g).norm() < 0.05 * g.norm() for n, g in gradients.items())
    assert little < much
    prepared = small_model.prepare(small_model.condition(random_conditions(1), 24), 24)
    assert {t.dtype for t in (*prepared.keys, *prepared.values)} == {torch.bfloat16}
    assert prepared.stream.dtype == torch.float32


def test_noise_levels_keep_their_digits_in_bf16(small_model: FlowModel) -> None:
    """Neighbouring levels of a fine grid; as bfloat16 both would be 0.5."""
    execute(small_model, ExecutionConfig(precision="bf16"))
    with torch.autocast("cpu", torch.bfloat16):
        near, far = small_model.dit.timestep_features(torch.tensor([0.5, 0.5005]))
    assert near.dtype == torch.float32
    assert (near - far).abs().max() > 1e-4


def test_a_surrounding_autocast_is_left_alone(small_model: FlowModel) -> None:
    prepared = small_model.prepare(small_model.condition(random_conditions(1), 24), 24)
    seen: list[torch.dtype] = []
    small_model.dit.transformer.blocks[0].ff.register_forward_hook(lambda *parts: seen.append(parts[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        small_model.velocity(states(1, 24), 0.5, prepared)
    assert seen == [torch.bfloat16]


CHANGES: dict[str, Callable[[FlowModel], FlowModel]] = {
    "plain": lambda model: model,
    "bf16 and checkpointing": lambda model: execute(
        model, ExecutionConfig(precision="bf16", activation_checkpointing=True)
    ),
    "adapters": lambda model: inject(model.requires_grad_(False), LoraConfig(rank=2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_velocity_is_one_graph_at_every_length(small_model: FlowModel, change: str) -> None:
    """No graph breaks (fullgraph raises on one), and no recompilation for other lengths and batches."""
    model = CHANGES[change](small_model)

    def velocity(features: Conditions, x: Tensor, t: Tensor) -> Tensor:
        length = x.shape[-1]
        return model.velocity(x, t, model.prepare(model.condition(features, length), length, GUIDANCE))

    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(velocity, fullgraph=True, dynamic=True, backend=counter)
    for batch, length in ((2, 24), (3, 31), (2, 40)):
        inputs = random_conditions(batch), states(batch, length), torch.linspace(0.3, 0.7, batch)
        found, expected = compiled(*inputs), velocity(*inputs)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        model.zero_grad()
        found.square().mean().backward()
        assert all(p.grad is not None for p in model.trainable().values() if p.requires_grad)
    assert counter.frame_count == 1
    torch.compiler.reset()


def test_compiled_blocks_share_their_code(small_model: FlowModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = copy.deepcopy(small_model)
    counter = CompileCounter()
    compile_in_place = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module, **options: compile_in_place(module, backend=counter, **options)
    )
    torch.compiler.reset()
    execute(small_model, ExecutionConfig(compile=True))
    with torch.no_grad():
        for length in (24, 31):
            prepared = plain.prepare(plain.condition(random_conditions(2), length), length)
            x = states(2, length)
            assert torch.equal(small_model.velocity(x, 0.5, prepared), plain.velocity(x, 0.5, prepared))
    assert counter.frame_count == 1
    assert list(small_model.state_dict()) == list(plain.state_dict())
    torch.compiler.reset()
