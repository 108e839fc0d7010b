"""Exactly-once accounting of groups: submitted == trained + dropped + lost + open, at any time."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from settings import PrismError

State = Literal["pending", "accepted", "trained", "dropped", "lost"]


class LedgerError(PrismError):
    """The caller broke the order of calls: unknown iteration, changed size, or a group outside the iteration."""


@dataclass
class _Iteration:
    first: int
    states: dict[int, State]
    counts: Counter = field(default_factory=Counter)
    reasons: dict[str, Counter] = field(default_factory=lambda: {"dropped": Counter(), "lost": Counter()})
    admitted: int = 0

    def move(self, index: int, target: State) -> None:
        self.counts[self.states[index]] -= 1
        self.counts[target] += 1
        self.states[index] = target


class Ledger:
    """State of every group of every iteration.

    pending -> accepted -> trained, pending -> dropped | lost, accepted -> dropped. The final states never change, so a
    result that arrives twice counts once. A replacement is a group of its own, submitted when the one it stands in for
    is dropped. `base` holds the totals of an earlier run that this one continues.
    """

    def __init__(self, base: dict | None = None) -> None:
        self._base = base
        self._iterations: dict[int, _Iteration] = {}

    def expect(self, iteration: int, count: int) -> None:
        """Submit an iteration of `count` groups; repeating it changes nothing, changing `count` raises LedgerError."""
        known = self._iterations.get(iteration)
        if known is None:
            self._iterations[iteration] = _Iteration(
                count, dict.fromkeys(range(count), "pending"), Counter(pending=count)
            )
        elif known.first != count:
            raise LedgerError(f"Iteration {iteration} was submitted with {known.first} groups, now with {count}.")

    def replace(self, iteration: int, index: int, successor: int, reason: str) -> bool:
        """Drop a pending group and submit its replacement in one step, so that the iteration stays incomplete.

        Returns whether it was done: not for a group that is no longer pending. Raises LedgerError when there is a group
        `successor` already.
        """
        entry = self._of(iteration, index)
        if entry.states[index] != "pending":
            return False
        if successor in entry.states:
            raise LedgerError(f"Group {successor} of iteration {iteration} was submitted before.")
        self._settle(iteration, index, "dropped", reason)
        entry.states[successor] = "pending"
        entry.counts["pending"] += 1
        return True

    def knows(self, iteration: int) -> bool:
        """Whether the iteration was submitted (and not rewound)."""
        return iteration in self._iterations

    def state(self, iteration: int, index: int) -> State:
        """State of one group."""
        return self._of(iteration, index).states[index]

    def accept(self, iteration: int, index: int) -> None:
        """pending -> accepted; any other state raises LedgerError."""
        self._advance(iteration, index, "pending", "accepted")
        self._iterations[iteration].admitted += 1

    def train(self, iteration: int, index: int) -> None:
        """accepted -> trained; any other state raises LedgerError."""
        self._advance(iteration, index, "accepted", "trained")

    def drop(self, iteration: int, index: int, reason: str) -> bool:
        """Settle as dropped unless already final. Returns whether the state changed."""
        return self._settle(iteration, index, "dropped", reason)

    def lose(self, iteration: int, index: int, reason: str) -> bool:
        """Settle as lost unless already final or accepted. Returns whether the state changed."""
        if self.state(iteration, index) == "accepted":
            return False
        return self._settle(iteration, index, "lost", reason)

    def complete(self, iteration: int) -> bool:
        """Whether every group of the iteration arrived or was settled."""
        return self.knows(iteration) and self._iterations[iteration].counts["pending"] == 0

    def trained(self, iteration: int) -> bool:
        """Whether groups of the iteration were already trained."""
        return self.knows(iteration) and self._iterations[iteration].counts["trained"] > 0

    def barren(self, iteration: int) -> bool:
        """Whether every group of the iteration was dropped or lost."""
        entry = self._of(iteration)
        return entry.counts["dropped"] + entry.counts["lost"] == len(entry.states)

    def open_groups(self) -> list[tuple[int, int]]:
        """(iteration, index) of every group that is pending or accepted."""
        return [
            (number, index)
            for number, entry in self._iterations.items()
            for index, state in entry.states.items()
            if state in ("pending", "accepted")
        ]

    def rewind(self, iteration: int) -> None:
        """Forget every iteration from this one on, as if it had never been submitted."""
        self._iterations = {number: entry for number, entry in self._iterations.items() if number < iteration}

    def reasons(self, iteration: int, state: Literal["dropped", "lost"]) -> dict[str, int]:
        """Reasons of the groups of one iteration that ended in `state`, with their counts."""
        return dict(self._of(iteration).reasons[state])

    def totals(self) -> dict:
        """{"submitted", "accepted", "trained": int, "dropped", "lost": {reason: count}, "open": int}.

        "accepted" counts every group that was ever admitted, even if dropped later. Holds at any time:
        submitted == trained + sum(dropped) + sum(lost) + open.
        """
        dropped, lost = Counter(), Counter()
        totals = {"submitted": 0, "accepted": 0, "trained": 0, "open": 0}
        if self._base:
            totals |= {name: self._base[name] for name in totals if name != "open"}
            dropped.update(self._base["dropped"])
            lost.update(self._base["lost"])
        for entry in self._iterations.values():
            totals["submitted"] += len(entry.states)
            totals["accepted"] += entry.admitted
            totals["trained"] += entry.counts["trained"]
            totals["open"] += entry.counts["pending"] + entry.counts["accepted"]
            dropped.update(entry.reasons["dropped"])
            lost.update(entry.reasons["lost"])
        return {**totals, "dropped": dict(dropped), "lost": dict(lost)}

    def _settle(self, iteration: int, index: int, state: Literal["dropped", "lost"], reason: str) -> bool:
        entry = self._of(iteration, index)
        if entry.states[index] not in ("pending", "accepted"):
            return False
        entry.move(index, state)
        entry.reasons[state][reason] += 1
        return True

    def _advance(self, iteration: int, index: int, source: State, target: State) -> None:
        entry = self._of(iteration, index)
        if entry.states[index] != source:
            raise LedgerError(
                f"Group {index} of iteration {iteration} is {entry.states[index]}; {target} was asked for."
            )
        entry.move(index, target)

    def _of(self, iteration: int, index: int = 0) -> _Iteration:
        entry = self._iterations.get(iteration)
        if entry is None or index not in entry.states:
            raise LedgerError(f"Group {index} of iteration {iteration} was never submitted.")
        return entry
