"""Several requests of one dimension as one call of its scorer, and its answer taken apart again."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewards_service.errors import RewardError
from rewards_service.scores import Reference, Scores

Ask = tuple[np.ndarray, int, list[Reference], bool]


def alike(asks: Sequence[Ask]) -> list[list[int]]:
    """Indices of the requests that may share a call: equal N, channels, length, sample rate and detail."""
    kinds: dict[Any, list[int]] = {}
    for place, (waveforms, sample_rate, references, detail) in enumerate(asks):
        shape = np.shape(waveforms)
        fits = len(shape) == 4 and len(references) == shape[0]
        kinds.setdefault((shape[1:], sample_rate, detail) if fits else place, []).append(place)
    return list(kinds.values())


def together(asks: Sequence[Ask]) -> Ask:
    """The arguments of the shared call: waveforms and references one after another along G."""
    references = [reference for ask in asks for reference in ask[2]]
    return np.concatenate([ask[0] for ask in asks]), asks[0][1], references, asks[0][3]


def split(scores: Any, asks: Sequence[Ask]) -> list[Scores]:
    """Each request's share of the answer. Raises RewardError for one that is no Scores of (groups, members)."""
    groups = [len(ask[2]) for ask in asks]
    expected = (sum(groups), np.shape(asks[0][0])[1])
    if not isinstance(scores, Scores) or np.shape(scores.values) != expected:
        raise RewardError(f"The scorer answered a joint call with {type(scores).__name__}, not Scores of {expected}.")
    found, first = [], 0
    for count in groups:
        mine = range(first, first + count)
        found.append(
            Scores(
                values=scores.values[first : first + count],
                missing={(g - first, n): why for (g, n), why in scores.missing.items() if g in mine},
                measured=None if scores.measured is None else scores.measured[first : first + count],
                gated={g - first: why for g, why in scores.gated.items() if g in mine},
            )
        )
        first += count
    return found
