"""Supervised flow matching on stored features: the loop of one rank, and how the ranks are run."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
from pydantic import Field, NonNegativeInt

from foundation.build import load_model
from foundation.config import ModelConfig
from foundation.execution import ExecutionConfig, execute
from foundation.lora import LoraConfig, inject
from media.features import FeatureError
from settings import Section
from trainer import checkpoints, ray_train
from trainer.collective import collective
from trainer.config import LearnerConfig
from trainer.errors import InvariantError
from trainer.examples import EncoderNames, Example, read_examples
from trainer.feature_batches import Batch, Draws, FeatureBatches, LoaderConfig, Pass
from trainer.flow_matching import FlowMatching, FlowMatchingConfig, validation_sums
from trainer.journal import Follower, Journal
from trainer.loop import Outcome
from trainer.shuffle import InOrder, Shuffle
from trainer.totals import Totals

EXAMPLES, STOP = "examples.jsonl", "stop"


class ValidationConfig(Section):
    """The loss on held-out examples at fixed noise levels with fixed noise, of the averaged weights.

    levels: noise levels, 1 is noise. examples: at most this many. seed: of the noise.
    """

    levels: tuple[float, ...] = Field(default=(0.1, 0.3, 0.5, 0.7, 0.9), min_length=1)
    examples: NonNegativeInt = 512
    seed: int = 90_001


@dataclass(frozen=True)
class SupervisedLoop:
    """Everything a rank needs; it travels to the workers, so the paths must be readable there.

    model_path: what `foundation.build.load_model` reads. run_dir: holds `EXAMPLES`, gets checkpoints/, metrics.jsonl.
    features: root of the feature store. encoders: identities in it. learner: `iterations` are optimiser steps.
    extra: is written into every checkpoint beside what `model_path` says. on_step: gets each metrics record in the
    driver. stop: asked in the driver; ends the run after the current step.
    """

    seed: int
    model_path: str
    run_dir: str
    features: str
    encoders: EncoderNames
    training: FlowMatchingConfig
    learner: LearnerConfig
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    lora: LoraConfig | None = None
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    extra: Mapping[str, Any] = field(default_factory=dict)
    on_step: Callable[[dict[str, Any]], None] | None = None
    stop: Callable[[], bool] | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return Path(self.run_dir) / "checkpoints"

    @property
    def journal(self) -> Journal:
        """The run's metrics.jsonl."""
        return Journal(Path(self.run_dir) / "metrics.jsonl")

    def skipped(self, rank: int) -> Journal:
        """What a rank could not read, and why."""
        return Journal(Path(self.run_dir) / f"skipped-{rank}.jsonl")

    @property
    def stop_file(self) -> Path:
        """A file that asks the workers to end."""
        return Path(self.run_dir) / STOP


def fit(config: SupervisedLoop) -> Outcome:
    """Train as config.learner says: in this process, or in Ray Train's workers, which share every batch.

    Raises the PrismError that ended the loop, or LearnerError.
    """
    config.stop_file.unlink(missing_ok=True)
    if config.learner.num_workers == 0:
        return ray_train.run(partial(supervised_loop, config), config.learner, config.run_dir)
    saved = checkpoints.latest(config.checkpoints)
    start = checkpoints.read_state(saved).version if saved else 0
    config.journal.rewind(start)
    follower = Follower(config.journal, start)

    def poll() -> None:
        for record in follower.new():
            if config.on_step is not None:
                config.on_step(record)
        if config.stop is not None and config.stop():
            config.stop_file.touch()

    loop = partial(supervised_loop, replace(config, on_step=None, stop=None))
    return ray_train.run(loop, config.learner, config.run_dir, poll)


def supervised_loop(config: SupervisedLoop) -> Outcome:
    """Train to the planned step or a requested stop; resumes from the newest checkpoint in run_dir.

    Raises CheckpointError, DivergenceError, InvariantError, and FeatureError when too much cannot be read.
    """
    rank = _Rank(config)
    rank.begin()
    rank.run()
    return rank.end()


class _Rank:
    def __init__(self, config: SupervisedLoop):
        self.config = config
        torch.set_num_threads(config.learner.torch_threads)
        self.ranks = collective()
        self.base = load_model(config.model_path, "cuda" if config.learner.use_gpu else "cpu")
        self.base.extra.update(config.extra)
        if config.lora is not None:
            inject(self.base.model, config.lora)
        execute(self.base.model, config.execution)
        self.learner = FlowMatching(self.base.model, config.training, self.ranks)
        self.totals = Totals()
        self.skipped = config.skipped(self.ranks.rank)
        self.saved: Path | None = None
        everyone = read_examples(Path(config.run_dir) / EXAMPLES)
        self.examples = [example for example in everyone if not example.heldout]
        self.heldout = [example for example in everyone if example.heldout][: config.validation.examples]

    def begin(self) -> None:
        """Resume if there is something to resume from."""
        self.saved = checkpoints.latest(self.config.checkpoints)
        if self.saved is not None:
            self.totals = checkpoints.restore(self.saved, self.learner, self.config.seed).totals
        else:
            self.learner.at_version(0)
        self._require_equal_weights()
        self.skipped.rewind(self.learner.version)
        if self.ranks.rank == 0:
            self.config.journal.rewind(self.learner.version)

    def run(self) -> None:
        """Step after step."""
        training, loader = self.config.training, self.config.loader
        lengths = [example.tokens for example in self.examples] if loader.bucket_texts else None
        shuffle = Shuffle(len(self.examples), training.batch, self.config.seed, lengths)
        batches = self._batches(self.examples, shuffle, self.config.seed)
        steps = batches.run(self.learner.version, self.config.learner.iterations, loader)
        began = time.perf_counter()
        for batch in steps:
            _check_dimensions(batch.passes, self.learner.model.config)
            got = time.perf_counter()
            record = self.learner.step(batch, self._asked())
            stops = record.pop("stop")
            self._count(batch, record, {"wait": got - began, "train": time.perf_counter() - got}, shuffle)
            if self._due(self.config.learner.checkpoint_every):
                self._save()
            if stops:
                steps.close()
            began = time.perf_counter()

    def end(self) -> Outcome:
        """A last checkpoint, unless the last step just wrote it."""
        version = self.learner.version
        if self.saved is None or self.saved.name != checkpoints.name(version):
            self._save()
        return Outcome(version, str(self.saved), version < self.config.learner.iterations, self.totals)

    def _count(self, batch: Batch, record: dict[str, float], seconds: dict[str, float], shuffle: Shuffle) -> None:
        totals, version = self.totals, self.learner.version
        totals.iterations, totals.samples = version, totals.samples + int(record["examples"])
        if record["skipped"]:
            totals.dropped = dict(Counter(totals.dropped) + Counter({"unreadable": int(record["skipped"])}))
        totals.seconds = {name: totals.seconds.get(name, 0.0) + value for name, value in seconds.items()}
        entry: dict[str, Any] = {"iteration": version - 1, "version": version, **record, "seconds": seconds}
        entry["epoch"] = version * shuffle.batch / shuffle.count
        for clip, reason in batch.skipped:
            self.skipped.append({"iteration": version - 1, "clip": clip, "reason": reason})
        if self.heldout and self._due(self.config.learner.eval_every):
            entry["validation"] = self._validate()
        if self.ranks.rank == 0:
            self.config.journal.append(entry)
            if self.config.on_step is not None:
                self.config.on_step(entry)
        self._limit_skipped(batch)

    def _limit_skipped(self, batch: Batch) -> None:
        lost, share = self.totals.dropped.get("unreadable", 0), self.config.loader.max_skipped_share
        if lost > share * max(len(self.examples), lost + self.totals.samples):
            last = "; ".join(f"{clip}: {reason}" for clip, reason in batch.skipped[:3])
            raise FeatureError(
                self.config.features,
                f"{lost} examples could not be read, more than loader.max_skipped_share ({share:g}) allows. {last} "
                "Repair the store with `prism features`, or allow more.",
            )

    def _validate(self) -> dict[str, Any]:
        config = self.config.validation
        order = InOrder(len(self.heldout), self.config.training.batch)
        batches = self._batches(self.heldout, order, config.seed)
        sums = torch.zeros(len(config.levels) + 1, dtype=torch.float64)
        with self.learner.ema.applied(self.learner.parameters):
            for batch in batches.run(0, order.batches, self.config.loader):
                parts = [part.to(self.learner.device) for part in batch.passes]
                sums += validation_sums(self.learner.model, parts, config.levels)
        self.ranks.sum_([sums])
        *losses, count = sums.tolist()
        means = {f"{level:g}": loss / max(count, 1) for level, loss in zip(config.levels, losses, strict=True)}
        return {"loss": sum(means.values()) / len(means), "levels": means, "examples": int(count)}

    def _batches(self, examples: list[Example], order: Shuffle | InOrder, seed: int) -> FeatureBatches:
        training = self.config.training
        return FeatureBatches(
            self.config.features,
            self.config.encoders,
            examples,
            order,
            Draws(seed, training.condition_dropout, training.timesteps),
            self.learner.model.config,
            training.per_pass,
            self.ranks.rank,
            self.ranks.world,
        )

    def _save(self) -> None:
        folder = self.config.checkpoints
        if self.ranks.rank == 0:
            self.learner.at_version(self.learner.version)
            keep = self.config.learner.keep_checkpoints
            checkpoints.write(folder, self.learner, self.base, self.config.seed, self.totals, keep)
        self.saved = folder / checkpoints.name(self.learner.version)
        ray.train.report({"version": self.learner.version, "samples": self.totals.samples})

    def _asked(self) -> bool:
        stop = self.config.stop
        return stop() if stop is not None else self.ranks.rank == 0 and self.config.stop_file.exists()

    def _due(self, every: int) -> bool:
        return every > 0 and self.learner.version % every == 0

    def _require_equal_weights(self) -> None:
        value = int(self.learner.checksums[self.learner.version][:12], 16)
        pair = torch.tensor([value, -value], dtype=torch.int64)
        self.ranks.max_(pair)
        if pair[0] != -pair[1]:
            raise InvariantError("The ranks differ in their starting weights; are all reading the same files?")


def _check_dimensions(parts: tuple[Pass, ...], config: ModelConfig) -> None:
    """Raise FeatureError unless the stored features are those of the model's encoders."""
    for part in parts:
        features = part.features
        found = (features.video.shape[2], features.text.shape[2], features.sync.shape[2], part.latents.shape[1])
        expected = (config.video_dim, config.text_dim, config.sync_dim, config.latent_channels)
        if found != expected:
            raise FeatureError(
                "the feature store",
                f"has video, text, sync features and latents of {found} channels, but the model needs {expected}; name "
                "the encoders that the model was made for.",
            )
