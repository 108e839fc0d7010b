"""What can go wrong in the reward service in a way a user can act on."""

from settings import PrismError


class RewardError(PrismError):
    """A reward cannot be computed with what was given."""


class RewardConfigError(RewardError):
    """The reward section of a recipe asks for something that does not exist."""
