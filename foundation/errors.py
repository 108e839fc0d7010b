"""Errors of this room that a user can act on."""

from settings import PrismError


class SamplingError(PrismError):
    """A sampler was asked for something that has no meaning, or produced values that are not finite."""


class CheckpointError(PrismError):
    """A checkpoint that cannot be read, written or fitted to the model."""
