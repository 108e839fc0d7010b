"""The model against numbers of the original implementation, and its names against the released checkpoint."""

import pytest
import torch
from torch import Tensor

from foundation.conditions import Conditions
from foundation.config import ModelConfig
from foundation.model import FlowModel
from tests.foundation.conftest import FIXTURES, read_json, read_tensors, stack_items

CASES = [("a", "9s", 1), ("a", "9s", 2), ("a", "8s", 1), ("a", "8s", 2), ("b", "9s", 1), ("b", "8s", 2)]


def worst(actual: Tensor, expected: Tensor) -> float:
    return (actual - expected).abs().max().item()


def conditioned(model: FlowModel, inputs: dict[str, Tensor], clip: str, batch: int) -> tuple[Conditions, int]:
    lengths = read_json("dit_meta.json")["clips"][clip]
    features = stack_items(inputs, list(range(batch)), lengths["video"], lengths["sync"])
    return model.condition(features, lengths["lat"]), lengths["lat"]


@pytest.mark.parametrize(("name", "clip", "batch"), CASES)
@torch.no_grad()
def test_velocity(golden_model, name: str, clip: str, batch: int) -> None:
    model, inputs = golden_model(name), read_tensors("dit_inputs.safetensors")
    outputs = read_tensors(f"dit_{name}_outputs.safetensors")
    x, t = inputs[f"{clip}.x"][:batch], inputs["t"][:batch]
    conditions, length = conditioned(model, inputs, clip, batch)

    plain = model.velocity(x, t, model.prepare(conditions, length))
    guided = model.velocity(x, t, model.prepare(conditions, length, cfg_scale=5.0))
    assert worst(plain, outputs[f"{clip}.b{batch}.velocity"]) < 5e-5
    assert worst(guided, outputs[f"{clip}.b{batch}.velocity_cfg5"]) < 2e-4
    if batch == 2:
        for part in ("video", "text", "sync"):
            assert worst(getattr(conditions, part), outputs[f"{clip}.b2.cond.{part}_features"]) < 2e-5


@pytest.mark.parametrize("name", ["a", "b"])
@torch.no_grad()
def test_null_velocity(golden_model, name: str) -> None:
    model, inputs = golden_model(name), read_tensors("dit_inputs.safetensors")
    conditions, length = conditioned(model, inputs, "9s", 1)
    everything = torch.ones(1, dtype=torch.bool)
    prepared = model.prepare(conditions, length, drop=(everything, everything, everything))
    actual = model.velocity(inputs["9s.x"][:1], inputs["t"][:1], prepared)
    assert worst(actual, read_tensors(f"dit_{name}_outputs.safetensors")["9s.b1.velocity_null"]) < 5e-5


@pytest.mark.parametrize("name", ["a", "b"])
def test_gradient_norms(golden_model, name: str) -> None:
    model, inputs = golden_model(name).train(), read_tensors("dit_inputs.safetensors")
    expected = read_json("dit_meta.json")["models"][name]
    conditions, length = conditioned(model, inputs, "8s", 2)
    loss = model.velocity(inputs["8s.x"], inputs["t"], model.prepare(conditions, length)).square().mean()
    loss.backward()
    assert loss.item() == pytest.approx(expected["mse_loss"], rel=1e-5)
    parameters = dict(model.named_parameters())
    assert parameters.keys() == expected["grad_norms"].keys()
    for key, norm in expected["grad_norms"].items():
        gradient = parameters[key].grad
        if norm is None:
            assert gradient is None, key
        else:
            assert gradient is not None, key
            assert gradient.norm().item() == pytest.approx(norm, rel=1e-4), key


def test_float64_agrees(golden_model) -> None:
    model, inputs = golden_model("a").double(), read_tensors("dit_inputs.safetensors")
    inputs = {key: tensor.double() for key, tensor in inputs.items()}
    conditions, length = conditioned(model, inputs, "9s", 2)
    actual = model.velocity(inputs["9s.x"], inputs["t"], model.prepare(conditions, length))
    assert actual.dtype == torch.float64
    assert worst(actual, read_tensors("dit_a_outputs.safetensors")["9s.b2.velocity"]) < 2e-4


def test_released_names_and_shapes() -> None:
    with torch.device("meta"):
        model = FlowModel(ModelConfig.released())
    actual = [f"{k} {tuple(v.shape)} {v.dtype}" for k, v in model.state_dict().items()]
    expected = (FIXTURES / "prismaudio_keys.txt").read_text().splitlines()
    assert sorted(actual) == sorted(expected)
    assert sum(p.numel() for p in model.dit.parameters()) == 511_365_248
