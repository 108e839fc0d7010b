"""Choosing among the replicas of one dimension: round-robin, with a breaker for each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Replica:
    """A handle with its recent failures in a row, the time until which it is left alone, and calls without answer."""

    handle: Any
    failures: int = 0
    resting_until: float = 0.0
    in_flight: int = 0


@dataclass
class Pool:
    """Replicas of one dimension.

    patience: failures in a row after which a replica rests. rest_s: first rest; doubles with each further failure up
    to sixteen times. When all rest, the one that wakes first is used all the same: it may answer.
    """

    replicas: list[Replica]
    patience: int = 3
    rest_s: float = 2.0
    clock: Callable[[], float] = time.monotonic
    _next: int = field(default=0, init=False)

    @staticmethod
    def of(handles: Sequence[Any], **options: Any) -> "Pool":
        """A pool over plain handles."""
        return Pool([Replica(handle) for handle in handles], **options)

    def pick(self, avoid: Replica | None = None) -> Replica:
        """The next replica in turn that is not resting, another than `avoid` if there is one."""
        count = len(self.replicas)
        turn = [self.replicas[(self._next + k) % count] for k in range(count)]
        others = [r for r in turn if r is not avoid] or turn
        now = self.clock()
        awake = [r for r in others if r.resting_until <= now]
        chosen = awake[0] if awake else min(others, key=lambda r: r.resting_until)
        self._next = (self.replicas.index(chosen) + 1) % count
        return chosen

    def add(self, handle: Any) -> None:
        """One more replica."""
        self.replicas.append(Replica(handle))

    def retire(self) -> Replica:
        """Take the last replica out of turn; calls that it still has are its own affair."""
        return self.replicas.pop()

    def succeeded(self, replica: Replica) -> None:
        """Forget the replica's failures."""
        replica.failures, replica.resting_until = 0, 0.0

    def failed(self, replica: Replica) -> None:
        """Count a failure; from the `patience`-th in a row on, let the replica rest."""
        replica.failures += 1
        beyond = replica.failures - self.patience
        if beyond >= 0:
            replica.resting_until = self.clock() + self.rest_s * 2.0 ** min(beyond, 4)
