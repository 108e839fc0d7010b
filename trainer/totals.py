"""Exact running totals of a run; they live in every checkpoint, so a resumed run continues its own books."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


class GroupCount(Protocol):
    """What is counted of one trained group."""

    @property
    def nfe(self) -> int:
        """Velocity evaluations spent on sampling it."""
        ...


@dataclass
class Totals:
    """Sums over the finished iterations.

    dropped, lost: groups by reason. samples: trained ones. nfe_rollout: of trained groups. seconds: wall time by what
    the learner did or waited for.
    """

    iterations: int = 0
    trained: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    samples: int = 0
    nfe_rollout: int = 0
    nfe_trained: int = 0
    nfe_reference: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        groups: Iterable[GroupCount],
        dropped: Mapping[str, int],
        lost: Mapping[str, int],
        metrics: Mapping[str, Any],
        seconds: Mapping[str, float],
    ) -> None:
        """Count one iteration: its groups as the buffer handed them out, and the metrics of `Learner.update`."""
        counted = list(groups)
        self.iterations += 1
        self.trained += len(counted)
        self.dropped = dict(Counter(self.dropped) + Counter(dict(dropped)))
        self.lost = dict(Counter(self.lost) + Counter(dict(lost)))
        self.samples += metrics["samples"]
        self.nfe_rollout += sum(group.nfe for group in counted)
        self.nfe_trained += metrics["nfe_trained"]
        self.nfe_reference += metrics["nfe_reference"]
        self.seconds = {name: self.seconds.get(name, 0.0) + value for name, value in seconds.items()}

    def ledger(self) -> dict[str, Any]:
        """Groups of the finished iterations in the form of the buffer's ledger, as a base to continue from."""
        submitted = self.trained + sum(self.dropped.values()) + sum(self.lost.values())
        return {
            "submitted": submitted,
            "accepted": self.trained,
            "trained": self.trained,
            "open": 0,
            "dropped": dict(self.dropped),
            "lost": dict(self.lost),
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
