"""Groups in which no reward varies teach nothing: how they are found, and what is said when there are no others."""

from collections.abc import Collection, Mapping

import numpy as np

from actors.messages import GroupInfo
from trainer.config import AlgorithmConfig
from trainer.flat import is_flat

FLAT = "flat"


def flatness(rewards: Mapping[str, np.ndarray], weights: Mapping[str, float], algorithm: AlgorithmConfig) -> str:
    """Why a group is to be dropped and replaced: "flat", or "" for one to keep. With `refills` 0 all are kept.

    rewards: {dimension: (N,)} with NaN for a missing score. weights: of the dimensions; those with 0 do not count.
    """
    return FLAT if algorithm.refills and is_flat(rewards, weights, algorithm.reward_floor) else ""


def nothing_varies(
    iteration: int, groups: Collection[GroupInfo], weights: Mapping[str, float], algorithm: AlgorithmConfig
) -> str:
    """What to tell the user when all groups of an iteration, replacements included, are flat."""
    names = [name for name, weight in weights.items() if weight != 0]
    seen = ", ".join(_seen(name, [group.rewards[name] for group in groups]) for name in names)
    end = (
        f"resume it with learner.iterations={iteration} to get its report" if iteration else "there is nothing to train"
    )
    return (
        f"Iteration {iteration} has nothing to learn from. Its {algorithm.prompts} prompts and all that were tried "
        f"instead (algorithm.refills = {algorithm.refills}) gave {len(groups)} groups of samples, and in none does a "
        f"reward vary by more than algorithm.reward_floor = {algorithm.reward_floor:g}. Mean score and largest "
        f"standard deviation in a group: {seen}. If the scores are as good as they get, the run has converged: {end}. "
        "If not, a scorer answers with a constant or the samples of a prompt are too much alike: look at the scorers, "
        "or start a run with a larger algorithm.noise_level or algorithm.group_size, a smaller algorithm.reward_floor, "
        "or other clips."
    )


def _seen(name: str, rows: list[np.ndarray]) -> str:
    present = [row[~np.isnan(row)] for row in rows]
    scores = np.concatenate(present)
    if not scores.size:
        return f"{name} never scored"
    return f"{name} {scores.mean():.3f} ({max(row.std() for row in present if row.size):.2g})"
