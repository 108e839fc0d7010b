"""Fast-GRPO's maths: policy losses, distances to a reference, and where the stochastic window lies.

Pure functions of tensors and numbers. Log-densities are means over a latent's elements unless said otherwise, so a
ratio is the geometric mean of the elements' ratios.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from trainer.errors import ObjectiveError

Reduce = Literal["mean", "none"]
WindowPolicy = Literal["uniform", "stratified", "fixed", "progressive", "proportional"]
# Share of the draws that "proportional" spreads evenly, so that no start is forgotten.
EXPLORE = 0.2


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


def window_start(
    seed: int,
    iteration: int,
    steps: int,
    width: int,
    policy: WindowPolicy,
    state: Mapping[int, float] | Sequence[float] | None = None,
    lo: int = 0,
    hi: int | None = None,
    period: int = 1,
) -> int:
    """First stochastic step of an iteration, within lo..hi (None: the last one possible, steps - width).

    A pure function of its arguments, the same for every rank, group and retry. policy:
    uniform: drawn anew each iteration (arXiv 2511.18833). stratified: a fresh permutation of all starts per cycle.
    fixed: lo, always. progressive: from lo on, one step further every `period` iterations, and round again (MixGRPO,
    arXiv 2507.21802). proportional: in proportion to state, {start: spread of the rewards measured there} or one spread
    per start from 0 on; starts not measured yet (absent or NaN) count as the widest; a fifth of the draws is uniform.
    Raises ObjectiveError when no start fits.
    """
    last = steps - width if hi is None else hi
    if not 0 <= lo <= last <= steps - width:
        raise ObjectiveError(f"Window starts {lo}..{last} of width {width} do not fit a grid of {steps} steps.")
    count = last - lo + 1
    if policy == "fixed":
        return lo
    if policy == "progressive":
        return lo + iteration // period % count
    if policy == "stratified":
        return lo + _permutation(count, seed, iteration // count)[iteration % count]
    draw = _uniform("window", seed, iteration)
    if policy == "uniform":
        return lo + int(draw * count)
    if policy == "proportional":
        known = dict(state) if isinstance(state, Mapping) else dict(enumerate(() if state is None else state))
        return lo + _pick([float(known.get(lo + k, math.nan)) for k in range(count)], draw)
    raise ObjectiveError(f"Unknown window policy {policy!r}.")


def _pick(spreads: list[float], draw: float) -> int:
    """The index that a number in [0, 1) falls on when indices are as wide as their spreads, NaN the widest."""
    known = [spread for spread in spreads if spread == spread]
    widest = max(known, default=1.0)
    weights = [spread if spread == spread else widest for spread in spreads]
    total = sum(weights)
    share = [(w / total if total > 0 else 1 / len(weights)) for w in weights]
    edge = 0.0
    for index, part in enumerate(share):
        edge += (1 - EXPLORE) * part + EXPLORE / len(share)
        if draw < edge:
            return index
    return len(share) - 1


def _permutation(count: int, *key: int) -> list[int]:
    return sorted(range(count), key=lambda k: _uniform("cycle", *key, k))


def _uniform(purpose: str, *numbers: int) -> float:
    """A number in [0, 1) that depends on its arguments alone, on any machine and in any process."""
    digest = hashlib.blake2b("/".join([purpose, *map(str, numbers)]).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def _same_shapes(**tensors: Tensor) -> None:
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ObjectiveError(f"A policy loss needs one value of each kind per sample and step, got {shapes}.")
