"""What the actors say to each other. Arrays are numpy, so that actors without torch can carry them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rewards_service.scores import Reference
from trainer.group import Group, Window, group_id


@dataclass(frozen=True)
class Prompt:
    """One clip to sample for: its encoder features and what its sound will be judged against.

    conditions: {"video": (Tv, Cv), "text": (Tt, Ct), "sync": (Ts, Cs)} float32.
    """

    clip_id: str
    conditions: dict[str, np.ndarray]
    reference: Reference

    @property
    def shape(self) -> tuple:
        """What must agree between prompts that are sampled in one batch."""
        return self.reference.seconds, *(self.conditions[name].shape for name in sorted(self.conditions))


@dataclass(frozen=True)
class RolloutTask:
    """One call to a rollout actor: prompts of one iteration whose clips have the same length and token counts.

    version: the weights to sample with. indices: of the groups within their iteration (`actors.schedule`).
    A task that is sent again keeps its indices, so its groups keep their ids and their noise; its version may be newer.
    """

    iteration: int
    version: int
    window: Window
    indices: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    seed: int

    @property
    def group_ids(self) -> tuple[str, ...]:
        """Names of the groups this task produces, in order."""
        return tuple(group_id(self.iteration, index) for index in self.indices)


@dataclass(frozen=True)
class GroupInfo:
    """What is known about a group without its arrays: all that the coordinator and every rank need of it."""

    id: str
    index: int
    clip_id: str
    version: int
    nfe: int
    rewards: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, group: Group) -> "GroupInfo":
        """The description of a group."""
        return cls(group.id, group.index, group.clip_id, group.version, group.nfe_rollout, group.rewards)


@dataclass(frozen=True)
class RolloutResult:
    """What a rollout actor says about a task; the groups themselves and their waveforms travel as objects of their own.

    groups: in the order of the task, without rewards. members: samples per group. seconds: wall time on the task.
    """

    groups: list[GroupInfo]
    members: int
    sample_rate: int
    seconds: float
    pid: int

    @property
    def samples(self) -> int:
        """Waveforms of the task."""
        return self.members * len(self.groups)

    @property
    def nfe(self) -> int:
        """Velocity evaluations of the task."""
        return sum(group.nfe for group in self.groups)


@dataclass(frozen=True)
class Admission:
    """The buffer's answer to one group.

    reason: "" when accepted, else duplicate (accepted before), unexpected, settled, stale, full, or gone (its arrays
    were lost with the machine that held them).
    """

    accepted: bool
    reason: str = ""


@dataclass(frozen=True)
class Batch:
    """One iteration's accepted groups under a lease.

    refs: object refs of the packs (lists of groups) that hold this rank's groups: accepted groups in index order,
    [rank::world]. places: (position in refs, position in that pack) of each of them.
    groups: metadata of all accepted groups in index order, the same on every rank.
    stop: a stop was requested before this iteration was handed out; refs and groups are empty then.
    """

    iteration: int
    lease: str
    refs: list[Any] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    groups: list[GroupInfo] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    stop: bool = False

    def select(self, packs: list[list[Group]]) -> list[Group]:
        """This rank's groups out of what `refs` point to."""
        return [packs[pack][place] for pack, place in self.places]


@dataclass(frozen=True)
class IterationRecord:
    """What one iteration of sampling and scoring cost and earned.

    groups: accepted. samples, nfe: sampled, whether or not their groups were accepted. missing: scores, per dimension.
    reward, reward_std: per dimension, mean over the accepted samples and mean within-group standard deviation.
    seconds: wall time with at least one rollout ("rollout") or score call ("reward") of this iteration in flight.
    staleness: iteration minus the version of the weights it was sampled with. refilled: flat groups that were replaced.
    replicas: of each reward dimension, at the end of the iteration.
    """

    iteration: int
    version: int
    window: Window
    staleness: int
    groups: int
    samples: int
    nfe: int
    reward: dict[str, float]
    reward_std: dict[str, float]
    missing: dict[str, int]
    seconds: dict[str, float]
    resubmitted: int
    refilled: int
    replicas: dict[str, int] = field(default_factory=dict)
