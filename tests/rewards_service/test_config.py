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
    with pytest.raises(RewardConfigError, match=r"no scorer 'rhythm' for rhythm"):
        build_scorer("rhythm")


def test_the_four_dimensions_are_built_without_being_named() -> None:
    made = {name: type(scorer).__name__ for name, scorer in build_scorers().items()}
    assert made == {d: f"{d.capitalize()}Scorer" for d in DIMENSIONS}


def test_a_dimension_can_be_left_out_or_added() -> None:
    config = RewardConfig.model_validate(
        {"scorers": {"spatial": None, "rhythm": {"scorer": "rewards_service.temporal:TemporalScorer"}}}
    )
    assert list(config.scorers) == ["semantic", "temporal", "aesthetic", "rhythm"]
    assert isinstance(build_scorer("rhythm", config.scorers["rhythm"]), TemporalScorer)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"scorers": {"Rhythm!": {"scorer": "x:Y"}}}, "cannot name a reward"),
        ({"scorers": {"total": {"scorer": "x:Y"}}}, "cannot name a reward"),
        ({"judges": {"semantic": {}}}, "semantic needs a scorer"),
        ({"scorers": {"semantic": {"replicas": 3, "max_replicas": 2}}}, "fewer than replicas"),
        ({"scorers": {"semantic": {"max_replicas": 2}}}, "needs rewards.backend: serve"),
        ({"scorers": dict.fromkeys(DIMENSIONS)}, "no dimension is left"),
    ],
)
def test_sections_that_cannot_work_say_why(section: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RewardConfig.model_validate(section)


@pytest.mark.parametrize("place", ["rhythm.py:Rhythm", "no_such_module:Rhythm", "rewards_service.temporal:Nothing"])
def test_a_class_that_is_not_there_is_named(place: str) -> None:
    with pytest.raises(RewardConfigError, match=r"rhythm reward's scorer .* cannot be imported"):
        build_scorer("rhythm", ScorerConfig(scorer=place))


def test_something_else_than_a_scorer_is_refused() -> None:
    with pytest.raises(RewardConfigError, match="is no scorer"):
        build_scorer("rhythm", ScorerConfig(scorer="rewards_service.config:RewardConfig"))
