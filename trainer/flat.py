"""Groups that teach nothing, found without torch, where the scores arrive."""

from collections.abc import Mapping

import numpy as np

# Below this a deviation is rounding.
ROUNDING = 1e-12


def is_flat(rewards: Mapping[str, np.ndarray], weights: Mapping[str, float], floor: float) -> bool:
    """Whether no weighted reward of one group, {dimension: (N,)}, varies by more than `floor`; NaN is a missing score.

    Judged reward by reward: several that vary can add up to a flat sum and still teach something (GDPO).
    """
    found = [rewards[name][~np.isnan(rewards[name])] for name, weight in weights.items() if weight != 0]
    return all(values.size < 2 or values.std() <= max(floor, ROUNDING) for values in found)
