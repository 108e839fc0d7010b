"""One reward replica under Ray Serve: the same body as a plain actor, behind a loop that always answers."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ray import serve

from rewards_service.config import ScorerConfig
from rewards_service.errors import ReplicaStuckError
from rewards_service.scores import Reference, Scores
from rewards_service.service.actor import RewardActor
from rewards_service.service.border import pack_scores, unpack_request
from rewards_service.service.joined import Ask, alike, split, together

WATCH_S = 0.5
FAILURES_IN_A_ROW = 8


class ServedReward:
    """Scores one dimension in a thread of its own; a stuck call makes the replica refuse and fail its health check.

    `route` arguments are for `rewards_service.service.routing` on the caller's side; nobody reads them here.
    """

    def __init__(self, dimension: str, config: str, deadline_s: float) -> None:
        """Build the scorer and run it once. Raises RewardError when it cannot.

        config: the dimension's ScorerConfig as JSON. deadline_s: after which a running call counts as stuck.
        """
        service = ScorerConfig.model_validate_json(config).service
        self._actor = RewardActor(dimension, config)
        self._deadline_s = deadline_s
        self._worker = ThreadPoolExecutor(1, "scorer")
        self._waiting: set[asyncio.Future] = set()
        self._watching: asyncio.Task | None = None
        self._stuck = False
        self._failures = 0
        self._join = None
        if service.batch_requests > 1:
            collect = serve.batch(max_batch_size=service.batch_requests, batch_wait_timeout_s=service.batch_wait_s)
            self._join = collect(self._joined)

    async def score(
        self,
        waveforms: np.ndarray,
        sample_rate: int,
        references: list[Reference],
        detail: bool = False,
        route: Any = None,
    ) -> Scores:
        """Score (G, N, 2, S) float32 waveforms against G references. Raises ReplicaStuckError at once when stuck."""
        if self._join is None:
            return await self._in_turn(self._actor.score, waveforms, sample_rate, references, detail)
        answer = await self._join((waveforms, sample_rate, references, detail))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def score_packed(self, samples: bytes, request: str, route: Any = None) -> str:
        """`score` for callers in another environment (`rewards_service.service.border`)."""
        return pack_scores(await self.score(*unpack_request(samples, request)))

    async def health(self, route: Any = None) -> dict[str, Any]:
        """What this replica has done since it started."""
        return self._actor.health()

    def check_health(self) -> None:
        """For Serve, which replaces a replica that raises here three times in a row. Raises ReplicaStuckError.

        A scorer that has failed many calls one after another, as a broken GPU context makes it, is replaced too.
        """
        if self._late():
            raise ReplicaStuckError(f"a call has been running for {self._actor.running_s():.1f} s")
        if self._failures >= FAILURES_IN_A_ROW:
            raise ReplicaStuckError(f"the last {self._failures} calls failed")

    async def _joined(self, asks: list[Ask]) -> list[Any]:
        """Answers, or the exceptions of those that failed, to what came in together."""
        answers: list[Any] = [None] * len(asks)
        for places in alike(asks):
            answered = await self._together([asks[place] for place in places])
            for place, answer in zip(places, answered, strict=True):
                answers[place] = answer
        return answers

    async def _together(self, asks: Sequence[Ask]) -> list[Any]:
        """One call for several requests; when it fails, one for each, so that only the culprit's fails."""
        if len(asks) > 1:
            try:
                return split(await self._in_turn(self._actor.score, *together(asks)), asks)
            except ReplicaStuckError as error:
                return [error] * len(asks)
            except Exception:
                pass
        return [await self._alone(ask) for ask in asks]

    async def _alone(self, ask: Ask) -> Any:
        try:
            return await self._in_turn(self._actor.score, *ask)
        except Exception as error:
            return error

    async def _in_turn(self, function: Callable, *arguments: Any) -> Any:
        """Run in the worker thread after what is waiting there already; the loop stays free meanwhile."""
        loop = asyncio.get_running_loop()
        if self._watching is None:
            self._watching = loop.create_task(self._watch())
        if self._stuck:
            raise ReplicaStuckError("this replica is stuck in another call")
        work = loop.run_in_executor(self._worker, function, *arguments)
        self._waiting.add(work)
        try:
            answer = await work
        except asyncio.CancelledError:
            if self._stuck:
                raise ReplicaStuckError("this replica is stuck") from None
            raise
        except Exception:
            self._failures += 1
            raise
        finally:
            self._waiting.discard(work)
        self._failures = 0
        return answer

    async def _watch(self) -> None:
        """Turn everybody away once a call runs too long, and let them in again should it end."""
        while True:
            await asyncio.sleep(min(WATCH_S, self._deadline_s / 10))
            self._stuck = self._late()
            if self._stuck:
                for work in list(self._waiting):
                    work.cancel()

    def _late(self) -> bool:
        return self._actor.running_s() > self._deadline_s
