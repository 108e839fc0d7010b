"""What one rank trains on in one iteration, and how it is cut into optimiser steps and forward passes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.group import Group


@dataclass(frozen=True)
class IterationBatch:
    """The batch of one iteration: every rank knows all ids and rewards, but holds only its own groups.

    ids: all groups in index order. rewards: their {dimension: (N,)}, in the same order.
    positions: places of this rank's `groups` in `ids`.
    """

    iteration: int
    ids: tuple[str, ...]
    rewards: tuple[Mapping[str, np.ndarray], ...]
    positions: tuple[int, ...]
    groups: tuple[Group, ...]

    @classmethod
    def of(
        cls, iteration: int, groups: Sequence[Group], everyone: Mapping[str, Mapping[str, np.ndarray]] | None = None
    ) -> "IterationBatch":
        """A batch from one rank's groups; `everyone` maps all group ids of the iteration, in index order, to rewards.

        Without `everyone` the groups are the whole batch. Group ids sort in index order.
        """
        mine = sorted(groups, key=lambda group: group.index)
        rewards = {group.id: group.rewards for group in mine} if everyone is None else everyone
        ids = tuple(rewards)
        place = {name: position for position, name in enumerate(ids)}
        return cls(iteration, ids, tuple(rewards[name] for name in ids), tuple(place[g.id] for g in mine), tuple(mine))

    def minibatches(self, count: int) -> list[range]:
        """The positions of each optimiser step: contiguous, so that every rank holds a share of each."""
        edges = np.linspace(0, len(self.ids), min(count, len(self.ids)) + 1).round().astype(int)
        return [range(start, stop) for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]

    def local(self, positions: range) -> list[tuple[int, Group]]:
        """This rank's groups among `positions`, each with its position."""
        return [(p, group) for p, group in zip(self.positions, self.groups, strict=True) if p in positions]


def passes(groups: Sequence[tuple[int, Group]], limit: int | None) -> Iterator[list[tuple[int, Group]]]:
    """Runs of at most `limit` neighbouring groups whose arrays can be stacked.

    Clips of other lengths or token counts get a pass of their own: padding them would change what the policy saw.
    """
    run: list[tuple[int, Group]] = []
    for item in groups:
        if run and (len(run) == limit or _shape(item[1]) != _shape(run[0][1])):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


@dataclass(frozen=True)
class Part:
    """What one forward and backward pass sees: the same members of some groups whose arrays can be stacked.

    positions: of the groups in their batch.
    """

    positions: tuple[int, ...]
    groups: tuple[Group, ...]
    members: slice

    @property
    def key(self) -> tuple[tuple[int, ...], int]:
        """Which part of its iteration this is."""
        return self.positions, self.members.start


def parts(groups: Sequence[tuple[int, Group]], limit: int | None, members: Sequence[slice]) -> Iterator[Part]:
    """All passes over some groups; where `members` are several slices, each pass has one of them of one group."""
    for run in passes(groups, 1 if len(members) > 1 else limit):
        for chosen in members:
            yield Part(tuple(p for p, _ in run), tuple(group for _, group in run), chosen)


def _shape(group: Group) -> tuple:
    return group.latents.shape, tuple((name, array.shape) for name, array in sorted(group.conditions.items()))
