"""What is accepted as scores: anything else becomes a missing score with its reason, never a number."""

from dataclasses import replace
from typing import Any

import numpy as np

from rewards_service.scores import Scores


def all_missing(groups: int, members: int, reason: str) -> Scores:
    """(G, N) missing scores."""
    return Scores(np.full((groups, members), np.nan), {(g, n): reason for g in range(groups) for n in range(members)})


def checked(
    answer: Any, groups: int, members: int, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[Scores, str | None]:
    """The usable part of a scorer's answer, and what was wrong with it (None when it kept its contract).

    A wrong type or shape loses all scores; an unexplained NaN or a value out of bounds loses that sample's. Prompts
    that the scorer gated have no scores, whatever it wrote there.
    """
    if not isinstance(answer, Scores):
        reason = f"the scorer answered with {type(answer).__name__}, not Scores"
        return all_missing(groups, members, reason), reason
    values = np.array(answer.values)
    if values.shape != (groups, members) or values.dtype.kind != "f":
        reason = f"the scorer answered {values.dtype} values of shape {values.shape}, not floats of {(groups, members)}"
        return all_missing(groups, members, reason), reason
    values = values.astype(np.float64)
    low, high = bounds
    gated = {g: why for g, why in answer.gated.items() if 0 <= g < groups}
    bad = ~np.isfinite(values) | (values < low) | (values > high)
    values[list(gated)] = np.nan
    bad[list(gated)] = False
    missing = {at: why for at, why in answer.missing.items() if at[0] not in gated}
    unexplained = [(int(g), int(n)) for g, n in np.argwhere(bad) if (int(g), int(n)) not in missing]
    missing |= {at: f"the scorer answered {values[at]}" for at in unexplained}
    for at in missing:
        values[at] = np.nan
    problem = f"{len(unexplained)} scores are no numbers in [{low:g}, {high:g}]" if unexplained else None
    return replace(answer, values=values, missing=missing, gated=gated), problem
