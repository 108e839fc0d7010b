"""Rollouts and inference of the released code, through its model with guidance."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation.grids import grid, inference
from foundation.model import FlowModel
from foundation.sampling import Velocity, hybrid_sample, ode_sample
from foundation.tails import euler
from tests.foundation.conftest import read_json, read_tensors, stack_items
from trainer.config import AlgorithmConfig

META = read_json("sampler_meta.json")
OFFICIAL = AlgorithmConfig(preset="official")
# The last step of the released grid, 0.001 long, has a std of 7e-4, which magnifies rounding in its density.
SHORT_STEP = 5e-5


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return read_tensors("sampler.safetensors")


@pytest.fixture(scope="module")
def model(golden_model: Callable[[str], FlowModel]) -> FlowModel:
    return golden_model("a").eval()


def guided(model: FlowModel, tensors: dict[str, Tensor], items: list[int], length: int) -> tuple[Velocity, list[int]]:
    """The velocity of some items, and the number of rows of each of its calls."""
    prepared = model.prepare(model.condition(stack_items(tensors, items), length), length, META["cfg_scale"])
    calls: list[int] = []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(len(x))
        return model.velocity(x, sigma, prepared.tile(len(x) // len(items)))

    return velocity, calls


def near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_the_official_preset_samples_as_the_released_code() -> None:
    assert (OFFICIAL.cfg_scale, OFFICIAL.noise_level) == (META["cfg_scale"], META["noise_level"])
    for case in META["cases"]:
        np.testing.assert_allclose(grid(OFFICIAL.grid, case["T"]), case["sigmas"], atol=1e-7)


@pytest.mark.parametrize("index", range(len(META["cases"])))
@torch.no_grad()
def test_golden_rollouts(model: FlowModel, tensors: dict[str, Tensor], index: int) -> None:
    case, name = META["cases"][index], f"c{index}"
    start, width = case["start"], case["w"]
    noise = tensors[f"{name}.initial_noise"]
    velocity, calls = guided(model, tensors, case["items"], noise.shape[-1])
    final, record = hybrid_sample(
        velocity,
        noise,
        grid(OFFICIAL.grid, case["T"]),
        (start, width),
        OFFICIAL.transition,
        OFFICIAL.noise_level,
        case["branches"],
        tensors[f"{name}.window_noise"],
        OFFICIAL.tail,
        OFFICIAL.tail_steps,
    )
    near(record.latents, tensors[f"{name}.window_latents"], 1e-4)
    near(final, tensors[f"{name}.final_latents"], 1e-4)
    expected = tensors[f"{name}.log_probs"]
    assert record.log_probs.shape == expected.shape
    for k in range(width):
        near(record.log_probs[k], expected[k], SHORT_STEP if start + k == case["T"] - 1 else 1e-5)
    # The released code branches before the window's first velocity and draws its window twice; ours costs less.
    assert record.rows == sum(calls) < sum(case["batch_per_step"])


@pytest.mark.parametrize("index", range(len(META["ode"])))
@torch.no_grad()
def test_golden_inference(model: FlowModel, tensors: dict[str, Tensor], index: int) -> None:
    case, trajectory = META["ode"][index], tensors[f"ode{index}.trajectory"]
    np.testing.assert_allclose(inference(case["T"]), case["t_grid"], atol=1e-7)
    velocity, _ = guided(model, tensors, case["items"], trajectory.shape[-1])
    states: list[Tensor] = []

    def watched(x: Tensor, sigma: float) -> Tensor:
        states.append(x)
        return velocity(x, torch.tensor(sigma, dtype=x.dtype))

    states.append(euler(watched, trajectory[0], inference(case["T"])))
    near(torch.stack(states), trajectory, 1e-4)
    assert torch.equal(ode_sample(velocity, trajectory[0], inference(case["T"])), states[-1])


@torch.no_grad()
def test_golden_inference_at_full_length(model: FlowModel, tensors: dict[str, Tensor]) -> None:
    inputs, expected = read_tensors("dit_inputs.safetensors"), tensors["ode_9s.final"]
    velocity, _ = guided(model, inputs, [META["ode_9s"]["item"]], expected.shape[-1])
    near(ode_sample(velocity, inputs["9s.x"][:1], inference(META["ode_9s"]["T"])), expected, 1e-4)
