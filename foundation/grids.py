"""Noise-level grids: T + 1 values from 1 (noise) down to 0 (data), float64."""

from collections.abc import Callable

import numpy as np

from foundation.errors import SamplingError


def official_rl(steps: int) -> np.ndarray:
    """linspace(1, 0.001, T) and then 0, as the released RL code; its last step is 0.001 long."""
    _require(steps, 2)
    return np.append(np.linspace(1.0, 0.001, steps), 0.0)


def inference(steps: int) -> np.ndarray:
    """linspace(1, 0, T + 1), as the released inference code."""
    _require(steps, 1)
    return np.linspace(1.0, 0.0, steps + 1)


GRIDS: dict[str, Callable[[int], np.ndarray]] = {"official_rl": official_rl, "inference": inference}


def grid(name: str, steps: int) -> np.ndarray:
    """The grid of a name, (steps + 1,). Raises SamplingError naming the known ones."""
    if name not in GRIDS:
        raise SamplingError(f"Unknown grid {name!r}; choose one of {', '.join(sorted(GRIDS))}.")
    return GRIDS[name](steps)


def respace(sigmas: np.ndarray, steps: int | None) -> np.ndarray:
    """At most `steps` even steps over the span of a grid; the grid itself when it has no more than that."""
    if steps is None or steps >= len(sigmas) - 1:
        return sigmas
    _require(steps, 1)
    return np.linspace(sigmas[0], sigmas[-1], steps + 1)


def _require(steps: int, least: int) -> None:
    if steps < least:
        raise SamplingError(f"A grid needs at least {least} steps, got {steps}.")
