"""Adapters on the flow model: what they change, what they leave alone, and under which names they travel."""

import copy

import pytest
import torch

from foundation.errors import CheckpointError
from foundation.lora import TARGETS, LoraConfig, adapted, base, disabled, inject, merged
from foundation.model import FlowModel
from tests.foundation.conftest import random_conditions

LORA = LoraConfig(rank=4, alpha=8.0)


@torch.no_grad()
def velocity(model: FlowModel) -> torch.Tensor:
    x = torch.randn(2, 27, 16, generator=torch.Generator().manual_seed(3))
    return model.velocity(x, 0.4, model.prepare(model.condition(random_conditions(2), 16), 16, 2.0))


@torch.no_grad()
def trained(model: FlowModel) -> FlowModel:
    """Adapters as if they had been trained."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.trainable().values():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def test_new_adapters_change_nothing_and_are_all_that_trains(small_model: FlowModel) -> None:
    plain = copy.deepcopy(small_model)
    before = velocity(plain)
    assert not adapted(plain)
    inject(small_model, LORA)
    assert adapted(small_model)
    assert torch.equal(velocity(small_model), before)
    parameters = small_model.trainable()
    assert len(parameters) == 2 * len(TARGETS) * plain.config.depth
    first = "model.model.transformer.layers.0"
    assert parameters[f"{first}.self_attn.to_qkv.lora_A.weight"].shape == (4, 64)
    assert parameters[f"{first}.self_attn.to_qkv.lora_B.weight"].shape == (192, 4)
    assert parameters[f"{first}.ff.ff.0.proj.lora_A.weight"].shape == (4, 64)
    assert parameters[f"{first}.ff.ff.2.lora_B.weight"].shape == (64, 4)
    # Only these: the model's own parameters keep their names for everything else.
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in parameters)


def test_learner_and_rollout_draw_the_same_adapters_without_touching_the_global_generator(
    small_model: FlowModel,
) -> None:
    other = inject(copy.deepcopy(small_model), LORA)
    before = torch.random.get_rng_state()
    inject(small_model, LORA)
    assert torch.equal(torch.random.get_rng_state(), before)
    left, right = small_model.trainable(), other.trainable()
    assert list(left) == list(right)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert any(p.any() for p in left.values())
    third = inject(FlowModel(small_model.config), LoraConfig(rank=4, seed=1)).trainable()
    assert any(not torch.equal(left[name], third[name]) for name in left)


def test_base_and_merged_load_strictly_under_the_released_names(small_model: FlowModel) -> None:
    plain = copy.deepcopy(small_model)
    original = plain.state_dict()
    assert merged(plain).keys() == original.keys()
    trained(inject(small_model, LORA))
    shown = velocity(small_model)
    assert (shown - velocity(plain)).abs().max() > 1e-2

    untouched = base(small_model)
    assert list(untouched) == list(original)
    assert all(torch.equal(untouched[name], tensor) for name, tensor in original.items())

    whole = FlowModel(small_model.config)
    whole.load_state_dict(merged(small_model), strict=True)
    torch.testing.assert_close(velocity(whole), shown, atol=1e-4, rtol=1e-4)
    changed = {name for name, tensor in merged(small_model).items() if not torch.equal(tensor, original[name])}
    assert changed == {
        f"model.model.transformer.layers.{i}.{layer}.weight"
        for i in range(plain.config.depth)
        for layer in TARGETS.values()
    }
    # Adding the products in is not done in place.
    assert torch.equal(velocity(small_model), shown)


def test_disabled_adapters_give_the_base_and_come_back(small_model: FlowModel) -> None:
    start = velocity(copy.deepcopy(small_model))
    trained(inject(small_model, LORA)).requires_grad_(False)
    name, parameter = next(iter(small_model.trainable().items()))
    parameter.requires_grad_(True)
    shown = velocity(small_model)
    with disabled(small_model) as reference:
        assert torch.equal(velocity(reference), start)
    with pytest.raises(TypeError), disabled(small_model):
        small_model.velocity(torch.zeros(1), 0.5, None)  # type: ignore[arg-type]
    assert torch.equal(velocity(small_model), shown)
    assert [n for n, p in small_model.named_parameters() if p.requires_grad] == [name.replace("_A.", "_A.default.")]


def test_gradients_reach_the_adapters_alone(small_model: FlowModel) -> None:
    trained(inject(small_model.requires_grad_(False), LORA))
    for parameter in small_model.trainable().values():
        parameter.requires_grad_(True)
    conditions = small_model.condition(random_conditions(2), 16)
    x = torch.randn(2, 27, 16)
    small_model.velocity(x, 0.5, small_model.prepare(conditions, 16)).square().mean().backward()
    with_gradient = {name.replace(".default.", ".") for name, p in small_model.named_parameters() if p.grad is not None}
    assert with_gradient == small_model.trainable().keys()


def test_targets_choose_the_layers(small_model: FlowModel) -> None:
    inject(small_model, LoraConfig(targets=("ff.in",)))
    assert {name.rsplit(".lora_")[0].split("layers.")[1] for name in small_model.trainable()} == {
        f"{i}.ff.ff.0.proj" for i in range(small_model.config.depth)
    }
    with pytest.raises(CheckpointError, match="has adapters already"):
        inject(small_model, LORA)
