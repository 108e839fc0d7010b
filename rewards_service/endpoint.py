"""One place that answers reward requests, whatever stands behind it, and what is asked of it."""

import asyncio
from typing import Any, Protocol

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from rewards_service.border import pack_request, unpack_scores
from rewards_service.scores import Reference

RESTART_POLL_S = 0.2


class Request:
    """One batch, asked of every dimension. waveforms: object ref of (G, N, 2, S) float32."""

    def __init__(self, waveforms: Any, sample_rate: int, references: list[Reference], detail: bool) -> None:
        self.waveforms, self.sample_rate, self.references, self.detail = waveforms, sample_rate, references, detail
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

    async def _pack(self) -> tuple[Any, str]:
        waveforms = np.asarray(await self.waveforms, np.float32)
        told = pack_request(waveforms.shape, self.sample_rate, self.references, self.detail)
        return ray.put(waveforms.tobytes()), told


class Endpoint(Protocol):
    """Answers requests; told when it did not do so in time."""

    async def score(self, request: Request, patient: bool = False) -> Any:
        """A scorer's answer. patient: wait while it is being restarted, rather than raise."""
        ...

    def give_up(self) -> None:
        """It has not answered within the deadline: end what it is doing, if that is possible."""
        ...


class ActorEndpoint:
    """A replica that is a plain actor. packed: it lives in another environment."""

    def __init__(self, handle: Any, packed: bool = False) -> None:
        self.handle, self.packed = handle, packed

    async def score(self, request: Request, patient: bool = False) -> Any:
        """Ask the actor. Raises what Ray raises when it died or its scorer did."""
        while True:
            try:
                if self.packed:
                    return unpack_scores(await self.handle.score_packed.remote(*await request.packed()))
                return await self.handle.score.remote(
                    request.waveforms, request.sample_rate, request.references, request.detail
                )
            except RayActorError:
                if not patient:
                    raise
                await asyncio.sleep(RESTART_POLL_S)

    def give_up(self) -> None:
        """Kill the stuck actor; Ray starts it again."""
        if isinstance(self.handle, ActorHandle):
            ray.kill(self.handle, no_restart=False)
