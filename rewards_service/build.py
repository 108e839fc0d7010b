"""From a dimension's name and options to its scorer: add a dimension here and in `config.Dimension`."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from rewards_service.aesthetic import AestheticScorer
from rewards_service.config import RewardConfig, ScorerConfig
from rewards_service.errors import RewardConfigError
from rewards_service.scores import Scorer
from rewards_service.semantic import SemanticScorer
from rewards_service.spatial import SpatialScorer
from rewards_service.temporal import TemporalScorer

SCORERS: dict[str, Callable[..., Scorer]] = {
    "semantic": SemanticScorer,
    "temporal": TemporalScorer,
    "aesthetic": AestheticScorer,
    "spatial": SpatialScorer,
}


def build_scorer(dimension: str, config: ScorerConfig | None = None) -> Scorer:
    """The scorer of a dimension with a recipe's options. Raises RewardConfigError for an unknown name or option."""
    if dimension not in SCORERS:
        raise RewardConfigError(f"There is no reward dimension {dimension!r}; the dimensions are {', '.join(SCORERS)}.")
    options: dict[str, Any] = (config or ScorerConfig()).options
    made: Any = SCORERS[dimension]
    known = [f.name for f in fields(made) if f.name != "name"]
    wrong = sorted(set(options) - set(known))
    if wrong:
        raise RewardConfigError(
            f"The {dimension} reward has no option {', '.join(wrong)}; its options are {', '.join(known)}."
        )
    return made(**options)


def build_scorers(config: RewardConfig | None = None) -> dict[str, Scorer]:
    """All scorers of a reward section, for scoring in this process."""
    return {dimension: build_scorer(dimension, c) for dimension, c in (config or RewardConfig()).scorers.items()}
