"""Fine-tuning the audio autoencoder: the loop of one rank, and how the ranks are run."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foundation.errors import CheckpointError
from foundation.prismaudio import read_codec
from trainer import ray_train
from trainer.autoencoder import AutoencoderConfig, AutoencoderLearner
from trainer.collective import collective
from trainer.config import LearnerConfig
from trainer.crops import Crops, ReaderConfig, crop_batches
from trainer.errors import LearnerError
from trainer.journal import Follower, Journal
from trainer.loop import Outcome
from trainer.totals import Totals

STOP = "stop"
_NAME = re.compile(r"step-(\d{6,})\.safetensors")


@dataclass(frozen=True)
class AutoencoderLoop:
    """Everything a rank needs; it travels to the workers, so the paths must be readable there.

    codec_path: file with the autoencoder to start from. run_dir: gets checkpoints/, metrics.jsonl, skipped-RANK.jsonl.
    sounds, heldout: audio or video files to train on and to measure with. learner: `iterations` are steps of either
    side. on_step: gets each metrics record in the driver. stop: asked in the driver; ends the run after a step.
    """

    seed: int
    codec_path: str
    run_dir: str
    sounds: tuple[str, ...]
    training: AutoencoderConfig
    learner: LearnerConfig
    heldout: tuple[str, ...] = ()
    readers: ReaderConfig = field(default_factory=ReaderConfig)
    on_step: Callable[[dict[str, Any]], None] | None = None
    stop: Callable[[], bool] | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints, one file each."""
        return Path(self.run_dir) / "checkpoints"

    @property
    def journal(self) -> Journal:
        """The run's metrics.jsonl."""
        return Journal(Path(self.run_dir) / "metrics.jsonl")

    @property
    def stop_file(self) -> Path:
        """A file that asks the workers to end."""
        return Path(self.run_dir) / STOP


def fit(config: AutoencoderLoop) -> Outcome:
    """Train as config.learner says: in this process, or in Ray Train's workers, which share every batch.

    Raises the PrismError that ended the loop, or LearnerError.
    """
    config.stop_file.unlink(missing_ok=True)
    if config.learner.num_workers == 0:
        return ray_train.run(partial(autoencoder_loop, config), config.learner, config.run_dir)
    saved = latest(config.checkpoints)
    follower = Follower(config.journal, version_of(saved) if saved else 0)

    def poll() -> None:
        for record in follower.new():
            if config.on_step is not None:
                config.on_step(record)
        if config.stop is not None and config.stop():
            config.stop_file.touch()

    loop = partial(autoencoder_loop, replace(config, on_step=None, stop=None))
    return ray_train.run(loop, config.learner, config.run_dir, poll)


def autoencoder_loop(config: AutoencoderLoop) -> Outcome:
    """Train to the planned step or a requested stop; resumes from the newest checkpoint in run_dir.

    Raises CheckpointError, DivergenceError, LearnerError for a small batch, MediaError when sounds cannot be read.
    """
    torch.set_num_threads(config.learner.torch_threads)
    ranks = collective()
    if config.training.batch < ranks.world:
        raise LearnerError(f"A batch of {config.training.batch} leaves some of {ranks.world} workers without a crop.")
    learner = started(config)
    skipped = Journal(Path(config.run_dir) / f"skipped-{ranks.rank}.jsonl")
    skipped.rewind(learner.version)
    if ranks.rank == 0:
        config.journal.rewind(learner.version)
    measured = _heldout(config, learner) if config.heldout and ranks.rank == 0 else None
    batches = crop_batches(
        _crops(config, config.sounds, learner),
        config.training.batch,
        learner.version,
        config.learner.iterations,
        config.readers,
        ranks.rank,
        ranks.world,
    )
    began, saved = time.perf_counter(), learner.version
    for batch in batches:
        got = time.perf_counter()
        record = learner.step(_mixed(batch.sounds, learner), _noise(config, learner), _asked(config, ranks.rank))
        stops = record.pop("stop")
        seconds = {"wait": got - began, "train": time.perf_counter() - got}
        entry = {"iteration": learner.version - 1, "version": learner.version, **record, "seconds": seconds}
        for file, reason in batch.skipped:
            skipped.append({"iteration": learner.version - 1, "file": file, "reason": reason})
        ending = bool(stops) or learner.version == config.learner.iterations
        if measured is not None and (ending or _due(config.learner.eval_every, learner.version)):
            entry["validation"] = learner.validate(measured)
        if ranks.rank == 0:
            config.journal.append(entry)
            if config.on_step is not None:
                config.on_step(entry)
        if not ending and _due(config.learner.checkpoint_every, learner.version):
            saved = _save(config, learner, ranks.rank)
        if ending:
            break
        began = time.perf_counter()
    if saved != learner.version or latest(config.checkpoints) is None:
        _save(config, learner, ranks.rank)
    path = config.checkpoints / name(learner.version)
    return Outcome(learner.version, str(path), learner.version < config.learner.iterations, Totals())


def started(config: AutoencoderLoop) -> AutoencoderLearner:
    """The learner of a run where its newest checkpoint left it, or at step 0. Raises CheckpointError."""
    torch.manual_seed(config.seed)  # the discriminator's first weights, the same on every rank
    codec = read_codec(config.codec_path, "cuda" if config.learner.use_gpu else "cpu")
    learner = AutoencoderLearner(codec, config.training, collective())
    path = latest(config.checkpoints)
    if path is not None:
        seed = learner.restore(path).get("seed")
        if seed != config.seed:
            raise CheckpointError(f"{path} belongs to a run with seed {seed}; resume with seed={seed}.")
    return learner


def name(version: int) -> str:
    """File name of a checkpoint."""
    return f"step-{version:06d}.safetensors"


def version_of(path: Path) -> int:
    """The step of a checkpoint, from its name."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else 0


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in a folder, None when there is none."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return max(found, key=version_of, default=None)


def _save(config: AutoencoderLoop, learner: AutoencoderLearner, rank: int) -> int:
    """Write a checkpoint on rank 0 and remove all but the newest."""
    if rank == 0:
        learner.save(config.checkpoints / name(learner.version), {"seed": config.seed})
        found = sorted(config.checkpoints.glob("step-*.safetensors"), key=version_of)
        for old in found[: -config.learner.keep_checkpoints]:
            old.unlink(missing_ok=True)
    return learner.version


def _crops(config: AutoencoderLoop, files: tuple[str, ...], learner: AutoencoderLearner) -> Crops:
    codec = learner.codec
    return Crops(files, config.training.frames * codec.hop, codec.sample_rate, config.seed)


def _heldout(config: AutoencoderLoop, learner: AutoencoderLearner) -> Tensor:
    """One fixed crop of each held-out file, (b, C, S)."""
    crops = _crops(config, config.heldout, learner)
    return _mixed(torch.cat([crops[number, 0, number].sounds for number in range(len(crops.files))]), learner)


def _mixed(sounds: Tensor, learner: AutoencoderLearner) -> Tensor:
    """Stereo as it is; the mean of the channels for a codec that knows one."""
    return sounds if learner.codec.audio_channels == 2 else sounds.mean(dim=1, keepdim=True)


def _noise(config: AutoencoderLoop, learner: AutoencoderLearner) -> Tensor:
    """Unit noise for the latents of this rank's crops: a function of (seed, step), whoever computes them."""
    seed = np.random.SeedSequence([config.seed, learner.version]).generate_state(1, np.uint64)[0] >> 1
    training, ranks = config.training, learner.ranks
    whole = (training.batch, learner.codec.channels, training.frames)
    return torch.randn(whole, generator=torch.Generator().manual_seed(int(seed)))[ranks.rank :: ranks.world]


def _asked(config: AutoencoderLoop, rank: int) -> bool:
    return config.stop() if config.stop is not None else rank == 0 and config.stop_file.exists()


def _due(every: int, version: int) -> bool:
    return every > 0 and version % every == 0
