"""Wall and CPU seconds by stage, taken around the real calls."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch

from foundation.model import FlowModel

MODEL_STAGES = (
    "rollout.velocity",
    "rollout.prepare",
    "update.velocity",
    "update.prepare",
    "update.reference",
    "update.backward",
)


class Meter:
    """Sums of seconds per stage; CPU seconds are of the whole process.

    Stages may nest; the inner one's time is also part of the outer one's. `phase` prefixes what `instrument` measures.
    """

    def __init__(self) -> None:
        self.phase = ""
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall[name] += time.perf_counter() - wall
            self.cpu[name] += time.process_time() - cpu

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Time a block as a stage, and the model's calls inside it as `phase.call`."""
        held, self.phase = self.phase, phase
        try:
            with self.stage(phase):
                yield
        finally:
            self.phase = held

    def take(self) -> dict[str, dict[str, float]]:
        """The sums so far as {"wall": ..., "cpu": ...}, then start again from zero."""
        found = {"wall": dict(self.wall), "cpu": dict(self.cpu)}
        self.wall.clear()
        self.cpu.clear()
        return found


def model_seconds(stages: dict[str, float]) -> float:
    """Velocity forward and backward, with what prepares and anchors them: rollout, policy, reference, gradient."""
    return sum(stages.get(name, 0.0) for name in MODEL_STAGES)


@contextmanager
def instrument(meter: Meter, reference: FlowModel | None = None) -> Iterator[None]:
    """Inside the block every velocity, condition and prepare of any FlowModel and every backward pass is metered.

    Patched on the classes, so that the code under measurement is what production runs. reference: its calls count as
    `update.reference`.
    """
    held = [
        (owner, name, getattr(owner, name))
        for owner, name in (
            (FlowModel, "velocity"), (FlowModel, "prepare"), (FlowModel, "condition"), (torch.Tensor, "backward")
        )
    ]  # fmt: skip
    for owner, name, function in held:
        stage = {"condition": "prepare"}.get(name, name)
        setattr(owner, name, _timed(function, stage, meter, reference))
    try:
        yield
    finally:
        for owner, name, function in held:
            setattr(owner, name, function)


def _timed(function: Callable, stage: str, meter: Meter, reference: FlowModel | None) -> Callable:
    @wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not meter.phase:
            return function(self, *args, **kwargs)
        name = "reference" if reference is not None and self is reference else stage
        # Calls inside a call (a velocity in blocks) are part of it.
        phase, meter.phase = meter.phase, ""
        try:
            with meter.stage(f"{phase}.{name}") if phase else nullcontext():
                return function(self, *args, **kwargs)
        finally:
            meter.phase = phase

    return call
