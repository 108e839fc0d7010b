"""Configuration of the planner."""

from typing import Literal

from cot_service.plan import DEFAULT_TEMPLATE
from settings import Section


class PlannerConfig(Section):
    """kind: "analysis" looks at the motion; "vllm" asks a hosted video language model.

    template: how the four texts become one prompt.
    """

    kind: Literal["analysis", "vllm"] = "analysis"
    template: str = DEFAULT_TEMPLATE
