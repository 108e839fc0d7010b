"""Wall time during which at least one of several overlapping pieces of work was under way."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class BusyClock:
    """Union of the intervals spent inside `running()`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._active = 0
        self._since = 0.0
        self._total = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside; overlapping uses count once."""
        if self._active == 0:
            self._since = self._clock()
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            if self._active == 0:
                self._total += self._clock() - self._since

    @property
    def seconds(self) -> float:
        """Total so far, including an interval still open."""
        return self._total + (self._clock() - self._since if self._active else 0.0)
