"""The clipped policy loss and the distance to a reference model in velocity space, as pure functions of tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """per_sample: (...) loss of each sample. ratio: (...) detached. clipped: (...) bool, where the clip was active."""

    per_sample: Tensor
    ratio: Tensor
    clipped: Tensor


def policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip_range: float) -> PolicyLoss:
    """max(-A r, -A clip(r, 1 +- clip_range)) with r = exp(log_prob - old_log_prob); all of one shape.

    The log-densities are means over the latent's elements, so clip_range bounds their per-element average.
    Paper: arXiv 2511.18833, objective J of Fast-GRPO.
    """
    ratio = torch.exp(log_prob - old_log_prob)
    unclipped = -advantage * ratio
    clipped = -advantage * ratio.clamp(1 - clip_range, 1 + clip_range)
    outside = ((ratio - 1).abs() > clip_range).detach()
    return PolicyLoss(torch.maximum(unclipped, clipped), ratio.detach(), outside)


def velocity_kl(velocity: Tensor, reference_velocity: Tensor) -> Tensor:
    """Mean square distance of two velocities, (B, ...) to (B,); needs no noise scale."""
    return ((velocity - reference_velocity) ** 2).flatten(1).mean(1)
