"""The learner's side of its conversation with buffer, weight store and coordinator: every call has a deadline."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from settings import PrismError
from trainer.errors import LearnerError

_SLICE_S = 2.0
_RECORD_TRIES = 10
_RECORD_PAUSE_S = 0.02


class Names(Protocol):
    """Under which names `ray.get_actor` finds the run's actors."""

    @property
    def namespace(self) -> str:
        """Of the run in Ray."""
        ...

    @property
    def buffer(self) -> str:
        """The experience buffer's."""
        ...

    @property
    def weights(self) -> str:
        """The weight store's."""
        ...

    @property
    def coordinator(self) -> str:
        """The coordinator's."""
        ...


class Experience:
    """Handles of the three actors, found by name."""

    def __init__(self, names: Names, deadline_s: float, take_timeout_s: float):
        self.deadline_s = deadline_s
        self.take_timeout_s = take_timeout_s
        self._buffer = _find(names.buffer, names.namespace)
        self._weights = _find(names.weights, names.namespace)
        self._coordinator = _find(names.coordinator, names.namespace)

    def begin(
        self,
        version: int,
        params: dict[str, np.ndarray],
        checksum: str,
        states: Mapping[int, Mapping[int, float]] | None = None,
    ) -> None:
        """Publish the weights training starts from and let sampling (re)start at that iteration.

        states: `trainer.windows.SpreadHistory.states`, from which the coordinator takes the windows to come.
        """
        self._call(self._weights.publish.remote(version, params, checksum), "publish weights")
        self._call(self._coordinator.rewind.remote(version, states), "rewind the coordinator")

    def take(self, iteration: int, rank: int, world: int, stop: Callable[[], bool] = lambda: False) -> Any:
        """This rank's shard of an iteration (`actors.messages.Batch`); asks for a stop as soon as `stop()` is true.

        Waits in slices, so that a stop request or a dead coordinator is noticed long before take_timeout_s.
        """
        end = time.monotonic() + self.take_timeout_s
        slice_s = min(_SLICE_S, self.take_timeout_s)
        asked = False
        while time.monotonic() < end:
            if stop() and not asked:
                self.request_stop()
                asked = True
            try:
                return self._call(self._buffer.take.remote(iteration, rank, world, slice_s), "take a batch", slice_s)
            except TimeoutError:
                self._call(self._coordinator.status.remote(), "ask the coordinator for its state")
        raise LearnerError(
            f"No batch of iteration {iteration} came within {self.take_timeout_s:g} s, though the coordinator is "
            "alive. Look at the rollout and reward actors, or raise learner.take_timeout_s."
        )

    def fetch(self, refs: list[Any]) -> list[Any]:
        """The packs of groups behind a batch's refs."""
        return self._call_all(refs, "fetch the groups of a batch")

    def finish(
        self,
        lease: str,
        version: int,
        params: dict[str, np.ndarray],
        checksum: str,
        spreads: Mapping[int, float] | None = None,
    ) -> None:
        """After an optimiser step: publish the new weights, acknowledge the batch, let the coordinator go on.

        spreads: of this version, for the coordinator's `SpreadHistory`.
        """
        published = self._weights.publish.remote(version, params, checksum)
        acknowledged = self._buffer.ack.remote(lease)
        self._call(published, "publish weights")
        if not self._call(acknowledged, "acknowledge a batch"):
            raise LearnerError(
                f"The lease {lease} ran out before its batch was trained and somebody else took the batch; raise "
                "buffer.lease_s above the time of one iteration."
            )
        self._call(self._coordinator.advance.remote(version, spreads), "advance the coordinator")

    def request_stop(self) -> None:
        """Let the run end at the next batch that no rank has yet."""
        self._call(self._coordinator.request_stop.remote(), "request a stop")

    def record(self, iteration: int) -> tuple[Any, dict[str, Any]]:
        """What sampling and scoring an iteration cost (`actors.messages.IterationRecord` or None), and the status.

        The coordinator completes its record shortly after it handed over the last group, hence the few tries.
        """
        record = None
        for _ in range(_RECORD_TRIES):
            record = self._call(self._coordinator.record.remote(iteration), "ask for the record of an iteration")
            if record is not None:
                break
            time.sleep(_RECORD_PAUSE_S)
        return record, self._call(self._coordinator.status.remote(), "ask the coordinator for its state")

    def _call(self, ref: Any, purpose: str, extra_s: float = 0.0) -> Any:
        return self._call_all([ref], purpose, extra_s)[0]

    def _call_all(self, refs: list[Any], purpose: str, extra_s: float = 0.0) -> list[Any]:
        try:
            return ray.get(refs, timeout=self.deadline_s + extra_s)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, TimeoutError):
                raise TimeoutError(str(cause)) from error
            if isinstance(cause, PrismError):
                raise LearnerError(str(cause)) from error
            raise
        except GetTimeoutError as error:
            raise LearnerError(
                f"Could not {purpose} within {self.deadline_s + extra_s:g} s; the actor hangs or its node is gone. "
                "Raise learner.deadline_s if the cluster is only slow."
            ) from error
        except RayActorError as error:
            raise LearnerError(f"Could not {purpose}: the actor is dead ({error}). Resume the run.") from error


def _find(name: str, namespace: str) -> Any:
    try:
        return ray.get_actor(name, namespace=namespace)
    except ValueError as error:
        raise LearnerError(
            f"There is no actor {name!r} in namespace {namespace!r}; start the run's actors before the learner."
        ) from error
