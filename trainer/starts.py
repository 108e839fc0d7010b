"""Where the stochastic window of an iteration begins: pure functions of numbers, without torch."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from trainer.errors import ObjectiveError

WindowPolicy = Literal["uniform", "stratified", "fixed", "progressive", "proportional"]
# Share of the draws that "proportional" spreads evenly, so that no start is forgotten.
EXPLORE = 0.2


def window_start(
    seed: int,
    iteration: int,
    steps: int,
    width: int,
    policy: WindowPolicy,
    state: Mapping[int, float] | Sequence[float] | None = None,
    lo: int = 0,
    hi: int | None = None,
    period: int = 1,
) -> int:
    """First stochastic step of an iteration, within lo..hi (None: the last one possible, steps - width).

    A pure function of its arguments, the same for every rank, group and retry. policy:
    uniform: drawn anew each iteration (arXiv 2511.18833). stratified: a fresh permutation of all starts per cycle.
    fixed: lo, always. progressive: from lo on, one step further every `period` iterations, and round again (MixGRPO,
    arXiv 2507.21802). proportional: in proportion to state, {start: spread of the rewards measured there} or one spread
    per start from 0 on; starts not measured yet (absent or NaN) count as the widest; a fifth of the draws is uniform.
    Raises ObjectiveError when no start fits.
    """
    last = steps - width if hi is None else hi
    if not 0 <= lo <= last <= steps - width:
        raise ObjectiveError(f"Window starts {lo}..{last} of width {width} do not fit a grid of {steps} steps.")
    count = last - lo + 1
    if policy == "fixed":
        return lo
    if policy == "progressive":
        return lo + iteration // period % count
    if policy == "stratified":
        return lo + _permutation(count, seed, iteration // count)[iteration % count]
    draw = _uniform("window", seed, iteration)
    if policy == "uniform":
        return lo + int(draw * count)
    if policy == "proportional":
        known = dict(state) if isinstance(state, Mapping) else dict(enumerate(() if state is None else state))
        return lo + _pick([float(known.get(lo + k, math.nan)) for k in range(count)], draw)
    raise ObjectiveError(f"Unknown window policy {policy!r}.")


def _pick(spreads: list[float], draw: float) -> int:
    """The index that a number in [0, 1) falls on when indices are as wide as their spreads, NaN the widest."""
    known = [spread for spread in spreads if spread == spread]
    widest = max(known, default=1.0)
    weights = [spread if spread == spread else widest for spread in spreads]
    total = sum(weights)
    share = [(w / total if total > 0 else 1 / len(weights)) for w in weights]
    edge = 0.0
    for index, part in enumerate(share):
        edge += (1 - EXPLORE) * part + EXPLORE / len(share)
        if draw < edge:
            return index
    return len(share) - 1


def _permutation(count: int, *key: int) -> list[int]:
    return sorted(range(count), key=lambda k: _uniform("cycle", *key, k))


def _uniform(purpose: str, *numbers: int) -> float:
    """A number in [0, 1) that depends on its arguments alone, on any machine and in any process."""
    digest = hashlib.blake2b("/".join([purpose, *map(str, numbers)]).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53
