"""The reward section of a recipe and the scorers it builds."""

import pytest
from pydantic import ValidationError

from rewards_service.build import build_scorer, build_scorers
from rewards_service.config import DIMENSIONS, RewardConfig, ScorerConfig
from rewards_service.errors import RewardConfigError
from rewards_service.temporal import TemporalScorer


def test_a_recipe_names_only_what_it_changes() -> None:
    config = RewardConfig.model_validate({"scorers": {"temporal": {"weight": 2.5}}})
    assert config.weights == {"semantic": 1, "temporal": 2.5, "aesthetic": 1, "spatial": 1}


def test_unknown_dimensions_and_keys_are_errors() -> None:
    with pytest.raises(ValidationError):
        RewardConfig.model_validate({"scorers": {"temporel": {}}})
    with pytest.raises(ValidationError):
        RewardConfig.model_validate({"scorers": {"temporal": {"wait": 2.5}}})


def test_options_reach_the_scorer_and_wrong_ones_are_named() -> None:
    scorer = build_scorer("temporal", ScorerConfig(options={"tolerance_s": 0.02}))
    assert scorer == TemporalScorer(tolerance_s=0.02)
    with pytest.raises(RewardConfigError, match=r"no option tolerance; its options are tolerance_s,"):
        build_scorer("temporal", ScorerConfig(options={"tolerance": 0.02}))
    with pytest.raises(RewardConfigError, match=r"no reward dimension 'rhythm'"):
        build_scorer("rhythm")


def test_every_dimension_is_built_under_its_name() -> None:
    assert {name: scorer.name for name, scorer in build_scorers().items()} == {d: d for d in DIMENSIONS}
