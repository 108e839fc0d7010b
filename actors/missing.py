"""What becomes of a group whose scores are incomplete. A missing score is never replaced by a number."""

from collections.abc import Collection
from typing import Literal

import numpy as np


def rejection(rewards: dict[str, np.ndarray], policy: Literal["drop", "mask"], gated: Collection[str] = ()) -> str:
    """Why a group must not be trained on, or "" when it may.

    rewards: {dimension: (N,)} with NaN for a missing score. drop: one missing score drops the group. mask: the group
    stays unless it has no score at all, and the learner leaves the missing ones out. gated: dimensions that say nothing
    about this prompt; the learner leaves them out under either policy.
    """
    if all(np.isnan(values).all() for values in rewards.values()):
        return "missing:all"
    rewards = {name: values for name, values in rewards.items() if name not in gated}
    missing = {name: float(np.isnan(values).mean()) for name, values in rewards.items()}
    if policy == "mask":
        return "missing:all" if all(share == 1.0 for share in missing.values()) else ""
    worst = max(missing, key=lambda name: missing[name])
    return f"missing:{worst}" if missing[worst] > 0 else ""
