"""One extractor over many stretches as a Ray Data job: workers write what they compute, the driver hears only of it."""

import json
import logging
import math
import os
import queue
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import Field

from foundation.errors import CheckpointError
from media.errors import MediaError
from media.features import FeatureStore
from media.parts import Stored, make_row
from media.stretches import Stretch
from pipelines.extractor import Extractor
from settings import PrismError, Section

MOST_BLOCKS = 4096


class ExtractionError(PrismError):
    """A stage that cannot go on at all, such as weights that cannot be loaded or workers that never start."""


class PlacementConfig(Section):
    """Where an extractor runs.

    workers: processes. num_cpus, num_gpus: of each; several can share a GPU, so that one decodes while another
    computes. batch: stretches per written file. dtype: in which values are stored; those that do not fit are refused.
    """

    workers: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=1.0, gt=0)
    num_gpus: float = Field(default=0.0, ge=0)
    batch: int = Field(default=16, ge=1)
    dtype: Stored = "float16"


class PatienceConfig(Section):
    """Deadlines in seconds.

    stretch_s: of one stretch, after which its worker is replaced. start_s: until all workers have loaded their weights.
    retries: of a batch whose worker died; what then still has no result is tried once more by itself.
    """

    stretch_s: float = Field(default=300.0, gt=0)
    start_s: float = Field(default=600.0, gt=0)
    retries: int = Field(default=2, ge=0)


@dataclass(frozen=True)
class Status:
    """What became of one stretch. reason: why it has no features, empty when it has. fatal: no other would have any."""

    key: str
    reason: str = ""
    fatal: bool = False


class Worker:
    """A Ray Data actor that holds one loaded extractor."""

    def __init__(self, root: str, extractor: Extractor, dtype: Stored, deadline_s: float):
        import ray

        self._store, self._extractor = FeatureStore(root), extractor
        self._dtype: Stored = dtype
        self._deadline_s = deadline_s
        self._reborn = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        extractor.load()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list]:
        """Compute and store a batch of stretches in JSON; answers with the columns of `Status`."""
        extractor = self._extractor
        keyed = {extractor.key(stretch): stretch for stretch in map(_unpack, batch["stretch"])}
        statuses = {key: Status(key) for key in keyed}
        rows: dict[str, dict[str, np.ndarray]] = {}
        # A process that took over from one that died may be given what that one had written already.
        todo = self._store.missing(extractor.identity, keyed, extractor.names) if self._reborn else list(keyed)
        for key in todo:
            try:
                with _deadline(self._deadline_s):
                    rows[key] = _checked(extractor, key, extractor.rows(keyed[key]), self._dtype)
            except Exception as error:
                statuses[key] = Status(key, _reason(error), isinstance(error, CheckpointError))
                if statuses[key].fatal:
                    break
        self._store.write(extractor.identity, rows, self._dtype)
        return {name: [getattr(status, name) for status in statuses.values()] for name in ("key", "reason", "fatal")}


def run_stage(
    root: str,
    extractor: Extractor,
    stretches: Sequence[Stretch],
    placement: PlacementConfig,
    patience: PatienceConfig,
) -> Iterator[Status]:
    """Compute features of stretches with different keys; yields one status each as they are done.

    Raises ExtractionError when the workers cannot start, or nothing is heard of them for too long.
    """
    left = {extractor.key(stretch): stretch for stretch in stretches}
    for status in _pass(root, extractor, list(left.values()), placement, patience, placement.batch):
        if left.pop(status.key, None) is not None:
            yield status
    # Their worker died again and again. Each by itself now, so that one that kills its worker takes no other along.
    for status in _pass(root, extractor, list(left.values()), placement, patience, batch=1):
        if left.pop(status.key, None) is not None:
            yield status
    for key in left:
        yield Status(key, f"gave no result: its worker died, or took longer than {patience.stretch_s:g} s, every time")


def _pass(
    root: str,
    extractor: Extractor,
    stretches: Sequence[Stretch],
    placement: PlacementConfig,
    patience: PatienceConfig,
    batch: int,
) -> Iterator[Status]:
    if not stretches:
        return
    import ray.data

    # One block is one task and what is retried; many small ones cost the driver memory.
    per_block = batch * math.ceil(len(stretches) / (batch * MOST_BLOCKS))
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = patience.retries
    context.wait_for_min_actors_s = math.ceil(patience.start_s)
    with ray.data.DataContext.current(context), _quiet(), warnings.catch_warnings():
        # Ray 2.60 deprecates max_task_retries here without another way to bound the retries.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        rows = ray.data.from_items(
            [{"stretch": json.dumps(asdict(stretch))} for stretch in stretches],
            override_num_blocks=math.ceil(len(stretches) / per_block),
        )
        workers = min(placement.workers, math.ceil(len(stretches) / per_block))
        job = rows.map_batches(
            Worker,
            fn_constructor_args=(root, extractor, placement.dtype, patience.stretch_s),
            batch_size=batch,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2 if batch > 1 else 1),
            num_cpus=placement.num_cpus,
            num_gpus=placement.num_gpus or None,
            max_restarts=-1,
            max_task_retries=patience.retries,
        )
        silence = patience.start_s + per_block * patience.stretch_s * (patience.retries + 1)
        yield from _listen(job, silence)


def _listen(job: Any, silence_s: float) -> Iterator[Status]:
    """Statuses of a running job. It is read in a thread of its own, so that its silence can be noticed."""
    heard: queue.Queue[list[Status] | BaseException | None] = queue.Queue()
    stop = threading.Event()

    def read() -> None:
        try:
            for rows in job.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                heard.put([Status(**row) for row in rows.to_pylist()])
                if stop.is_set():
                    return
        except BaseException as error:
            heard.put(error)
        finally:
            heard.put(None)

    threading.Thread(target=read, name="extraction", daemon=True).start()
    try:
        while (news := _next(heard, silence_s)) is not None:
            if isinstance(news, BaseException):
                raise ExtractionError(f"Extraction stopped: {_root(news)}") from news
            for status in news:
                if status.fatal:
                    raise ExtractionError(f"Extraction stopped: {status.reason}")
                yield status
    finally:
        stop.set()


def _next(heard: queue.Queue, silence_s: float) -> Any:
    try:
        return heard.get(timeout=silence_s)
    except queue.Empty:
        raise ExtractionError(
            f"Nothing was heard of the workers for {silence_s:g} s. Check that Ray has the CPUs and GPUs that the "
            "recipe asks for and see the workers' logs; what was computed is kept."
        ) from None


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """End this process when the block takes longer: nothing else stops a decoder or a kernel that hangs."""
    timer = threading.Timer(seconds, os._exit, [1])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data reports every errored block with a traceback; the failure table says the same in a line."""
    handlers = [h for h in logging.getLogger("ray.data").handlers if isinstance(h, logging.StreamHandler)]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def _unpack(text: str) -> Stretch:
    return Stretch(**json.loads(text))


def _checked(extractor: Extractor, key: str, arrays: dict[str, np.ndarray], dtype: Stored) -> dict[str, np.ndarray]:
    """Arrays that can be stored; raises here, where it costs one stretch, not the batch."""
    if set(arrays) != set(extractor.names):
        raise PrismError(f"{extractor.name} gave {', '.join(arrays) or 'nothing'}, not {', '.join(extractor.names)}.")
    for name, array in arrays.items():
        make_row(key, name, array, dtype)
    return arrays


def _reason(error: Exception) -> str:
    if isinstance(error, MediaError):
        return error.reason
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, PrismError) else f"{type(error).__name__}: {first}"


def _root(error: BaseException) -> str:
    """What went wrong in the worker: Ray puts it into the last line, and chains an empty error of its own."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1]
