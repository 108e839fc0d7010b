"""Group-relative advantages out of several rewards: pure functions of (groups, members, dimensions) tensors.

A score that `mask` leaves out takes part in no statistic. Deviations are those of the population.
"""

from typing import Literal

import torch
from torch import Tensor

from trainer.errors import ObjectiveError
from trainer.flat import ROUNDING, is_flat

__all__ = ["advantages", "correlations", "is_flat", "project", "standardised", "trained"]

Method = Literal["weighted_sum_group_std", "weighted_sum_global_std", "per_reward", "no_std"]


def advantages(
    rewards: Tensor,
    weights: Tensor,
    method: Method,
    mask: Tensor | None = None,
    eps: float | None = None,
    floor: float = 1e-6,
    clip: float | None = None,
) -> Tensor:
    """Advantages (G, N) of G groups of N members, float64, 0 where a member may not be trained on.

    rewards: (G, N, D). weights: (D,). mask: (G, N) or (G, N, D) bool, False where a score is missing. clip: limit of
    the result's size. The methods:
    weighted_sum_group_std: A = (R - mean of the group) / (its std + eps) of R = sum_d w_d r_d (arXiv 2511.18833).
    weighted_sum_global_std: with the std of all samples (FunAudioLLM/ThinkSound:grpo/fast_grpo/stat_tracking.py).
    no_std: A = R - mean of the group (Dr. GRPO, arXiv 2503.20783).
    per_reward: GDPO (arXiv 2601.05242). Each reward is normalised in its group by max(std, floor) + eps, with floor in
    reward units below which a spread is the scorer's noise; then weighted, added and whitened over all samples.
    eps: None is 1e-4 for the weighted sums, as in the released code, and 0 for per_reward.
    A member that lacks a score takes no part in a weighted sum, unless its whole group lacks that dimension; per_reward
    uses the scores that are there. Raises ObjectiveError for shapes that do not fit, an unknown method, and NaN or
    infinity where the mask says there is a score.
    """
    table, present = _checked(rewards, weights, mask)
    weights = torch.as_tensor(weights).to(table)
    if method == "per_reward":
        return _limit(_per_reward(table, weights, present, eps or 0.0, floor), clip)
    if method not in ("weighted_sum_group_std", "weighted_sum_global_std", "no_std"):
        raise ObjectiveError(f"Unknown advantage method {method!r}.")
    absent = ~present.any(1, keepdim=True)
    # A dimension that a whole group lacks leaves its sums comparable among themselves, but not with other groups'.
    usable = (present | absent).all(2) & present.any(2)
    total = (torch.where(present, table, 0.0) * weights).sum(2)
    centred = torch.where(usable, total - _mean(total, usable, 1), 0.0)
    if method == "no_std":
        return _limit(centred, clip)
    if method == "weighted_sum_group_std":
        scale = _std(total, usable, 1)
    else:
        complete = usable & ~absent.any(2)
        scale = _std(total, complete, None) if complete.any() else _std(centred, usable, None)
    return _limit(_divide(centred, scale + (1e-4 if eps is None else eps), scale), clip)


def trained(mask: Tensor, method: Method) -> Tensor:
    """Members (G, N) that `advantages` gives a value to, out of the (G, N, D) mask of present scores."""
    if method == "per_reward":
        return mask.any(2)
    return (mask | ~mask.any(1, keepdim=True)).all(2) & mask.any(2)


def standardised(rewards: Tensor, mask: Tensor | None = None, eps: float = 0.0, floor: float = 1e-6) -> Tensor:
    """Each reward in units of its deviation within the group, (G, N, D), 0 where missing: what `per_reward` adds up."""
    table, present = _checked(rewards, torch.ones(rewards.shape[-1]), mask)
    return _standardised(table, present, eps, floor)


def correlations(rewards: Tensor, mask: Tensor | None = None) -> Tensor:
    """Correlation (D, D) of every pair of rewards within groups, pooled over groups; NaN where one does not vary.

    A negative entry is a conflict: among the samples of one prompt, those that gain in one reward lose in the other.
    """
    table, present = _checked(rewards, torch.ones(rewards.shape[-1]), mask)
    centred = torch.where(present, table - _mean(table, present, 1), 0.0).flatten(0, 1)
    there = present.flatten(0, 1).to(table)
    covariance = centred.T @ centred
    squares = centred.square()
    # Each pair's deviations over the samples that have both scores.
    scale = torch.sqrt((squares.T @ there) * (there.T @ squares))
    return torch.where(scale > ROUNDING, covariance / scale, torch.nan)


def project(weights: Tensor, correlation: Tensor) -> Tensor:
    """Weights (D,) nearest to the given ones under which no reward is traded away.

    Moving a policy along the advantage A = sum_d u_d z_d, z the normalised rewards, changes the mean of reward d at a
    rate proportional to Cov(z_d, A) = (C u)_d. Where conflicts make a rate negative, u is projected onto the cone
    C u >= 0: u = w + C l with l >= 0 least squares of |w + C l| (own derivation, by Moreau's decomposition; the problem
    is that of CorrGRPO, arXiv 2609.36820). Without conflict u = w. NaN correlations count as 0.
    """
    from scipy.optimize import nnls  # the rest of this file needs torch alone

    c = torch.nan_to_num(correlation.double(), nan=0.0).fill_diagonal_(1.0).numpy()
    w = weights.double().numpy()
    if (c @ w >= 0).all():
        return weights.double()
    multipliers, _ = nnls(c, -w)
    return torch.from_numpy(w + c @ multipliers)


def _per_reward(table: Tensor, weights: Tensor, present: Tensor, eps: float, floor: float) -> Tensor:
    total, usable = (_standardised(table, present, eps, floor) * weights).sum(2), present.any(2)
    spread = _std(total, usable, None)
    whitened = _divide(total - _mean(total, usable, None), spread + eps, spread)
    return torch.where(usable, whitened, 0.0)


def _standardised(table: Tensor, present: Tensor, eps: float, floor: float) -> Tensor:
    spread = _std(table, present, 1)
    scores = _divide(table - _mean(table, present, 1), spread.clamp_min(floor) + eps, spread)
    return torch.where(present, scores, 0.0)


def _checked(rewards: Tensor, weights: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rewards as float64 with 0 for missing scores, and the (G, N, D) bool of those present."""
    rewards, weights = torch.as_tensor(rewards), torch.as_tensor(weights)
    if rewards.dim() != 3 or weights.shape != rewards.shape[2:]:
        raise ObjectiveError(
            "Advantages need rewards of shape (groups, members, dimensions) and one weight per dimension, got "
            f"{tuple(rewards.shape)} and {tuple(weights.shape)}."
        )
    present = torch.ones_like(rewards, dtype=torch.bool) if mask is None else mask.bool()
    present = present[..., None] if present.dim() == 2 else present
    try:
        present = present.expand(rewards.shape)
    except RuntimeError as error:
        raise ObjectiveError(
            f"A mask must be (groups, members) or (groups, members, dimensions) of {tuple(rewards.shape)}, got "
            f"{tuple(present.shape)}."
        ) from error
    table = torch.where(present, rewards.double(), 0.0)
    if not torch.isfinite(table).all():
        places = (~torch.isfinite(table)).nonzero()[:3].tolist()
        raise ObjectiveError(
            f"Rewards at (group, member, dimension) {places} are NaN or infinite; a missing score must be left out by "
            "the mask, never passed on as a number."
        )
    return table, present


def _mean(table: Tensor, present: Tensor, dim: int | None) -> Tensor:
    """Mean of what is present, along one axis or over everything, broadcastable to the table."""
    held, there = torch.where(present, table, 0.0), present.to(table)
    if dim is None:
        return held.sum() / there.sum().clamp_min(1)
    return held.sum(dim, keepdim=True) / there.sum(dim, keepdim=True).clamp_min(1)


def _std(table: Tensor, present: Tensor, dim: int | None) -> Tensor:
    return _mean((table - _mean(table, present, dim)).square(), present, dim).sqrt()


def _divide(centred: Tensor, scale: Tensor, spread: Tensor) -> Tensor:
    # Equal scores leave a spread of rounding errors; with a tiny scale those would become full-size advantages.
    return torch.where(spread > ROUNDING, centred / scale.clamp_min(1e-300), 0.0)


def _limit(values: Tensor, clip: float | None) -> Tensor:
    return values if clip is None else values.clamp(-clip, clip)
