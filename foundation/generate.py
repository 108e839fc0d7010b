"""Deterministic sampling of sound from conditions: what users hear and what evaluation scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from foundation.conditions import Conditions
from foundation.dit import Prepared
from foundation.grids import inference
from foundation.model import FlowModel
from foundation.output import Peak, level
from foundation.sampling import group_noise
from foundation.solvers import SOLVERS, Guidance, evaluations, integrate
from foundation.tails import Field as VelocityField
from settings import Section

if TYPE_CHECKING:
    from foundation.build import Foundation

BATCH = 64


class SamplerConfig(Section):
    """From noise to sound.

    solver: a key of `foundation.solvers.SOLVERS`. steps: of the even grid from 1 to 0; midpoint and heun evaluate the
    model twice in each. guidance: scale, 1 is none. guidance_interval: noise levels (low, high] of the steps that it
    acts on; the others cost half. peak: "limit" scales loud clips down, "normalise" scales every clip to full scale as
    the released code does, "none" leaves them.
    """

    solver: str = "euler"
    steps: int = Field(default=16, ge=1)
    guidance: float = Field(default=1.0, ge=0)
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    peak: Peak = "limit"

    @field_validator("solver")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SOLVERS:
            raise ValueError(f"choose one of {', '.join(sorted(SOLVERS))}")
        return name

    @model_validator(mode="after")
    def _ordered(self) -> SamplerConfig:
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"guidance_interval must be two noise levels with 0 <= low <= high <= 1, got {low}, {high}"
            )
        return self

    @property
    def nfe(self) -> int:
        """Velocity evaluations per clip, a guided pair as two."""
        return evaluations(self.solver, inference(self.steps), self._guidance)

    @property
    def _guidance(self) -> Guidance:
        return Guidance(self.guidance, self.guidance_interval)

    def solve(self, field: Callable[[float], VelocityField], noise: Tensor) -> Tensor:
        """Latents from noise, by the velocity under a guidance scale."""
        return integrate(self.solver, field, noise, inference(self.steps), self._guidance)


def sample_waveforms(
    foundation: Foundation,
    features: Conditions,
    frames: int,
    noise: Sequence[tuple[int, int]],
    steps: int = 16,
    guidance: float = 1.0,
    model: FlowModel | None = None,
) -> Tensor:
    """Waveforms (B, 2, frames * hop) by Euler steps from t = 1 to 0, peak-limited per clip.

    noise: (seed, index) of each clip's initial noise. model: other weights for the same conditions.
    """
    return generate(foundation, features, frames, noise, SamplerConfig(steps=steps, guidance=guidance), model)


@torch.inference_mode()
def generate(
    foundation: Foundation,
    features: Conditions,
    frames: int,
    noise: Sequence[tuple[int, int]],
    config: SamplerConfig,
    model: FlowModel | None = None,
) -> Tensor:
    """Waveforms (B, 2, frames * hop) on the model's device.

    features: of B clips. frames: latent frames. noise: (seed, index) of each clip's initial noise, drawn on the CPU, so
    that every device starts from the same. model: other weights for the same conditions.
    """
    flow = model or foundation.flow
    shape = (foundation.codec.channels, frames)
    parts = []
    for first in range(0, len(features), BATCH):
        chosen = features[first : first + BATCH]
        start = torch.stack([group_noise(seed, 0, index, shape) for seed, index in noise[first : first + BATCH]])
        latents = sample_latents(flow, chosen, start, config)
        parts.append(level(foundation.codec.decode(latents), config.peak))
    return torch.cat(parts)


@torch.inference_mode()
def sample_latents(flow: FlowModel, features: Conditions, noise: Tensor, config: SamplerConfig) -> Tensor:
    """Latents (B, C, L) fp32 from noise (B, C, L) under features of B clips, on the model's device."""
    device = next(flow.parameters()).device
    frames = noise.shape[-1]
    conditioned = flow.condition(features.to(device), frames)
    guided = flow.prepare(conditioned, frames, config.guidance)
    return config.solve(lambda scale: _field(flow, replace(guided, cfg_scale=scale)), noise.to(device))


def _field(flow: FlowModel, prepared: Prepared) -> VelocityField:
    def velocity(x: Tensor, sigma: float) -> Tensor:
        return flow.velocity(x, torch.tensor(sigma, dtype=x.dtype, device=x.device), prepared)

    return velocity


def store_reduced(flow: FlowModel) -> None:
    """Keep the matrices of the transformer's blocks in bf16, for a model that only runs in that precision.

    Autocast (`foundation.execution`) would otherwise read them in fp32 and convert them at every step, which takes
    longer than multiplying.
    """
    for module in flow.dit.transformer.layers.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
