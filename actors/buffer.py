"""The experience buffer: owner of accepted groups between the rollout pool and the learner."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError

from actors.config import BufferConfig
from actors.ledger import Ledger
from actors.messages import Admission, Batch, GroupInfo
from actors.metrics import BufferMetrics
from settings import PrismError
from trainer.group import Group


class ExperienceError(PrismError):
    """The buffer cannot serve the learner: the run failed upstream, or the calls came in an impossible order."""


@dataclass(frozen=True)
class _Held:
    info: GroupInfo
    ref: Any
    place: int
    nbytes: int


@dataclass
class _Lease:
    name: str
    iteration: int
    world: int
    expires: float


def packs(groups: list[Group], limit: int) -> Iterator[list[Group]]:
    """Runs of neighbouring groups of at most `limit` bytes together, one group at least."""
    run: list[Group] = []
    for group in groups:
        if run and sum(g.nbytes for g in run) + group.nbytes > limit:
            yield run
            run = []
        run.append(group)
    if run:
        yield run


class ExperienceBuffer:
    """Bounded store of groups, handed out iteration by iteration under leases.

    Plain async class; start it with `ray.remote`. The buffer puts each group into the object store itself, so no
    producer's death loses what was accepted. Adding is idempotent by group id. `epoch` counts rewinds: what was sent
    before a rewind is refused after it.
    """

    def __init__(
        self,
        config: BufferConfig,
        base: dict | None = None,
        clock: Callable[[], float] = time.monotonic,
        put: Callable[[Any], Any] = ray.put,
    ) -> None:
        self._config = config
        self._clock = clock
        self._put = put
        self._ledger = Ledger(base)
        self._held: dict[tuple[int, int], _Held] = {}
        self._bytes = 0
        self._epoch = 0
        self._lease: _Lease | None = None
        self._leases = 0
        self._expired = 0
        self._peak = (0, 0)
        self._stop = False
        self._stopped_at: int | None = None
        self._failure: str | None = None
        self._notes: dict[int, str] = {}
        self._metrics = BufferMetrics()
        self._changed = asyncio.Condition()

    async def expect(self, iteration: int, count: int, epoch: int = 0) -> None:
        """Announce an iteration of `count` groups, before anything else about it. Idempotent."""
        if epoch == self._epoch:
            self._ledger.expect(iteration, count)

    async def add(self, iteration: int, infos: list[GroupInfo], payload: list[Any], epoch: int = 0) -> list[Admission]:
        """Take the groups described, one answer each; what is refused as "full" may be sent again once there is room.

        infos: with rewards. payload: [object ref of a list with those groups]; wrapped, so that a lost object is
        noticed here and answered with "gone".
        """
        try:
            async with asyncio.timeout(self._config.rpc_deadline_s):
                groups = {group.index: group for group in await payload[0]}
        except (RayError, TimeoutError):
            return [Admission(False, "gone")] * len(infos)
        rewarded = [replace(groups[info.index], rewards=info.rewards) for info in infos]
        answers = self._admit(iteration, rewarded, epoch)
        accepted = [group for group, answer in zip(rewarded, answers, strict=True) if answer == Admission(True)]
        for run in packs(accepted, self._config.pack_bytes):
            ref = self._put(run)
            for place, group in enumerate(run):
                self._held[iteration, group.index] = _Held(GroupInfo.of(group), ref, place, group.nbytes)
                self._bytes += group.nbytes
                self._ledger.accept(iteration, group.index)
        self._peak = (max(self._peak[0], len(self._held)), max(self._peak[1], self._bytes))
        await self._notify()
        return answers

    async def replace(self, iteration: int, successors: dict[int, int], reason: str, epoch: int = 0) -> list[int]:
        """Drop groups of an iteration and expect others in their place, {index: index of its replacement}.

        One step, so that the iteration never looks complete in between. Returns the indices that were replaced: not
        those settled or accepted before, and none after a rewind.
        """
        if epoch != self._epoch:
            return []
        return [index for index, other in successors.items() if self._ledger.replace(iteration, index, other, reason)]

    async def drop(self, iteration: int, indices: list[int], reason: str, epoch: int = 0, note: str = "") -> None:
        """Settle groups of an iteration as dropped (their rewards are missing, say), unless they were accepted.

        note: what the learner is told should no group of the iteration survive.
        """
        if note and epoch == self._epoch:
            self._notes[iteration] = note
        pending = [index for index in indices if (iteration, index) not in self._held]
        await self._settle(self._ledger.drop, iteration, pending, reason, epoch)

    async def lose(self, iteration: int, indices: list[int], reason: str, epoch: int = 0) -> None:
        """Settle groups of an iteration as lost (no rollout actor could produce them)."""
        await self._settle(self._ledger.lose, iteration, indices, reason, epoch)

    async def take(self, iteration: int, rank: int, world: int, timeout_s: float) -> Batch:
        """This rank's shard of an iteration, once each of its groups arrived or was settled.

        All ranks of one iteration get the same lease, and all get either the batch or `stop`. Raises TimeoutError after
        `timeout_s` seconds, ExperienceError when the run failed upstream, when no group of the iteration
        survived, or when it cannot be handed out.
        """
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(
                lambda: self._failure or self._stops(iteration) or self._ledger.complete(iteration)
            )
        if self._failure:
            raise ExperienceError(self._failure)
        if self._stops(iteration):
            self._stopped_at = iteration
            return Batch(iteration, lease="", stop=True)
        if self._ledger.barren(iteration):
            dropped, lost = (self._ledger.reasons(iteration, state) for state in ("dropped", "lost"))
            raise ExperienceError(
                self._notes.get(iteration)
                or f"Not one group of iteration {iteration} survived: dropped {dropped}, lost {lost}; see the logs of "
                "the reward and rollout actors."
            )
        lease = self._lease_for(iteration, world)
        held = [self._held[key] for key in sorted(self._held) if key[0] == iteration]
        mine = held[rank::world]
        refs = list({id(h.ref): h.ref for h in mine}.values())
        return Batch(
            iteration=iteration,
            lease=lease.name,
            refs=refs,
            places=[(refs.index(h.ref), h.place) for h in mine],
            groups=[h.info for h in held],
            dropped=self._ledger.reasons(iteration, "dropped"),
            lost=self._ledger.reasons(iteration, "lost"),
        )

    async def ack(self, lease: str) -> bool:
        """Count the leased groups as trained and free them.

        A late ack of an expired lease is accepted as long as nobody else took the batch meanwhile. Returns False for a
        lease that is not the current one: its batch was handed out anew, rewound, or acknowledged before.
        """
        if self._lease is None or self._lease.name != lease:
            return False
        iteration = self._lease.iteration
        for key in [key for key in self._held if key[0] == iteration]:
            self._ledger.train(*key)
            self._free(key)
        self._lease = None
        await self._notify()
        return True

    async def rewind(self, iteration: int) -> int:
        """Forget every iteration from this one on; returns the new epoch. A failure is forgiven."""
        for key in [key for key in self._held if key[0] >= iteration]:
            self._free(key)
        self._ledger.rewind(iteration)
        if self._lease and self._lease.iteration >= iteration:
            self._lease = None
        self._stopped_at = None
        self._failure = None
        self._notes = {number: note for number, note in self._notes.items() if number < iteration}
        self._epoch += 1
        await self._notify()
        return self._epoch

    async def request_stop(self) -> None:
        """Let the learner's next `take` of an iteration that no rank has yet return `stop`."""
        self._stop = True
        await self._notify()

    async def fail(self, reason: str) -> None:
        """Let every `take` raise ExperienceError with this reason."""
        self._failure = reason
        await self._notify()

    async def finish(self, reason: str = "stopped") -> dict:
        """Drop whatever was submitted and not trained, free all memory and return the final ledger."""
        for key in self._ledger.open_groups():
            self._ledger.drop(*key, reason)
        for key in list(self._held):
            self._free(key)
        self._lease = None
        await self._notify()
        return self._ledger.totals()

    async def ledger(self) -> dict:
        """Totals: submitted, accepted, trained, open, dropped {reason: n}, lost {reason: n}."""
        return self._ledger.totals()

    async def status(self) -> dict:
        """{"items", "bytes", "peak_items", "peak_bytes", "leased", "expired_leases", "stop", "failure", "epoch"}."""
        self._expire()
        return {
            "items": len(self._held),
            "bytes": self._bytes,
            "peak_items": self._peak[0],
            "peak_bytes": self._peak[1],
            "leased": self._lease is not None and self._lease.expires > self._clock(),
            "expired_leases": self._expired,
            "stop": self._stop,
            "failure": self._failure,
            "epoch": self._epoch,
        }

    def _stops(self, iteration: int) -> bool:
        """Whether this iteration ends the run: once one rank has its batch, the others must get theirs too."""
        if self._stopped_at == iteration:
            return True
        begun = self._lease is not None and self._lease.iteration == iteration
        return self._stop and not begun

    def _admit(self, iteration: int, groups: list[Group], epoch: int) -> list[Admission]:
        """What becomes of each group, in order, as far as there is room."""
        answers, items, nbytes = [], len(self._held), self._bytes
        for group in groups:
            answer = self._known(iteration, group.index, epoch)
            if answer is None and (items == self._config.max_items or nbytes + group.nbytes > self._config.max_bytes):
                answer = Admission(False, "full")
            if answer is None:
                answer, items, nbytes = Admission(True), items + 1, nbytes + group.nbytes
            answers.append(answer)
        return answers

    def _known(self, iteration: int, index: int, epoch: int) -> Admission | None:
        """The answer that does not depend on room; None for a group that is waited for."""
        if epoch != self._epoch:
            return Admission(False, "stale")
        if not self._ledger.knows(iteration):
            return Admission(False, "unexpected")
        state = self._ledger.state(iteration, index)
        if state == "pending":
            return None
        return Admission(True, "duplicate") if state in ("accepted", "trained") else Admission(False, "settled")

    async def _settle(
        self, settle: Callable[..., bool], iteration: int, indices: list[int], reason: str, epoch: int
    ) -> None:
        if epoch != self._epoch:
            return
        for index in indices:
            settle(iteration, index, reason)
        await self._notify()

    def _lease_for(self, iteration: int, world: int) -> _Lease:
        self._expire()
        live = self._lease
        if live and live.expires > self._clock():
            if live.iteration != iteration or live.world != world:
                raise ExperienceError(
                    f"Iteration {iteration} was asked for by a world of {world} while iteration {live.iteration} is "
                    f"leased to a world of {live.world}; acknowledge that lease or rewind first."
                )
            return live
        if self._ledger.trained(iteration):
            raise ExperienceError(f"Iteration {iteration} was trained already; rewind to train it again.")
        self._leases += 1
        self._lease = _Lease(
            f"{iteration}:{self._epoch}:{self._leases}", iteration, world, self._clock() + self._config.lease_s
        )
        return self._lease

    def _expire(self) -> None:
        """Count an overdue lease once; its batch may be taken again, or still be acknowledged until it is."""
        if self._lease and self._lease.expires <= self._clock() and self._lease.expires != float("-inf"):
            self._lease.expires = float("-inf")
            self._expired += 1

    def _free(self, key: tuple[int, int]) -> None:
        self._bytes -= self._held.pop(key).nbytes

    async def _notify(self) -> None:
        self._metrics.held(len(self._held), self._bytes)
        async with self._changed:
            self._changed.notify_all()
