"""One iteration on its way from prompts to the buffer, and its summary."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from actors.clock import BusyClock
from actors.messages import GroupInfo, IterationRecord
from rewards_service.scores import Scores
from trainer.group import Window


@dataclass
class Progress:
    """What has happened so far. epoch: the buffer's rewinds so far, sent with every call about this iteration.

    samples_expected: of the groups the iteration ends with, one per slot. gaps: missing scores per dimension by group
    index; reason: of one of them. gated: dimensions that say nothing about a group's prompt, by index. flat: groups
    whose rewards do not vary, by index. replaced: indices of those that another group stands in for; refilled: how many
    the buffer took note of.
    """

    epoch: int
    window: Window
    samples_expected: int
    groups: list[GroupInfo] = field(default_factory=list)
    gaps: dict[int, dict[str, int]] = field(default_factory=dict)
    gated: dict[int, set[str]] = field(default_factory=dict)
    reason: str = ""
    flat: dict[int, GroupInfo] = field(default_factory=dict)
    replaced: set[int] = field(default_factory=set)
    refilled: int = 0
    samples: int = 0
    nfe: int = 0
    resubmitted: int = 0
    rollout: BusyClock = field(default_factory=BusyClock)
    reward: BusyClock = field(default_factory=BusyClock)

    def score(self, groups: list[GroupInfo], scores: Mapping[str, Scores]) -> None:
        """Give each group its row of every dimension and count what is missing."""
        for name, scored in scores.items():
            self.reason = next(iter(scored.missing.values()), self.reason)
            for place, (group, row) in enumerate(zip(groups, scored.values, strict=True)):
                group.rewards[name] = np.asarray(row, dtype=np.float64)
                gated = place in scored.gated
                self.gaps.setdefault(group.index, {})[name] = 0 if gated else int(np.isnan(row).sum())
                if gated:
                    self.gated.setdefault(group.index, set()).add(name)

    @property
    def missing(self) -> dict[str, int]:
        """Missing scores per dimension, of all groups."""
        total: dict[str, int] = {}
        for gaps in self.gaps.values():
            for name, count in gaps.items():
                total[name] = total.get(name, 0) + count
        return total

    @property
    def missing_share(self) -> tuple[float, str]:
        """The dimension that misses most, and its share of missing scores in the iteration's final groups so far.

        A replaced group counts neither above nor below the line. So the share can only grow while the iteration runs,
        and whether it ends too high does not depend on which task finishes first.
        """
        kept = [gaps for index, gaps in self.gaps.items() if index not in self.replaced]
        totals = {name: sum(gaps[name] for gaps in kept) for name in self.missing}
        worst = max(totals, key=lambda name: totals[name], default="")
        return totals.get(worst, 0) / self.samples_expected, worst

    def record(self, iteration: int, replicas: Mapping[str, int]) -> IterationRecord:
        """The summary, once every group is delivered or settled; needs at least one accepted group."""
        names = self.groups[0].rewards
        tables = {name: np.stack([group.rewards[name] for group in self.groups]) for name in names}
        oldest = min(group.version for group in self.groups)
        return IterationRecord(
            iteration=iteration,
            version=oldest,
            window=self.window,
            staleness=iteration - oldest,
            groups=len(self.groups),
            samples=self.samples,
            nfe=self.nfe,
            reward={name: _mean(table) for name, table in tables.items()},
            reward_std={name: _mean(np.array([_std(row) for row in table])) for name, table in tables.items()},
            missing=self.missing,
            seconds={"rollout": self.rollout.seconds, "reward": self.reward.seconds},
            resubmitted=self.resubmitted,
            refilled=self.refilled,
            replicas=dict(replicas),
        )


def _mean(values: np.ndarray) -> float:
    """Mean of what is there; NaN when nothing is."""
    found = values[~np.isnan(values)]
    return float(found.mean()) if found.size else float("nan")


def _std(values: np.ndarray) -> float:
    found = values[~np.isnan(values)]
    return float(found.std()) if found.size else float("nan")
