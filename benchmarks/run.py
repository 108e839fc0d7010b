"""Training in one process, without Ray, on the parts that production runs: generator, codec, scorers, learner."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from actors.flat import flatness
from actors.generator import FlowGenerator
from actors.messages import Prompt, RolloutTask
from actors.missing import rejection
from actors.schedule import prompts_of, split
from benchmarks.meter import Meter, instrument
from benchmarks.released import SeparateGenerator, separate
from benchmarks.world import World
from foundation.codec import Codec
from rewards_service.scores import Scorer
from trainer.batch import IterationBatch
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.group import Group, Window
from trainer.update import Learner
from trainer.windows import SpreadHistory, observe, window


class MeteredCodec:
    """A codec whose decoding is metered."""

    def __init__(self, codec: Codec, meter: Meter):
        self._codec, self._meter = codec, meter
        self.sample_rate, self.hop, self.channels = codec.sample_rate, codec.hop, codec.channels

    def encode(self, waveform: Tensor) -> Tensor:
        """As the codec does."""
        return self._codec.encode(waveform)

    def decode(self, latents: Tensor) -> Tensor:
        """As the codec does, and metered."""
        with self._meter.stage("codec"):
            return self._codec.decode(latents)


@dataclass(frozen=True)
class Iteration:
    """What one iteration cost and did.

    seconds: {"wall" | "cpu": {stage: s}}, "iteration" the whole. nfe: rollout, trained, reference; a guided pair is 2.
    reward, spread: per dimension, mean and mean within-group std of the samples. learner: the update's metrics.
    """

    index: int
    start: int
    seconds: dict[str, dict[str, float]]
    nfe: dict[str, int]
    groups: int
    refilled: int
    reward: dict[str, float]
    spread: dict[str, float]
    learner: dict[str, Any]


class Run:
    """A policy under training. `meter` holds the seconds of the iteration under way.

    released: without the shared first step of the window, see `benchmarks.released`.
    """

    def __init__(
        self, world: World, algorithm: AlgorithmConfig, optimiser: OptimiserConfig, seed: int, released: bool = False
    ):
        self.world, self.algorithm, self.seed = world, algorithm, seed
        self.meter = Meter()
        flow, codec = world.foundation.flow, MeteredCodec(world.foundation.codec, self.meter)
        replayed = separate(algorithm) if released else algorithm
        self.learner = Learner(copy.deepcopy(flow), replayed, optimiser, world.recipe.rewards.weights)
        self.generator = (SeparateGenerator if released else FlowGenerator)(copy.deepcopy(flow), codec, algorithm)
        self.spreads = SpreadHistory(lag=0)

    @contextmanager
    def instrumented(self) -> Iterator[None]:
        """Inside the block the model's own calls are metered too."""
        reference = self.learner.reference
        with instrument(self.meter, reference.model if reference else None):
            yield

    def iterate(self, start: int | None = None) -> Iteration:
        """One synchronous iteration: sample, score, refill flat groups, update. start: the window's, instead of the
        policy's own choice."""
        version, config = self.learner.version, self.algorithm
        chosen = window(self.seed, version, config, self.spreads.at(version))
        if start is not None:
            chosen = Window(start, chosen.size)
        self.meter.take()
        with self.meter.stage("iteration"):
            with self.meter.stage("sync"):
                checksum = self.generator.load(self.learner.export())
            groups, refilled, nfe = self._sample(version, chosen, checksum)
            with self.meter.within("update"):
                metrics = self.learner.update(IterationBatch.of(version, groups))
        known = observe(self.spreads.at(version), chosen.start, metrics["reward_spread"])
        self.spreads.put(version + 1, known)
        rewards = {name: [group.rewards[name] for group in groups] for name in self.world.scorers}
        return Iteration(
            index=version,
            start=chosen.start,
            seconds=self.meter.take(),
            nfe={"rollout": nfe, "trained": metrics["nfe_trained"], "reference": metrics["nfe_reference"]},
            groups=len(groups),
            refilled=refilled,
            reward={name: float(np.nanmean(rows)) for name, rows in rewards.items()},
            spread={name: float(np.nanmean([np.nanstd(row) for row in rows])) for name, rows in rewards.items()},
            learner=metrics,
        )

    def _sample(self, version: int, chosen: Window, checksum: str) -> tuple[list[Group], int, int]:
        """Groups with rewards, how many were refilled, and evaluations.

        A flat group gives way to one of another prompt, at most `refills` times, by the coordinator's own rules.
        """
        config, recipe = self.algorithm, self.world.recipe
        slots, kept = config.prompts, []
        wanted = list(range(slots))
        refilled = nfe = 0
        while wanted:
            groups = self._scored(version, chosen, checksum, wanted)
            nfe += sum(group.nfe_rollout for group in groups)
            wanted = []
            for group in groups:
                if rejection(group.rewards, recipe.rewards.missing):
                    continue
                if not flatness(group.rewards, recipe.rewards.weights, config):
                    kept.append(group)
                elif group.index < slots * config.refills:
                    wanted.append(group.index + slots)
            refilled += len(wanted)
        return sorted(kept, key=lambda group: group.index), refilled, nfe

    def _scored(self, version: int, chosen: Window, checksum: str, wanted: list[int]) -> list[Group]:
        pool, slots = self.world.prompts, self.algorithm.prompts
        found = [pool[place] for place in prompts_of(self.seed, version, wanted, slots, len(pool))]
        groups: list[Group] = []
        for part in split([prompt.shape for prompt in found], self.world.recipe.rollout.prompts_per_task):
            mine = tuple(found[place] for place in part)
            task = RolloutTask(version, version, chosen, tuple(wanted[place] for place in part), mine, self.seed)
            with self.meter.within("rollout"):
                made, waveforms = self.generator.generate(task, checksum)
            with self.meter.stage("rewards"):
                score(made, waveforms, self.generator.sample_rate, mine, self.world.scorers)
            groups += made
        return groups


def score(
    groups: list[Group], waveforms: np.ndarray, rate: int, found: tuple[Prompt, ...], scorers: dict[str, Scorer]
) -> None:
    """Put every dimension's scores of (G, N, 2, S) waveforms into their groups."""
    references = [prompt.reference for prompt in found]
    for name, scorer in scorers.items():
        for group, values in zip(groups, scorer.score(waveforms, rate, references).values, strict=True):
            group.rewards[name] = values
