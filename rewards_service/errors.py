"""What can go wrong in the reward service in a way a user can act on."""

from settings import PrismError


class RewardError(PrismError):
    """A reward cannot be computed with what was given."""


class RewardConfigError(RewardError):
    """The reward section of a recipe asks for something that does not exist."""


class ReplicaStuckError(RewardError):
    """A replica takes no requests, because a call in it does not end; another one should be asked."""


class RefusedError(RewardError):
    """A replica's queue is full."""
