"""Which prompts an iteration trains on and when it may start: pure functions, no state.

Groups are numbered within their iteration: index = slot + attempt x prompts per iteration. Attempt 0 is a slot's first
group, attempt k the one that replaces a flat attempt k - 1.
"""

from collections.abc import Hashable, Sequence
from itertools import pairwise

import numpy as np

_PROMPT_STREAM = 0x70726F6D
_REFILL_STREAM = 0x72656669


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


def prompts_of(seed: int, iteration: int, indices: Sequence[int], count: int, total: int) -> list[int]:
    """The prompt, an index into `total`, of each group of an iteration of `count` slots.

    A replacement gets one that is not among the iteration's first `count`, as far as there are others. Replacements
    walk through these in an order of the iteration's own: all different while they last, and none twice in one slot
    before the slot has had them all. The choice depends on the arguments alone, not on what else is replaced.
    """
    chosen = choose_prompts(seed, iteration, count, total)
    order: np.ndarray | None = None
    found = []
    for index in indices:
        prompt = chosen[index % count]
        if index >= count:
            order = _others(seed, iteration, chosen, total) if order is None else order
            prompt = _replacement(prompt, index, count, order)
        found.append(prompt)
    return found


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


def _others(seed: int, iteration: int, chosen: list[int], total: int) -> np.ndarray:
    order = np.random.default_rng([_REFILL_STREAM, seed, iteration]).permutation(total)
    others = order[~np.isin(order, chosen)]
    return others if len(others) else order


def _replacement(first: int, index: int, count: int, order: np.ndarray) -> int:
    found, had = first, set()
    for place in range(index % count, index, count):
        had.add(found)
        walk = (int(order[(place + k) % len(order)]) for k in range(len(order)))
        found = next((prompt for prompt in walk if prompt not in had), int(order[place % len(order)]))
    return found
