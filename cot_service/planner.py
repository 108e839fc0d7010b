"""What every planner does."""

from typing import Protocol

from cot_service.plan import Plan
from media.clip import Clip


class Planner(Protocol):
    """Writes the plan of a clip. `name` and `version` identify what wrote it."""

    name: str
    version: str

    def plan(self, clip: Clip, caption: str | None) -> Plan:
        """Four texts about the clip; the caption, when there is one, says what is seen."""
        ...
