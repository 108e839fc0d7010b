"""Stand-ins that Ray workers can import: a generator without a model, and rewards with injected faults."""

import asyncio
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.messages import Prompt, RolloutTask
from rewards_service.scores import Reference, Scores
from trainer.group import Group, Window

MEMBERS = 4
DIMENSIONS = ("semantic", "temporal", "aesthetic", "spatial")
WEIGHTS: dict[str, float] = dict.fromkeys(DIMENSIONS, 1.0)
PARAMS = {"weight": np.ones(3, dtype=np.float32)}


def checksum_of(value: float) -> str:
    """The checksum FakeGenerator reports after loading {"weight": value}."""
    return f"weights-{value:g}"


def make_prompts(count: int, seconds: float = 2.0) -> list[Prompt]:
    """Prompts with tiny distinct conditions."""
    return [
        Prompt(
            clip_id=f"clip-{k}",
            conditions={name: np.full((2, 3), k, dtype=np.float32) for name in ("video", "text", "sync")},
            reference=Reference(f"clip-{k}", "a bell", seconds, (0.5,), (0.0,), 16.0),
        )
        for k in range(count)
    ]


def make_group(iteration: int, index: int, version: int = 0, size: int = 8) -> Group:
    """A small group with one reward of each dimension."""
    return Group(
        id=f"{iteration:06d}-{index:04d}",
        iteration=iteration,
        index=index,
        clip_id=f"clip-{index}",
        version=version,
        weights_checksum=checksum_of(version),
        window=Window(0, 1),
        sigmas=np.linspace(1, 0, 3),
        conditions={"video": np.zeros((1, 1), dtype=np.float32)},
        latents=np.full((2, MEMBERS, 1, size), 100 * iteration + index, dtype=np.float32),
        means=np.zeros((1, MEMBERS, 1, size), dtype=np.float32),
        log_probs=np.zeros((1, MEMBERS), dtype=np.float32),
        nfe_rollout=5,
        rewards={name: np.linspace(0, 1, MEMBERS) for name in DIMENSIONS},
    )


@dataclass
class FakeGenerator:
    """Latents say which iteration, index and weights they came from. A marker file in `trap` strikes exactly once.

    `kill`: the process dies during generate. `hang`: generate sleeps for a minute. `raise`: generate raises.
    """

    trap: str = ""
    delay_s: float = 0.0
    sample_rate: int = 16000
    value: float = float("nan")
    wrong_checksum: bool = False

    def load(self, params: dict[str, np.ndarray]) -> str:
        self.value = float(params["weight"][0])
        return "wrong" if self.wrong_checksum else checksum_of(self.value)

    def generate(self, task: RolloutTask, checksum: str) -> tuple[list[Group], np.ndarray]:
        time.sleep(self.delay_s)
        self._strike(task)
        groups = []
        for name, index, prompt in zip(task.group_ids, task.indices, task.prompts, strict=True):
            group = make_group(task.iteration, index, task.version)
            group.latents[:] = 10_000 * self.value + 100 * task.iteration + index
            group.id, group.clip_id, group.weights_checksum, group.window = name, prompt.clip_id, checksum, task.window
            group.rewards = {}
            groups.append(group)
        waveforms = np.stack([group.latents[-1, :, :, :2].repeat(2, 1) for group in groups])
        return groups, waveforms

    def _strike(self, task: RolloutTask) -> None:
        for kind in ("kill", "hang", "raise"):
            marker = Path(self.trap) / f"{kind}-{task.iteration}-{task.indices[0]}"
            if self.trap and marker.exists():
                marker.unlink()
                if kind == "kill":
                    os.kill(os.getpid(), 9)
                if kind == "hang":
                    time.sleep(60)
                raise RuntimeError("a trap was set")


def spread(marks: np.ndarray) -> np.ndarray:
    """Scores of (G, N) marks that differ between groups, and between the members of each."""
    return np.clip(marks / 10_000, 0, 1) + 0.01 * np.arange(marks.shape[1])


class MarkScorer:
    """The body of a reward replica: scores like FakeRewards, slowly enough to be killed in between."""

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        time.sleep(0.1)
        return Scores(spread(waveforms[:, :, 0, 0].astype(np.float64) % 10_000))

    def pid(self) -> int:
        return os.getpid()


@dataclass
class FakeRewards:
    """Scores each sample from its waveform.

    gaps: (dimension, mark) of groups that lack a score. flat: clips or marks of groups whose members all score alike.
    delays: seconds that a call takes which scores the group of that mark.
    """

    gaps: tuple[tuple[str, float], ...] = ()
    flat: Collection[str | float] = ()
    delays: Mapping[float, float] = field(default_factory=dict)

    async def score_all(
        self,
        waveforms: Any,
        sample_rate: int,
        references: list[Reference],
        detail: bool = False,
        members: int | None = None,
    ) -> dict[str, Scores]:
        heard = await waveforms
        assert heard.shape[:2] == (len(references), members)
        marks = heard[:, :, 0, 0].astype(np.float64) % 10_000
        await asyncio.sleep(max(self.delays.get(mark, 0.0) for mark in marks[:, 0]))
        flat = [
            ref.clip_id in self.flat or mark in self.flat for ref, mark in zip(references, marks[:, 0], strict=True)
        ]
        scores = {}
        for name in DIMENSIONS:
            values = np.where(np.array(flat)[:, None], 0.5, spread(marks))
            holes = {(g, 0): "gap" for g in range(len(values)) if (name, marks[g, 0]) in self.gaps}
            for place in holes:
                values[place] = np.nan
            scores[name] = Scores(values, holes)
        return scores

    async def scale(self, dimension: str, replicas: int, max_replicas: int | None = None) -> dict[str, int]:
        raise NotImplementedError

    async def replicas(self) -> dict[str, dict[str, int]]:
        return {name: {"running": 1, "wanted": 1} for name in DIMENSIONS}

    async def status(self) -> dict[str, dict[str, int]]:
        return await self.replicas()
