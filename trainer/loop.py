"""The training loop of one rank: take, update, publish, acknowledge, checkpoint; in a driver or in a worker."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch

from foundation.build import load_model
from foundation.execution import ExecutionConfig
from foundation.lora import LoraConfig, inject
from foundation.model import FlowModel
from trainer import checkpoints
from trainer.batch import IterationBatch
from trainer.collective import Collective, collective
from trainer.config import AlgorithmConfig, LearnerConfig, OptimiserConfig
from trainer.errors import InvariantError
from trainer.experience import Experience, Names
from trainer.gauges import LearnerGauges
from trainer.group import Group, Window
from trainer.journal import Journal
from trainer.record import describe
from trainer.totals import Totals
from trainer.update import Learner
from trainer.windows import SpreadHistory, observe, window


@dataclass(frozen=True)
class LoopConfig:
    """Everything a rank needs; it travels to the workers, so the paths must be readable there.

    model_path: what training begins from (also the KL reference), as `foundation.build.load_model` reads it. run_dir:
    gets checkpoints/ and metrics.jsonl. reward_weights: {dimension: weight}. max_staleness: the coordinator's.
    execution: how the model runs, the same for the rollout workers. lora: adapters, trained instead of the model.
    evaluate: (model holding the average, version) to further fields of the metrics record, such as `heldout`; runs on
    rank 0 every learner.eval_every iterations and must survive pickling if there are workers. on_iteration: gets each
    metrics record in the driver. stop: asked in the driver; ends the run after the current iteration.
    """

    seed: int
    model_path: str
    run_dir: str
    names: Names
    algorithm: AlgorithmConfig
    optimiser: OptimiserConfig
    learner: LearnerConfig
    reward_weights: Mapping[str, float]
    max_staleness: int = 0
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    lora: LoraConfig | None = None
    evaluate: Callable[[FlowModel, int], Mapping[str, Any]] | None = None
    on_iteration: Callable[[dict[str, Any]], None] | None = None
    stop: Callable[[], bool] | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return Path(self.run_dir) / "checkpoints"

    @property
    def journal(self) -> Journal:
        """The run's metrics.jsonl."""
        return Journal(Path(self.run_dir) / "metrics.jsonl")


@dataclass(frozen=True)
class Outcome:
    """How a loop ended. version: finished iterations. checkpoint: of the last one. stopped: before the planned end."""

    version: int
    checkpoint: str
    stopped: bool
    totals: Totals = field(default_factory=Totals)


def train_loop(config: LoopConfig) -> Outcome:
    """Train to the planned iteration or a requested stop; resumes from the newest checkpoint in run_dir.

    Raises LearnerError, InvariantError, DivergenceError, CheckpointError.
    """
    rank = _Rank(config)
    rank.begin()
    while rank.learner.version < config.learner.iterations and rank.iterate():
        pass
    return rank.end()


class _Rank:
    def __init__(self, config: LoopConfig):
        self.config = config
        torch.set_num_threads(config.learner.torch_threads)
        self.ranks: Collective = collective()
        self.base = load_model(config.model_path, _device(config))
        if config.lora is not None:
            inject(self.base.model, config.lora)
        self.learner = Learner(
            self.base.model,
            config.algorithm,
            config.optimiser,
            config.reward_weights,
            self.ranks,
            config.execution,
            config.learner.reference,
        )
        self.experience = Experience(config.names, config.learner.deadline_s, config.learner.take_timeout_s)
        self.totals = Totals()
        self.spreads = SpreadHistory(config.max_staleness)
        self.gauges = LearnerGauges() if self.ranks.rank == 0 else None
        self.saved: Path | None = None

    def begin(self) -> None:
        """Resume if there is something to resume from, and let sampling start at this version."""
        self.saved = checkpoints.latest(self.config.checkpoints)
        if self.saved is not None:
            state = checkpoints.restore(self.saved, self.learner, self.config.seed)
            self.totals, self.spreads = state.totals, SpreadHistory(self.config.max_staleness, state.spreads)
        version = self.learner.version
        self._require_equal(int(self.learner.checksums[version][:12], 16), "their starting weights")
        if self.ranks.rank == 0:
            self.config.journal.rewind(version)
            checksum = self.learner.checksums[version]
            self.experience.begin(version, self.learner.export(), checksum, self.spreads.states)
        # Nobody may take a batch that rank 0's rewind is about to withdraw.
        self.ranks.max_(torch.zeros(1))

    def iterate(self) -> bool:
        """One iteration; False when the run was asked to stop before it."""
        began = time.perf_counter()
        iteration = self.learner.version
        taken = self.experience.take(iteration, self.ranks.rank, self.ranks.world, self.config.stop or (lambda: False))
        self._require_equal(_digest(taken), f"the batch of iteration {iteration}")
        if taken.stop:
            return False
        groups = taken.select(self.experience.fetch(taken.refs))
        stretch = window(self.config.seed, iteration, self.config.algorithm, self.spreads.at(iteration))
        self._check_windows(groups, stretch)
        waited = time.perf_counter()
        batch = IterationBatch.of(iteration, groups, {info.id: info.rewards for info in taken.groups})
        metrics = self.learner.update(batch)
        del groups, batch
        if self.learner.device.type == "cuda":
            torch.cuda.empty_cache()  # rollout workers may live on the same device
        trained = time.perf_counter()
        version = self.learner.version
        self.spreads.put(version, observe(self.spreads.states[iteration], stretch.start, metrics["reward_spread"]))
        if self.ranks.rank == 0:
            checksum = self.learner.checksums[version]
            spreads = self.spreads.states[version]
            self.experience.finish(taken.lease, version, self.learner.export(), checksum, spreads)
        done = time.perf_counter()
        seconds = {"wait": waited - began, "train": trained - waited, "iteration": done - began}
        self.totals.add(taken.groups, taken.dropped, taken.lost, metrics, seconds)
        if self.ranks.rank == 0:
            self._record(taken, metrics, seconds, stretch)
        if self._due(self.config.learner.checkpoint_every):
            self._save()
        return True

    def end(self) -> Outcome:
        """A last checkpoint, unless the last iteration just wrote it."""
        version = self.learner.version
        if self.saved is None or self.saved.name != checkpoints.name(version):
            self._save()
        return Outcome(version, str(self.saved), version < self.config.learner.iterations, self.totals)

    def _save(self) -> None:
        folder = self.config.checkpoints
        if self.ranks.rank == 0:
            keep = self.config.learner.keep_checkpoints
            spreads = self.spreads.states
            checkpoints.write(folder, self.learner, self.base, self.config.seed, self.totals, keep, spreads)
        self.saved = folder / checkpoints.name(self.learner.version)
        ray.train.report({"version": self.learner.version, "samples": self.totals.samples})

    def _record(self, taken: Any, metrics: dict[str, Any], seconds: dict[str, float], stretch: Window) -> None:
        record, status = self.experience.record(taken.iteration)
        entry = describe(taken, metrics, seconds, record, status)
        entry["version"] = self.learner.version
        entry["groups"] = self.totals.ledger()
        entry["window"] = asdict(stretch)
        if self.config.evaluate is not None and self._due(self.config.learner.eval_every):
            with self.learner.ema.applied(self.learner.parameters), torch.no_grad():
                entry |= self.config.evaluate(self.learner.model, self.learner.version)
        self.config.journal.append(entry)
        if self.gauges is not None:
            self.gauges.show(entry, len(taken.groups))
        if self.config.on_iteration is not None:
            self.config.on_iteration(entry)

    def _check_windows(self, groups: list[Group], expected: Window) -> None:
        for group in groups:
            if group.window != expected:
                raise InvariantError(
                    f"Group {group.id} was sampled in {group.window}, but its iteration of seed {self.config.seed} has "
                    f"{expected}; coordinator and learner run different recipes."
                )

    def _due(self, every: int) -> bool:
        return every > 0 and self.learner.version % every == 0

    def _require_equal(self, value: int, what: str) -> None:
        """All ranks must hold one value; compared through the maximum of it and of its negative."""
        pair = torch.tensor([value, -value], dtype=torch.int64)
        self.ranks.max_(pair)
        if pair[0] != -pair[1]:
            raise InvariantError(f"The ranks differ in {what}; are all reading the same files?")


def _digest(taken: Any) -> int:
    text = "stop" if taken.stop else "\n".join(info.id for info in taken.groups)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")


def _device(config: LoopConfig) -> torch.device:
    """The current device, which Ray Train has set to the worker's own."""
    return torch.device("cuda") if config.learner.use_gpu else torch.device("cpu")
