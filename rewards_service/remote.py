"""Asking a run's replicas from other processes than its coordinator, as if the scorer were here."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rewards_service.backends import connect
from rewards_service.build import bounds_of, build_scorer, environment_of, scorer_class
from rewards_service.config import RewardConfig
from rewards_service.scores import Reference, Scorer, Scores


@dataclass(frozen=True)
class RemoteScorer:
    """One deployed dimension. Picklable; finds the replicas anew for every batch, so their number may change."""

    dimension: str
    config: RewardConfig
    namespace: str

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest score."""
        return bounds_of(self.dimension, self.config.deployed[self.dimension])

    @property
    def title(self) -> str:
        """What the recipe calls the scorer."""
        return self.config.deployed[self.dimension].scorer or self.dimension

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Score (G, N, 2, S) waveforms; scores that no replica gave are missing, with the reason."""
        client = connect(self.config, self.namespace)
        only = [self.dimension]
        return client.score_all_blocking(waveforms, sample_rate, references, detail, only)[self.dimension]


def needs_replicas(config: RewardConfig) -> bool:
    """Whether a scorer or judge must not be built in just any process: it reads weights or has packages of its own."""
    return any(_heavy(dimension, config) for dimension in config.deployed)


def scorers(config: RewardConfig, namespace: str | None) -> dict[str, Scorer]:
    """A scorer for each dimension: built here when it is light, else the replicas in `namespace`."""
    return {dimension: _scorer(dimension, config, namespace) for dimension in config.scorers}


def judges(config: RewardConfig, namespace: str | None) -> Mapping[str, Scorer]:
    """The same for the judges, by the dimension they watch."""
    return {dimension: _scorer(f"judge_{dimension}", config, namespace) for dimension in config.judges}


def _scorer(dimension: str, config: RewardConfig, namespace: str | None) -> Scorer:
    if namespace is not None and _heavy(dimension, config):
        return RemoteScorer(dimension, config, namespace)
    return build_scorer(dimension, config.deployed[dimension])


def _heavy(dimension: str, config: RewardConfig) -> bool:
    scorer = config.deployed[dimension]
    return environment_of(dimension, scorer) is not None or hasattr(scorer_class(dimension, scorer), "load")
