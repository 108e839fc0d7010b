"""Fast-GRPO's maths: policy losses and distances to a reference, and from `trainer.starts` where the window lies.

Pure functions of tensors. Log-densities are means over a latent's elements unless said otherwise, so a
ratio is the geometric mean of the elements' ratios.
"""

from typing import Literal

import torch
from torch import Tensor

from trainer.errors import ObjectiveError
from trainer.starts import window_start

__all__ = ["normalised_log_ratio", "policy_loss", "trust_region_loss", "velocity_kl", "window_start"]

Reduce = Literal["mean", "none"]


def policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip_range: float, reduce: Reduce = "mean"
) -> Tensor:
    """max(-A r, -A clip(r, 1 +- clip_range)) with r = exp(log_prob - old_log_prob); all inputs of one shape.

    Returns the mean, or every sample's loss. Raises ObjectiveError when the shapes differ.
    Paper: arXiv 2511.18833, objective J; FunAudioLLM/ThinkSound:grpo/scripts/train_audio_fast.py.
    """
    _same_shapes(log_prob=log_prob, old_log_prob=old_log_prob, advantages=advantages)
    ratio = torch.exp(log_prob - old_log_prob)
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))
    return loss.mean() if reduce == "mean" else loss


def trust_region_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    divergence: Tensor,
    limit: float,
    reduce: Reduce = "mean",
) -> Tensor:
    """-A r, but 0 for a sample whose policy has left the trust region and is moving further away.

    divergence: exact Gaussian KL to the old transition (`foundation.transitions.kl`, mean over elements), so the region
    does not depend on the latent's size. A sample is masked where divergence >= limit and r is on the far side of 1 in
    the direction its advantage pushes. Paper: Flow-DPPO, arXiv 2606.11025.
    """
    _same_shapes(log_prob=log_prob, old_log_prob=old_log_prob, advantages=advantages, divergence=divergence)
    ratio = torch.exp(log_prob - old_log_prob)
    away = (ratio.detach() - 1) * advantages > 0
    loss = torch.where(away & (divergence.detach() >= limit), 0.0, -advantages * ratio)
    return loss.mean() if reduce == "mean" else loss


def normalised_log_ratio(log_prob: Tensor, old_log_prob: Tensor, divergence: Tensor, std: float) -> Tensor:
    """RatioNorm: (log r + KL) * std, the log-ratio freed of its negative bias and of the step's noise scale.

    divergence: KL to the old transition, mean over elements; equals mean(eps * (mu - mu_old)) in exact arithmetic. The
    caller clips it with `policy_loss` and divides the loss by -dt to give all steps one weight.
    Paper: GRPO-Guard, arXiv 2510.22319; yifan123/flow_grpo:scripts/train_sd3_GRPO_Guard.py.
    """
    return (log_prob - old_log_prob + divergence) * std


def velocity_kl(velocity: Tensor, reference: Tensor) -> Tensor:
    """Mean square distance of two velocities, (B, ...) to (B,): the v-space KL, which needs no noise scale.

    The reference may be guided where the policy is not; the policy then learns guidance instead of paying for it.
    X-Gen/Flow-Factory and yifan123/flow_grpo issue 204. The x-space KL is `foundation.transitions.kl`.
    """
    return (velocity - reference).square().flatten(1).mean(1)


def _same_shapes(**tensors: Tensor) -> None:
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ObjectiveError(f"A policy loss needs one value of each kind per sample and step, got {shapes}.")
