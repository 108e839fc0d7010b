"""Sampling from conditions: the released inference numbers, solvers, guidance intervals, precision and peaks."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation.conditions import Conditions
from foundation.execution import ExecutionConfig, execute
from foundation.generate import SamplerConfig, sample_latents, store_reduced
from foundation.grids import inference
from foundation.model import FlowModel
from foundation.output import gain, level, limit_peak
from foundation.sampling import group_noise, ode_sample
from foundation.solvers import SOLVERS
from settings.load import ConfigError, check
from tests.foundation.conftest import random_conditions, read_json, read_tensors, stack_items

META = read_json("sampler_meta.json")
RELEASED = SamplerConfig(steps=24, guidance=META["cfg_scale"], peak="normalise")


def noise(batch: int, frames: int = 24, channels: int = 27) -> Tensor:
    return torch.stack([group_noise(3, 0, index, (channels, frames)) for index in range(batch)])


def sampled(model: FlowModel, features: Conditions, batch: int = 2, **options) -> Tensor:
    return sample_latents(model, features, noise(batch), SamplerConfig(**options))


@pytest.mark.parametrize("index", range(len(META["ode"])))
def test_golden_inference(golden_model: Callable[[str], FlowModel], index: int) -> None:
    tensors, case = read_tensors("sampler.safetensors"), META["ode"][index]
    trajectory, features = tensors[f"ode{index}.trajectory"], stack_items(tensors, case["items"])
    config = RELEASED.model_copy(update={"steps": case["T"]})
    found = sample_latents(golden_model("a").eval(), features, trajectory[0], config)
    torch.testing.assert_close(found, trajectory[-1], atol=1e-4, rtol=0)


def test_the_released_setting_evaluates_48_times() -> None:
    assert RELEASED.nfe == 48
    assert SamplerConfig().nfe == 16
    assert SamplerConfig(solver="heun", steps=8, guidance=5.0, guidance_interval=(0.0, 0.5)).nfe == 2 * (4 + 2 * 4)


def test_euler_is_the_sampler_it_always_was(small_model: FlowModel) -> None:
    features = random_conditions(2)
    prepared = small_model.prepare(small_model.condition(features, 24), 24, 2.0)
    with torch.inference_mode():
        expected = ode_sample(lambda x, t: small_model.velocity(x, t, prepared), noise(2), inference(5))
    assert torch.equal(sampled(small_model, features, steps=5, guidance=2.0), expected)


@pytest.mark.parametrize("name", sorted(SOLVERS.keys() - {"euler"}))
def test_solvers_come_closer_than_euler_for_their_evaluations(small_model: FlowModel, name: str) -> None:
    features = random_conditions(2)
    exact = sampled(small_model, features, solver="heun", steps=96)
    steps = 6 if name in ("heun", "midpoint") else 12
    near = (sampled(small_model, features, solver=name, steps=steps) - exact).square().mean()
    assert near < (sampled(small_model, features, steps=12) - exact).square().mean()


def test_a_guidance_interval_changes_only_its_steps(small_model: FlowModel) -> None:
    features = random_conditions(2)
    plain, everywhere = sampled(small_model, features), sampled(small_model, features, guidance=3.0)
    assert torch.equal(sampled(small_model, features, guidance=3.0, guidance_interval=(1.0, 1.0)), plain)
    part = sampled(small_model, features, guidance=3.0, guidance_interval=(0.2, 0.7))
    assert not torch.equal(part, plain)
    assert not torch.equal(part, everywhere)


@pytest.mark.parametrize("stored", [False, True])
def test_bf16_stays_near_and_returns_fp32(small_model: FlowModel, stored: bool) -> None:
    features = random_conditions(2)
    exact = sampled(small_model, features)
    execute(small_model, ExecutionConfig(precision="bf16"))
    if stored:
        store_reduced(small_model)
    found = sampled(small_model, features)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_peaks_are_each_clips_own() -> None:
    loud, quiet, silent = torch.full((2, 3), -4.0), torch.full((2, 3), 0.25), torch.zeros(2, 3)
    clips = torch.stack([loud, quiet, silent])
    assert level(clips, "normalise")[:, 0, 0].tolist() == [-1.0, 1.0, 0.0]
    torch.testing.assert_close(level(clips, "limit")[:, 0, 0], torch.tensor([-0.98, 0.25, 0.0]))
    assert torch.equal(level(clips, "limit"), limit_peak(clips))
    assert level(clips, "none") is clips


@pytest.mark.parametrize("peak", ["limit", "normalise", "none"])
@pytest.mark.parametrize("loudest", [0.0, 0.3, 0.98, 7.0])
def test_gain_is_what_level_does(peak, loudest: float) -> None:
    sound = torch.linspace(-loudest, loudest / 2, 10).expand(2, 10)
    np.testing.assert_allclose(sound * gain(loudest, peak), level(sound, peak), rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"solver": "rk45"}, "abm3"), ({"guidance_interval": [0.8, 0.2]}, "low <= high"), ({"steps": 0}, "steps")],
)
def test_settings_without_meaning(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(SamplerConfig, values)
