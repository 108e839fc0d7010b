"""Group-relative advantages out of several rewards, with missing scores left out of every statistic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from settings import PrismError
from trainer.config import AlgorithmConfig

Array = np.ndarray


@dataclass(frozen=True)
class Advantages:
    """values: (G, N) float64, 0 where masked. mask: (G, N) bool, True where the sample may be trained on."""

    values: Array
    mask: Array

    @property
    def samples(self) -> int:
        """Number of samples to train on."""
        return int(self.mask.sum())


def advantages(
    rewards: Sequence[Mapping[str, Array]], weights: Mapping[str, float], config: AlgorithmConfig
) -> Advantages:
    """Advantages of G groups of N samples.

    rewards: per group {dimension: (N,)}; NaN marks a missing score. weights: {dimension: weight}.
    Raises PrismError when a group lacks a weighted dimension or the groups differ in size.
    """
    tables = stack_rewards(rewards, weights)
    if config.advantage == "sum":
        return sum_then_normalise(tables, weights, config.std, config.std_eps, config.adv_clip)
    return normalise_then_sum(tables, weights, config.std, config.std_eps, config.adv_clip)


def stack_rewards(rewards: Sequence[Mapping[str, Array]], weights: Mapping[str, float]) -> dict[str, Array]:
    """Per-group rewards as {dimension: (G, N) float64} for every dimension with a non-zero weight."""
    names = [name for name, weight in weights.items() if weight != 0]
    if not names:
        raise PrismError("Every reward weight is 0, so there is nothing to train on; give one dimension a weight.")
    for index, group in enumerate(rewards):
        missing = [name for name in names if name not in group]
        if missing:
            raise PrismError(
                f"Group {index} of the batch has no {', '.join(missing)} rewards, only {', '.join(group) or 'none'}; "
                "start those scorers or set their weight to 0."
            )
    sizes = {len(group[name]) for group in rewards for name in names}
    if len(sizes) > 1:
        raise PrismError(f"Groups of one batch must have one size, got {sorted(sizes)}.")
    return {name: np.array([group[name] for group in rewards], dtype=np.float64) for name in names}


def sum_then_normalise(
    tables: Mapping[str, Array], weights: Mapping[str, float], std: str, eps: float, clip: float
) -> Advantages:
    """(R - mean of the group) / (std + eps) of the weighted sum R, clipped to +-clip; population deviations.

    A sample that lacks a score is left out. A dimension missing for all samples of a group is left out of that group's
    sums instead, since they stay comparable among themselves. std: "group" or "global".
    Paper: arXiv 2511.18833, equation of A_i; global std as in FunAudioLLM/ThinkSound:grpo/fast_grpo/stat_tracking.py.
    """
    stacked = np.stack([weights[name] * table for name, table in tables.items()])
    absent = np.isnan(stacked).all(axis=2, keepdims=True)
    total = np.where(absent, 0.0, stacked).sum(axis=0)
    total[np.all(absent, axis=(0, 2))] = np.nan
    mask = ~np.isnan(total)
    centred = total - _mean(total, 1)
    if std == "global":
        # Sums over other dimensions lie elsewhere, so the spread of the batch is that of the complete groups.
        complete = np.where(absent.any(axis=0), np.nan, total)
        scale = _std(centred if np.isnan(complete).all() else complete, None)
    else:
        scale = _std(total, 1)
    values = _divide(centred, scale, eps)
    return Advantages(np.where(mask, np.clip(values, -clip, clip), 0.0), mask)


def normalise_then_sum(
    tables: Mapping[str, Array], weights: Mapping[str, float], std: str, eps: float, clip: float
) -> Advantages:
    """GDPO: each reward normalised in its group, weighted and added, then whitened over the batch and clipped.

    A missing score adds nothing to its sample; a sample without any score is left out of the batch statistics.
    eps is in reward units, so a reward whose spread is far below it stays small instead of being blown up.
    Paper: arXiv 2601.05242.
    """
    total = np.zeros_like(next(iter(tables.values())))
    mask = np.zeros(total.shape, dtype=bool)
    for name, table in tables.items():
        scale = _std(table, None if std == "global" else 1)
        score = _divide(table - _mean(table, 1), scale, eps)
        present = ~np.isnan(score)
        total += weights[name] * np.where(present, score, 0.0)
        mask |= present
    pooled = np.where(mask, total, np.nan)
    values = _divide(pooled - _mean(pooled, None), _std(pooled, None), eps)
    return Advantages(np.where(mask, np.clip(values, -clip, clip), 0.0), mask)


def _mean(table: Array, axis: int | None) -> Array:
    count = (~np.isnan(table)).sum(axis=axis, keepdims=True)
    return np.nansum(table, axis=axis, keepdims=True) / np.maximum(count, 1)


def _std(table: Array, axis: int | None) -> Array:
    return np.sqrt(_mean((table - _mean(table, axis)) ** 2, axis))


def _divide(centred: Array, scale: Array, eps: float) -> Array:
    # Equal scores leave a deviation of rounding errors; with a tiny eps those would become full-size advantages.
    return np.where(np.isnan(centred), np.nan, np.where(scale > 1e-12, centred / np.maximum(scale + eps, 1e-300), 0.0))
