"""The four texts and their configuration."""

import pytest

from cot_service.analysis import VideoAnalysis
from cot_service.analysis_planner import CLEAN, UNKNOWN, plan_from, semantic, spatial, temporal
from cot_service.build import build_planner
from cot_service.config import PlannerConfig
from cot_service.plan import Plan
from settings import PrismError
from tests.cot_service.conftest import Drawer

SEEN = VideoAnalysis((0.42, 0.9, 1.36), (1.0, 0.8, 0.7), (-0.9, -0.4, 0.1, 0.55), 2.0, 1.0, "track")


def test_plan_of_an_analysis() -> None:
    assert plan_from(SEEN, "A glass marble bouncing") == Plan(
        "A glass marble bouncing.",
        "Three impacts at 0.4 s, 0.9 s and 1.4 s.",
        "Clean clear recording at a moderate level.",
        "It starts far left and moves to the right.",
        "analysis",
    )


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ((), "No impacts."),
        ((1.26,), "One impact at 1.3 s."),
        ((0.1, 2.0), "Two impacts at 0.1 s and 2.0 s."),
        (tuple(float(k) for k in range(20)), "Many impacts at 0.0 s, 1.0 s, 2.0 s, 3.0 s, 4.0 s, 5.0 s, 6.0 s, 7.0 s"),
    ],
)
def test_temporal_text(events: tuple[float, ...], text: str) -> None:
    assert temporal(events).startswith(text)


@pytest.mark.parametrize(
    ("positions", "text"),
    [
        ((), "It stays in the centre."),
        ((0.5,) * 16, "It stays in the right."),
        ((-0.7,) * 8 + (-0.65,) * 8, "It stays in the far left."),
        ((0.15,) * 8 + (0.3,) * 8, "It stays in the centre."),
        ((0.9,) * 8 + (0.0,) * 8, "It starts far right and moves to the centre."),
    ],
)
def test_spatial_text(positions: tuple[float, ...], text: str) -> None:
    assert spatial(positions) == text


def test_captions_become_sentences() -> None:
    assert semantic(None) == semantic("  ") == UNKNOWN
    assert semantic(" A  dog barks! ") == "A dog barks!"


def test_the_planner_watches_the_clip(bouncing: Drawer) -> None:
    plan = build_planner(PlannerConfig()).plan(bouncing((0.5, 1.2), start=-0.9, end=0.9), None)
    assert plan.temporal == "Two impacts at 0.5 s and 1.2 s."
    assert plan.spatial == "It starts far left and moves to the far right."
    assert (plan.semantic, plan.aesthetic) == (UNKNOWN, CLEAN)
    assert plan.join("{semantic} {temporal}") == f"{UNKNOWN} Two impacts at 0.5 s and 1.2 s."


def test_templates_may_name_only_the_four_dimensions() -> None:
    with pytest.raises(PrismError, match="colour"):
        plan_from(SEEN, None).join("{semantic} {colour}")


def test_the_hosted_model_is_announced() -> None:
    with pytest.raises(PrismError, match="analysis"):
        build_planner(PlannerConfig(kind="vllm"))
