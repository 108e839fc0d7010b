"""The window of an iteration under a recipe, and the measured spreads that a policy may follow."""

from collections.abc import Mapping

from trainer.config import AlgorithmConfig
from trainer.errors import ObjectiveError
from trainer.group import Window
from trainer.starts import window_start

Spreads = Mapping[int, float]
# Weight of the past in the running mean of a start's spread.
MEMORY = 0.9


def window(seed: int, iteration: int, config: AlgorithmConfig, spreads: Spreads | None = None) -> Window:
    """The stochastic steps of one iteration; spreads: `SpreadHistory.at(iteration)`."""
    start = window_start(
        seed,
        iteration,
        config.steps,
        config.width,
        config.window_policy,
        spreads,
        config.window_lo,
        config.last_start,
        config.window_period,
    )
    return Window(start, config.width)


def observe(spreads: Spreads, start: int, spread: float) -> dict[int, float]:
    """Running means with the spread of one more iteration whose window began at `start`; NaN changes nothing."""
    if spread != spread:
        return dict(spreads)
    return {**spreads, start: MEMORY * spreads.get(start, spread) + (1 - MEMORY) * spread}


class SpreadHistory:
    """Spreads by version (finished iterations), kept by the learner and by the coordinator alike.

    With bounded staleness an iteration may be admitted before the one preceding it is trained, sooner or later as it
    happens. Its window therefore reads the spreads of a version that is known in any case: `lag` iterations back.
    """

    def __init__(self, lag: int = 0, states: Mapping[int, Spreads] | None = None):
        self.lag = lag
        self.states: dict[int, dict[int, float]] = {
            version: dict(spreads) for version, spreads in (states or {0: {}}).items()
        }

    def at(self, iteration: int) -> Spreads:
        """What the window of an iteration may know. Raises ObjectiveError when that version is not kept."""
        version = max(0, iteration - self.lag)
        if version not in self.states:
            raise ObjectiveError(
                f"The window of iteration {iteration} needs the reward spreads of version {version}, but only those of "
                f"{sorted(self.states)} are known; coordinator and learner are out of step."
            )
        return self.states[version]

    def put(self, version: int, spreads: Spreads) -> None:
        """Note the spreads after `version` iterations and forget what no later iteration asks for."""
        self.states[version] = dict(spreads)
        self.states = {known: kept for known, kept in self.states.items() if known >= version - self.lag}
