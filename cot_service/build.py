"""From the configuration to a planner."""

from cot_service.analysis_planner import AnalysisPlanner
from cot_service.config import PlannerConfig
from cot_service.planner import Planner
from settings import PrismError


def build_planner(config: PlannerConfig) -> Planner:
    """The planner a recipe names. Raises PrismError for "vllm", which needs the engine pool."""
    if config.kind == "vllm":
        raise PrismError("planner.kind=vllm needs the engine pool, which arrives later; use planner.kind=analysis.")
    return AnalysisPlanner()
