"""Deterministic sampling of sound from conditions: what users hear and what evaluation scores."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foundation.build import Foundation
from foundation.conditions import Conditions
from foundation.grids import inference
from foundation.model import FlowModel
from foundation.output import limit_peak
from foundation.sampling import group_noise, ode_sample

BATCH = 64


@torch.inference_mode()
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
    flow = model or foundation.flow
    parts = []
    for first in range(0, len(features), BATCH):
        chosen = features[first : first + BATCH]
        shape = (foundation.codec.channels, frames)
        start = torch.stack([group_noise(seed, 0, index, shape) for seed, index in noise[first : first + BATCH]])
        prepared = flow.prepare(flow.condition(chosen, frames), frames, guidance)
        latents = ode_sample(lambda x, sigma, p=prepared: flow.velocity(x, sigma, p), start, inference(steps))
        parts.append(limit_peak(foundation.codec.decode(latents)))
    return torch.cat(parts)
