"""Errors of the learner that a user can act on."""

from settings import PrismError


class InvariantError(PrismError):
    """Rollout and learner disagree about something that must be equal, so training on would be meaningless."""


class ObjectiveError(PrismError):
    """Rewards, log-densities or a window of a form that the algorithm's maths is not defined for."""


class DivergenceError(PrismError):
    """A gradient is no longer finite."""


class LearnerError(PrismError):
    """The training loop cannot go on: an actor is missing, late, or broke its contract."""
