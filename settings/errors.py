"""The one error family that reaches the user as a message instead of a traceback."""


class PrismError(Exception):
    """Something the user can act on. The message says what was expected, what came, and what to do."""
