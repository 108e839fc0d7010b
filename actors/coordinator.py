"""The coordinator: decides what is sampled when, and takes every group from prompt to buffer exactly once."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ray.exceptions import RayError

from actors.clock import BusyClock
from actors.config import RolloutConfig
from actors.flat import FLAT, flatness, nothing_varies
from actors.messages import Admission, IterationRecord, Prompt, RolloutTask
from actors.metrics import RolloutMetrics
from actors.missing import rejection
from actors.pool import Produced, TaskLostError, WorkerPool
from actors.progress import Progress
from actors.schedule import admissible, prompts_of, split
from rewards_service.scores import Reference, Scores
from settings import PrismError
from trainer.config import AlgorithmConfig
from trainer.group import Window
from trainer.windows import SpreadHistory, window

_RATE_WINDOW_S = 10.0
_ROOM_POLL_S = 0.1


class CoordinatorError(PrismError):
    """The run cannot go on: the message says which part failed and why."""


class Rewards(Protocol):
    """What the coordinator needs of the reward client; failures come back as missing scores, not as exceptions."""

    async def score_all(
        self,
        waveforms: Any,
        sample_rate: int,
        references: list[Reference],
        detail: bool = False,
        members: int | None = None,
    ) -> Mapping[str, Scores]:
        """Scores by dimension of (G, N, 2, S) waveforms behind an object ref; members is N."""
        ...

    async def scale(self, dimension: str, replicas: int, max_replicas: int | None = None) -> dict[str, int]:
        """Another number of replicas for one dimension. Raises PrismError."""
        ...

    async def replicas(self) -> Mapping[str, Mapping[str, int]]:
        """{"running", "wanted"} replicas of each dimension."""
        ...

    async def status(self) -> Mapping[str, Mapping[str, int]]:
        """What is known about each dimension's replicas."""
        ...


@dataclass(frozen=True)
class RunPlan:
    """What a run samples. iterations: the whole run's; nothing is sampled for later ones.

    weights: of the reward dimensions; those with one decide what is flat. missing: what becomes of a group with missing
    scores (`actors.missing`). max_missing_share: of one iteration's scores; with more missing the run stops.
    """

    seed: int
    iterations: int
    algorithm: AlgorithmConfig
    rollout: RolloutConfig
    weights: Mapping[str, float]
    missing: Literal["drop", "mask"] = "drop"
    max_missing_share: float = 0.5
    rpc_deadline_s: float = 60.0


@dataclass(frozen=True)
class _Work:
    """What the tasks of one iteration share. announced: the buffer expects it. previous: the iteration before."""

    progress: Progress
    announced: asyncio.Future
    previous: asyncio.Task | None
    tasks: asyncio.TaskGroup


class Coordinator:
    """Plain async class; start it with `ray.remote`. Idle until the learner's first `rewind` or `advance`.

    As caller of the rollout actors it owns their waveforms, so those outlive the actor that made them. Everything it
    decides is a function of (seed, iteration) and of what was scored; what happens in which order does not change any
    group. A group whose rewards are flat is dropped, and another prompt is sampled in its place.
    """

    def __init__(
        self,
        plan: RunPlan,
        prompts: Sequence[Prompt],
        workers: list[Any],
        buffer: Any,
        rewards: Callable[[], Rewards],
    ) -> None:
        if not prompts:
            raise CoordinatorError("There are no prompts to sample for; check the data section of the recipe.")
        self._plan = plan
        self._prompts = prompts
        self._pool = WorkerPool(workers, plan.rollout)
        self._buffer = buffer
        self._rewards = rewards()
        self._metrics = RolloutMetrics()
        self._version = -1
        self._epoch = 0
        self._next = 0
        self._spreads = self._unmeasured(0)
        self._stop = False
        self._error = ""
        self._running: dict[int, asyncio.Task] = {}
        self._records: dict[int, IterationRecord] = {}
        self._rollout = BusyClock()
        self._reward = BusyClock()
        self._recent: deque[tuple[float, int, int]] = deque()
        self._totals = {"groups": 0, "samples": 0, "nfe": 0}

    async def start(self) -> None:
        """Wait until every rollout actor has built its model. Raises PoolError when one cannot."""
        await self._pool.start()

    async def advance(self, version: int, spreads: Mapping[int, float] | None = None) -> None:
        """The learner finished `version` iterations and published its weights under that number. Idempotent.

        spreads: what it measured so far (`trainer.windows`); None when it measures nothing. Raises ObjectiveError when
        windows that may start now need the spreads of a version that was left out.
        """
        if self._version < 0:
            self._next = version
            self._spreads = self._unmeasured(version)
        if version > self._version:
            self._spreads.put(version, spreads or {})
        self._version = max(self._version, version)
        self._metrics.version(self._version)
        self._admit()

    async def rewind(self, iteration: int, states: Mapping[int, Mapping[int, float]] | None = None) -> None:
        """The learner (re)starts at `iteration`, whose weights are published: abandon it and all later ones.

        states: the learner's spreads by version (`trainer.windows.SpreadHistory.states`); None when it has none.
        """
        running = [task for number, task in self._running.items() if number >= iteration]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._epoch = await self._call(self._buffer.rewind.remote(iteration))
        self._records = {number: record for number, record in self._records.items() if number < iteration}
        self._spreads = self._unmeasured(iteration) if states is None else SpreadHistory(self._spreads.lag, states)
        self._version = self._next = iteration
        self._error = ""
        self._metrics.version(iteration)
        self._admit()

    async def request_stop(self) -> None:
        """Admit nothing more and let the learner stop at its next batch."""
        self._stop = True
        await self._call(self._buffer.request_stop.remote())

    async def record(self, iteration: int) -> IterationRecord | None:
        """What an iteration cost and earned; None until all its groups are delivered or settled."""
        return self._records.get(iteration)

    async def records(self, first: int = 0) -> list[IterationRecord]:
        """Records of finished iterations from `first` on, in order."""
        return [self._records[number] for number in sorted(self._records) if number >= first]

    async def status(self) -> dict[str, Any]:
        """Where the run stands, for the live view.

        {"version", "next_iteration", "in_flight", "restarts", "resubmitted", "error", "staleness",
        "reward": {dim: mean}, "rollouts_per_s" (groups), "samples_per_s", "seconds": {"rollout", "reward"},
        "totals": {"groups", "samples", "nfe"}, "buffer": its status}.
        """
        last = self._records[max(self._records)] if self._records else None
        groups, samples = self._rates()
        return {
            "version": self._version,
            "next_iteration": self._next,
            "in_flight": self._pool.in_flight,
            "restarts": self._pool.restarts,
            "resubmitted": self._pool.resubmitted,
            "error": self._error,
            "staleness": last.staleness if last else 0,
            "reward": dict(last.reward) if last else {},
            "rollouts_per_s": groups,
            "samples_per_s": samples,
            "seconds": {"rollout": self._rollout.seconds, "reward": self._reward.seconds},
            "totals": dict(self._totals),
            "buffer": await self._call(self._buffer.status.remote()),
        }

    async def rewards_status(self) -> Mapping[str, Mapping[str, int]]:
        """Replicas and calls of each reward dimension."""
        return await self._rewards.status()

    async def scale_rewards(self, dimension: str, replicas: int, max_replicas: int | None = None) -> dict[str, int]:
        """Give a dimension another number of replicas while the run goes on. Raises RewardError."""
        return await self._rewards.scale(dimension, replicas, max_replicas)

    def _admit(self) -> None:
        """Start every iteration that bounded staleness allows."""
        staleness = self._plan.rollout.max_staleness
        while (
            not self._stop
            and not self._error
            and self._next < self._plan.iterations
            and admissible(self._next, self._version, staleness)
        ):
            chosen = window(self._plan.seed, self._next, self._plan.algorithm, self._spreads.at(self._next))
            previous = self._running.get(self._next - 1)
            self._running[self._next] = asyncio.ensure_future(self._run(self._next, chosen, previous))
            self._next += 1

    def _unmeasured(self, version: int) -> SpreadHistory:
        """The history of a learner that stands at `version` and has measured nothing."""
        lag = self._plan.rollout.max_staleness
        return SpreadHistory(lag, {known: {} for known in range(max(0, version - lag), version + 1)})

    async def _run(self, iteration: int, chosen: Window, previous: asyncio.Task | None) -> None:
        try:
            await self._iterate(iteration, chosen, previous)
        except (PrismError, RayError, TimeoutError) as error:
            await self._fail(f"Iteration {iteration} could not be sampled: {error or type(error).__name__}")
        except Exception as error:
            await self._fail(f"Iteration {iteration} broke the coordinator: {type(error).__name__}: {error}")
            raise
        finally:
            self._running.pop(iteration, None)

    async def _iterate(self, iteration: int, chosen: Window, previous: asyncio.Task | None) -> None:
        slots = self._plan.algorithm.prompts
        progress = Progress(self._epoch, chosen, slots * self._plan.algorithm.group_size)
        announced = asyncio.ensure_future(self._call(self._buffer.expect.remote(iteration, slots, progress.epoch)))
        try:
            async with asyncio.TaskGroup() as tasks:
                self._send(iteration, range(slots), _Work(progress, announced, previous, tasks))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if not progress.groups:
            return  # the buffer tells the learner why
        self._records[iteration] = progress.record(iteration, await self._replicas())
        self._metrics.iteration(self._records[iteration])

    def _send(self, iteration: int, indices: Sequence[int], work: _Work) -> None:
        """Start the tasks of these groups: as many prompts in one as have a common shape and rollout allows."""
        plan = self._plan
        places = prompts_of(plan.seed, iteration, indices, plan.algorithm.prompts, len(self._prompts))
        prompts = [self._prompts[place] for place in places]
        for part in split([prompt.shape for prompt in prompts], plan.rollout.prompts_per_task):
            task = RolloutTask(
                iteration=iteration,
                version=self._version,
                window=work.progress.window,
                indices=tuple(indices[place] for place in part),
                prompts=tuple(prompts[place] for place in part),
                seed=plan.seed,
            )
            work.tasks.create_task(self._produce(task, work))

    async def _produce(self, task: RolloutTask, work: _Work) -> None:
        """Take one task from prompts to the buffer, which learns of the iteration meanwhile.

        Sampled anew when its groups were lost with the machine that held them.
        """
        reason = ""
        for _ in range(self._plan.rollout.max_attempts):
            try:
                with self._rollout.running(), work.progress.rollout.running():
                    done = await self._pool.run(task, lambda: self._version)
            except TaskLostError as error:
                reason = str(error)
                break
            self._count(done, work.progress)
            refused = await self._score(task, done, work.progress)
            await work.announced
            await self._refill(task.iteration, refused, work)
            if work.previous is not None:
                # In order of iterations, so that a full buffer never holds only what the learner does not want yet.
                await asyncio.wait([work.previous])
            if await self._deliver(task.iteration, done, refused, work.progress):
                return
            reason = "the machine that held it is gone"
        await work.announced
        self._metrics.lost(reason, len(task.prompts))
        await self._call(self._buffer.lose.remote(task.iteration, list(task.indices), reason, work.progress.epoch))

    async def _score(self, task: RolloutTask, done: Produced, progress: Progress) -> dict[int, str]:
        """Score a task's groups; returns why some of them may not be trained on, by index."""
        references = [prompt.reference for prompt in task.prompts]
        with self._reward.running(), progress.reward.running():
            scores = await self._rewards.score_all(
                done.waveforms, done.result.sample_rate, references, members=done.result.members
            )
        groups = done.result.groups
        progress.score(groups, scores)
        plan = self._plan
        refused = {
            group.index: rejection(group.rewards, plan.missing, progress.gated.get(group.index, ()))
            or flatness(group.rewards, plan.weights, plan.algorithm)
            for group in groups
        }
        progress.flat |= {group.index: group for group in groups if refused[group.index] == FLAT}
        progress.replaced |= self._successors(refused).keys()
        self._check_missing(progress)
        return {index: reason for index, reason in refused.items() if reason}

    def _successors(self, refused: Mapping[int, str]) -> dict[int, int]:
        """Flat groups that may be replaced, with their replacements."""
        slots, refills = self._plan.algorithm.prompts, self._plan.algorithm.refills
        return {index: index + slots for index, why in refused.items() if why == FLAT and index < slots * refills}

    async def _refill(self, iteration: int, refused: Mapping[int, str], work: _Work) -> None:
        """Drop flat groups and sample others in their place; the buffer never sees the one without the other."""
        successors = self._successors(refused)
        if not successors:
            return
        replaced = await self._call(self._buffer.replace.remote(iteration, successors, FLAT, work.progress.epoch))
        if not replaced:
            return
        work.progress.refilled += len(replaced)
        self._metrics.refilled(len(replaced))
        self._metrics.dropped(FLAT, len(replaced))
        self._send(iteration, [successors[index] for index in replaced], work)

    def _check_missing(self, progress: Progress) -> None:
        """Called before delivery, so that the learner never trains on an iteration beyond the limit."""
        share, worst = progress.missing_share
        if share > self._plan.max_missing_share:
            raise CoordinatorError(
                f"{share:.1%} of its {worst} scores are missing ({progress.missing}), more than "
                f"rewards.max_missing_share = {self._plan.max_missing_share:g} allows; last reason: {progress.reason}."
            )

    async def _deliver(self, iteration: int, done: Produced, refused: Mapping[int, str], progress: Progress) -> bool:
        """Hand groups to the buffer or drop them; False when their arrays are gone and they must be sampled again."""
        kept = [group for group in done.result.groups if group.index not in refused]
        replaced = self._successors(refused)
        dropped: dict[str, list[int]] = {}
        for index, reason in refused.items():
            if index not in replaced:
                dropped.setdefault(reason, []).append(index)
        for reason, indices in dropped.items():
            note = self._hopeless(iteration, progress) if reason == FLAT else ""
            self._metrics.dropped(reason, len(indices))
            await self._call(self._buffer.drop.remote(iteration, indices, reason, progress.epoch, note))
        while kept:
            # Read before the call: the learner frees an iteration before it advances past it.
            needed = self._version >= iteration
            answers = await self._call(self._buffer.add.remote(iteration, kept, [done.groups], progress.epoch))
            progress.groups += [group for group, answer in zip(kept, answers, strict=True) if answer == Admission(True)]
            if any(answer.reason == "gone" for answer in answers):
                return False
            kept = [group for group, answer in zip(kept, answers, strict=True) if answer.reason == "full"]
            if kept and needed:
                raise CoordinatorError(
                    "its groups alone fill the experience buffer; raise buffer.max_items and buffer.max_bytes, or "
                    "lower algorithm.prompts."
                )
            if kept:
                await asyncio.sleep(_ROOM_POLL_S)
        return True

    def _hopeless(self, iteration: int, progress: Progress) -> str:
        """What to tell the learner once every slot ended with a flat group; "" before that."""
        algorithm = self._plan.algorithm
        spent = sum(index >= algorithm.prompts * algorithm.refills for index in progress.flat)
        if spent < algorithm.prompts or progress.groups:
            return ""
        return nothing_varies(iteration, progress.flat.values(), self._plan.weights, algorithm)

    async def _replicas(self) -> dict[str, int]:
        """Of each reward dimension; nothing when the service does not say so in time, which is no reason to stop."""
        try:
            async with asyncio.timeout(self._plan.rpc_deadline_s):
                return {name: counts["running"] for name, counts in (await self._rewards.replicas()).items()}
        except (TimeoutError, RayError):
            return {}

    def _count(self, done: Produced, progress: Progress) -> None:
        groups, samples, nfe = len(done.result.groups), done.result.samples, done.result.nfe
        progress.resubmitted += done.attempts - 1
        progress.samples += samples
        progress.nfe += nfe
        self._totals["groups"] += groups
        self._totals["samples"] += samples
        self._totals["nfe"] += nfe
        self._recent.append((time.monotonic(), groups, samples))
        self._metrics.produced(groups, samples, nfe)

    def _rates(self) -> tuple[float, float]:
        """Groups and samples per second over the last seconds."""
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > _RATE_WINDOW_S:
            self._recent.popleft()
        if not self._recent:
            return 0.0, 0.0
        span = max(now - self._recent[0][0], 1e-3)
        return sum(g for _, g, _ in self._recent) / span, sum(s for _, _, s in self._recent) / span

    async def _fail(self, reason: str) -> None:
        self._error = self._error or reason
        await self._call(self._buffer.fail.remote(self._error))

    async def _call(self, ref: Any) -> Any:
        async with asyncio.timeout(self._plan.rpc_deadline_s):
            return await ref
