"""Which prompts an iteration trains on and when it may start: pure functions, no state."""

from collections.abc import Hashable, Sequence
from itertools import pairwise

import numpy as np

_PROMPT_STREAM = 0x70726F6D


def choose_prompts(seed: int, iteration: int, count: int, total: int) -> list[int]:
    """Indices into `total` prompts for one iteration of `count`.

    Consecutive iterations walk through a fresh permutation per epoch, so every prompt is seen once before any is seen
    twice. The choice depends on the arguments alone; a resumed run continues the walk.
    """
    positions = range(iteration * count, (iteration + 1) * count)
    orders = {
        epoch: np.random.default_rng([_PROMPT_STREAM, seed, epoch]).permutation(total)
        for epoch in {position // total for position in positions}
    }
    return [int(orders[position // total][position % total]) for position in positions]


def split(shapes: Sequence[Hashable], per_task: int) -> list[tuple[int, ...]]:
    """Indices of each task: prompts of one shape, in order, in parts of near-equal length, at most `per_task` each."""
    alike: dict[Hashable, list[int]] = {}
    for index, shape in enumerate(shapes):
        alike.setdefault(shape, []).append(index)
    tasks = []
    for indices in alike.values():
        parts = -(-len(indices) // per_task)
        bounds = [len(indices) * k // parts for k in range(parts + 1)]
        tasks += [tuple(indices[a:b]) for a, b in pairwise(bounds)]
    return tasks


def admissible(iteration: int, version: int, max_staleness: int) -> bool:
    """Whether an iteration may start sampling while the learner stands at `version` finished iterations.

    Iterations are submitted in order and trained in order, so this is AReaL's credit rule: running + queued groups
    stay at or below (max_staleness + 1) x batch.
    """
    return iteration <= version + max_staleness
