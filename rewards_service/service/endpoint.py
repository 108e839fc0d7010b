"""One place that answers reward requests, whatever stands behind it, and what is asked of it."""

import asyncio
from typing import Any, Protocol

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import PendingCallsLimitExceeded, RayActorError, RayError

from rewards_service.errors import RefusedError
from rewards_service.scores import Reference
from rewards_service.service.border import pack_request, unpack_scores

RETRY_POLL_S = 0.1
WATCH = "watch"
"""Concurrency group of a replica in which it is asked how long its call has been running, while that runs."""
WATCH_S = 2.0
STUCK_SHARE = 0.9


class Request:
    """One batch, asked of every dimension. waveforms: object ref of (G, N, 2, S) float32.

    failed_on: ids of Serve replicas that failed it, which a second try avoids. placed: the last one asked, by endpoint.
    """

    def __init__(self, waveforms: Any, sample_rate: int, references: list[Reference], detail: bool) -> None:
        self.waveforms, self.sample_rate, self.references, self.detail = waveforms, sample_rate, references, detail
        self.failed_on: set[str] = set()
        self.placed: dict[int, str] = {}
        self._packing: asyncio.Task | None = None

    @property
    def groups(self) -> int:
        """G."""
        return len(self.references)

    async def packed(self) -> tuple[Any, str]:
        """Arguments of `score_packed`; made once, when the first endpoint in another environment asks."""
        if self._packing is None:
            self._packing = asyncio.ensure_future(self._pack())
        return await asyncio.shield(self._packing)

    async def arguments(self, packed: bool) -> tuple[str, tuple[Any, ...]]:
        """The replica's method to call, and its arguments."""
        if packed:
            return "score_packed", await self.packed()
        return "score", (self.waveforms, self.sample_rate, self.references, self.detail)

    async def _pack(self) -> tuple[Any, str]:
        waveforms = np.asarray(await self.waveforms, np.float32)
        told = pack_request(waveforms.shape, self.sample_rate, self.references, self.detail)
        return ray.put(waveforms.tobytes()), told


class Endpoint(Protocol):
    """Answers requests; told when it did not do so in time."""

    async def score(self, request: Request, patient: bool = False) -> Any:
        """A scorer's answer. patient: wait while it is being restarted or its queue is full, rather than raise.

        Raises RefusedError for a full queue, and what Ray raises when a replica died or its scorer did.
        """
        ...

    async def give_up(self, request: Request, deadline_s: float) -> None:
        """The request was not answered within the deadline: end what keeps it, if it is stuck and that is possible."""
        ...

    def resting(self) -> int:
        """Replicas behind it that are being left alone."""
        ...


class ActorEndpoint:
    """A replica that is a plain actor. packed: it lives in another environment."""

    def __init__(self, handle: Any, packed: bool = False) -> None:
        self.handle, self.packed = handle, packed

    async def score(self, request: Request, patient: bool = False) -> Any:
        """Ask the actor. An abandoned request that it has not begun is taken back."""
        method, arguments = await request.arguments(self.packed)
        while True:
            try:
                answer = await _taken_back(getattr(self.handle, method).remote(*arguments))
                return unpack_scores(answer) if self.packed else answer
            except PendingCallsLimitExceeded:
                if not patient:
                    raise RefusedError("the replica's queue is full") from None
            except RayActorError:
                if not patient:
                    raise
            await asyncio.sleep(RETRY_POLL_S)

    async def give_up(self, request: Request, deadline_s: float) -> None:
        """Kill the actor if it is stuck; Ray starts it again. One with a long queue is left alone."""
        if isinstance(self.handle, ActorHandle) and await self._running_s() >= STUCK_SHARE * deadline_s:
            ray.kill(self.handle, no_restart=False)

    def resting(self) -> int:
        """The client's pool knows about plain actors."""
        return 0

    async def _running_s(self) -> float:
        """For how long it has been in one call; infinite when it does not say."""
        try:
            ask: Any = self.handle.running_s.options(concurrency_group=WATCH)
            return await asyncio.wait_for(ask.remote(), WATCH_S)
        except (RayActorError, PendingCallsLimitExceeded):
            return 0.0  # it is being restarted; or nobody can tell until some of its queue is taken back
        except (AttributeError, RayError, TimeoutError, ValueError):
            return float("inf")


async def _taken_back(ref: Any) -> Any:
    try:
        return await ref
    except asyncio.CancelledError:
        if isinstance(ref, ray.ObjectRef):
            ray.cancel(ref)
        raise
