"""A whole run on the tiny model: real actors, a toy codec and toy rewards."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.config import BufferConfig, RolloutConfig
from actors.coordinator import RunPlan
from actors.generator import FlowGenerator
from actors.launch import ActorNames, RunActors, launch
from actors.messages import Prompt
from foundation import checkpoint
from rewards_service.scores import Reference, Scores
from tests.trainer.builders import LENGTH, WEIGHTS, algorithm, features, judge, tiny_model
from trainer.config import AlgorithmConfig, LearnerConfig, OptimiserConfig
from trainer.loop import LoopConfig

SEED = 5
PROMPTS = 10
HOP = 4
RATE = 16


class ToyCodec:
    """Latents spelled out as a waveform."""

    sample_rate = RATE
    hop = HOP
    channels = 3

    def encode(self, waveform: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Two channels of every frame, each repeated for a hop."""
        return (latents[:, :2] / 4).repeat_interleave(HOP, dim=2)


class ToyRewards:
    """Rewards that depend on every sample."""

    async def score_all(
        self,
        waveforms: Any,
        sample_rate: int,
        references: list[Reference],
        detail: bool = False,
        members: int | None = None,
    ) -> dict[str, Scores]:
        array = await waveforms
        rows = [judge(np.asarray(group)) for group in array]
        return {name: Scores(np.stack([row[name] for row in rows])) for name in WEIGHTS}

    async def scale(self, dimension: str, replicas: int, max_replicas: int | None = None) -> dict[str, int]:
        raise NotImplementedError

    async def replicas(self) -> dict[str, dict[str, int]]:
        return {}

    async def status(self) -> dict[str, dict[str, int]]:
        return {}


def build_generator(config: AlgorithmConfig) -> FlowGenerator:
    return FlowGenerator(tiny_model(), ToyCodec(), config)


def prompts() -> list[Prompt]:
    seconds = LENGTH * HOP / RATE
    return [
        Prompt(f"clip{i}", features(0, i), Reference(f"clip{i}", "a toy", seconds, (), (), 16.0))
        for i in range(PROMPTS)
    ]


def start_actors(
    name: str, namespace: str, iterations: int, config: AlgorithmConfig, base: dict | None = None, staleness: int = 0
) -> RunActors:
    """The actors of one run."""
    rollout = RolloutConfig(num_cpus=0.5, prompts_per_task=2, deadline_s=60, max_staleness=staleness)
    plan = RunPlan(seed=SEED, iterations=iterations, algorithm=config, rollout=rollout, weights=WEIGHTS)
    names = ActorNames(name, namespace)
    build: Any = partial(build_generator, config)
    return launch(names, plan, prompts(), build, ToyRewards, BufferConfig(), base)


def loop_config(folder: Path, names: Any = None, config: AlgorithmConfig | None = None, **learner: Any) -> LoopConfig:
    """A loop over the tiny model, whose start is written to `folder` first."""
    start = folder / "start.safetensors"
    if not start.exists():
        checkpoint.save(start, tiny_model(), {"words": ["toy"]}, {"encoders.weight": torch.ones(2)})
    return LoopConfig(
        seed=SEED,
        model_path=str(start),
        run_dir=str(folder / "run"),
        names=names,
        algorithm=config or algorithm(),
        optimiser=OptimiserConfig(lr=3e-3),
        learner=LearnerConfig.model_validate(
            {"iterations": 4, "checkpoint_every": 2, "eval_every": 2, "take_timeout_s": 90, **learner}
        ),
        reward_weights=WEIGHTS,
    )
