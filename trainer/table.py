"""The rewards of an iteration as one table, and what training makes of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.advantages import advantages, correlations, project, standardised, trained
from trainer.config import AlgorithmConfig
from trainer.errors import ObjectiveError


@dataclass(frozen=True)
class Advantages:
    """values: (G, N) float64, 0 where masked. mask: (G, N) bool, True where the sample may be trained on."""

    values: Tensor
    mask: Tensor

    @property
    def samples(self) -> int:
        """Number of samples to train on."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class RewardTable:
    """Rewards (G, N, D) float64 with 0 for missing scores, the (G, N, D) mask of present ones, and (D,) weights."""

    names: tuple[str, ...]
    rewards: Tensor
    mask: Tensor
    weights: Tensor

    @classmethod
    def of(cls, groups: Sequence[Mapping[str, np.ndarray]], weights: Mapping[str, float]) -> "RewardTable":
        """From G groups' {dimension: (N,)}, NaN marking a missing score, and {dimension: weight}; weight 0 leaves out.

        Raises ObjectiveError when nothing has a weight, a group lacks a weighted dimension, or sizes differ.
        """
        names = tuple(name for name, weight in weights.items() if weight != 0)
        if not names:
            raise ObjectiveError(
                "Every reward weight is 0, so there is nothing to train on; give one dimension a weight."
            )
        for index, group in enumerate(groups):
            missing = [name for name in names if name not in group]
            if missing:
                raise ObjectiveError(
                    f"Group {index} of the batch has no {', '.join(missing)} rewards, only "
                    f"{', '.join(group) or 'none'}; start those scorers or set their weight to 0."
                )
        sizes = {len(group[name]) for group in groups for name in names}
        if len(sizes) > 1:
            raise ObjectiveError(f"Groups of one batch must have one size, got {sorted(sizes)}.")
        raw = np.array([[group[name] for name in names] for group in groups], dtype=np.float64)
        found = torch.from_numpy(np.moveaxis(raw, 1, 2).copy())
        present = ~found.isnan()
        values = torch.where(present, found, 0.0)
        return cls(names, values, present, torch.tensor([weights[name] for name in names], dtype=torch.float64))

    def advantages(self, config: AlgorithmConfig) -> Advantages:
        """What each sample is trained with."""
        values = advantages(
            self.rewards,
            self._weights(config),
            config.advantage,
            self.mask,
            config.std_eps,
            config.reward_floor,
            config.adv_clip,
        )
        return Advantages(values, trained(self.mask, config.advantage))

    def spread(self) -> float:
        """Mean over groups of the weighted total's standard deviation among complete samples; NaN without any."""
        complete = self.mask.all(2)
        totals = (self.rewards * self.weights).sum(2)
        spreads = [
            float(row[here].std(correction=0)) for row, here in zip(totals, complete, strict=True) if here.sum() > 1
        ]
        return sum(spreads) / len(spreads) if spreads else float("nan")

    def describe(self, config: AlgorithmConfig) -> dict[str, Any]:
        """For the metrics: `reward_spread`, `conflict` (within-group correlation of every pair), weights in use."""
        # In units of each group's spread, so that the widest groups do not speak for all.
        found = correlations(self._standardised(config), self.mask)
        pairs = combinations(range(len(self.names)), 2)
        return {
            "reward_spread": self.spread(),
            "conflict": {f"{self.names[i]}/{self.names[j]}": float(found[i, j]) for i, j in pairs},
            "weights": dict(zip(self.names, self._weights(config).tolist(), strict=True)),
        }

    def _weights(self, config: AlgorithmConfig) -> Tensor:
        if config.conflict == "none":
            return self.weights
        scores = self._standardised(config)
        # A reward that is missing or flat in places spreads less than 1; in these units the promise of `project` is
        # exact for the advantages that the weights are used for.
        unit = scores.square().mean((0, 1)).sqrt()
        unit = torch.where(unit > 0, unit, 1.0)
        return project(self.weights * unit, correlations(scores)) / unit

    def _standardised(self, config: AlgorithmConfig) -> Tensor:
        return standardised(self.rewards, self.mask, config.std_eps, config.reward_floor)
