"""Training checkpoints: one folder per saved iteration, complete or absent, from which a run resumes exactly."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from foundation.checkpoint import Checkpoint, read_tensors, save, write_tensors
from foundation.errors import CheckpointError
from trainer.totals import Totals
from trainer.update import Learner

MODEL, EMA, OPTIMISER, STATE = "model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"
FORMAT = 1
_NAME = re.compile(r"iter-(\d{6,})")


@dataclass(frozen=True)
class State:
    """The cursor of a run: its version (finished iterations), its seed, its books, and what pins the weights.

    There is no generator state to keep: prompts, windows and noise are pure functions of (seed, iteration) and of
    `spreads`, what was measured per window start, by version (`trainer.windows.SpreadHistory.states`).
    """

    version: int
    seed: int
    checksum: str
    ema_steps: int
    totals: Totals
    spreads: dict[int, dict[int, float]] = field(default_factory=lambda: {0: {}})
    format: int = FORMAT


def name(version: int) -> str:
    """Folder name of a checkpoint."""
    return f"iter-{version:06d}"


def write(
    folder: Path,
    learner: Learner,
    base: Checkpoint,
    seed: int,
    totals: Totals,
    keep: int,
    spreads: Mapping[int, Mapping[int, float]] | None = None,
) -> Path:
    """Write `folder`/iter-<version>, then remove all but the newest `keep`; returns the new folder.

    model.safetensors and ema.safetensors are whole models that `prism generate` reads; `base` is the checkpoint that
    training began from, whose other parts (encoders, words) are written along. Raises CheckpointError, leaving nothing
    behind.
    """
    target = folder / name(learner.version)
    partial = folder / f".{target.name}.partial"
    kept = {version: dict(measured) for version, measured in (spreads or {learner.version: {}}).items()}
    state = State(learner.version, seed, learner.checksums[learner.version], learner.ema.steps, totals, kept)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        extra = {**base.extra, "training": {"version": learner.version, "seed": seed}}
        save(partial / MODEL, learner.model, extra, base.others)
        with learner.ema.applied(learner.parameters):
            save(partial / EMA, learner.model, extra, base.others)
        write_tensors(partial / OPTIMISER, _moments(learner), {"format": FORMAT})
        _write_synced(partial / STATE, json.dumps(asdict(state), indent=1))
        _replace(partial, target)
    except OSError as error:
        raise CheckpointError(
            f"Could not write the checkpoint {target}: {error.strerror or error}. Free space or choose another "
            "runs_dir; earlier checkpoints are untouched."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in _folders(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`, None when there is none."""
    found = _folders(folder)
    return found[-1] if found else None


def read_state(path: Path) -> State:
    """The cursor of a checkpoint. Raises CheckpointError."""
    try:
        raw: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
        spreads = {int(v): {int(k): float(x) for k, x in kept.items()} for v, kept in raw["spreads"].items()}
        return State(**{**raw, "totals": Totals(**raw["totals"]), "spreads": spreads})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a training checkpoint of this version ({error}); expected {MODEL}, {EMA}, {OPTIMISER} and "
            f"{STATE} as `prism train` writes them."
        ) from error


def restore(path: Path, learner: Learner, seed: int) -> State:
    """Put a learner exactly where it was when `path` was written.

    Raises CheckpointError: a file missing, cut short or not finite, other dimensions, another seed, altered weights.
    """
    state = read_state(path)
    if state.seed != seed:
        raise CheckpointError(
            f"{path} belongs to a run with seed {state.seed}, this one has seed {seed}; resume with seed={state.seed}."
        )
    averages = {name: parameter.detach().clone() for name, parameter in learner.parameters.items()}
    _copy_into(learner.parameters, path / MODEL)
    _copy_into(averages, path / EMA)
    learner.ema.load(averages, state.ema_steps)
    _load_moments(learner, path / OPTIMISER)
    learner.checksums.clear()
    learner.at_version(state.version)
    if learner.checksums[state.version] != state.checksum:
        raise CheckpointError(
            f"The weights in {path / MODEL} have checksum {learner.checksums[state.version][:12]}, but {STATE} names "
            f"{state.checksum[:12]}: the files are of two checkpoints. Resume from an earlier one."
        )
    return state


@torch.no_grad()
def _copy_into(targets: Any, path: Path) -> None:
    tensors, _ = read_tensors(path)
    for name, target in targets.items():
        if name not in tensors or tensors[name].shape != target.shape:
            came = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise CheckpointError(
                f"{path} does not fit the model: {name} should be {tuple(target.shape)}, found {came}. Resume with the "
                "recipe that the run was started with."
            )
        target.copy_(tensors[name])


def _moments(learner: Learner) -> dict[str, torch.Tensor]:
    states = learner.optimiser.state
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in learner.parameters.items()
        for key, value in states.get(parameter, {}).items()
    }


def _load_moments(learner: Learner, path: Path) -> None:
    tensors, _ = read_tensors(path)
    moments: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition("/")
        moments.setdefault(name, {})[kind] = tensor
    if unknown := sorted(moments.keys() - learner.parameters.keys()):
        raise CheckpointError(f"{path} holds optimiser state of {unknown[0]}, which this model does not train.")
    indices = {name: index for index, name in enumerate(learner.parameters)}
    groups = learner.optimiser.state_dict()["param_groups"]
    state = {indices[name]: kinds for name, kinds in moments.items()}
    learner.optimiser.load_state_dict({"state": state, "param_groups": groups})


def _folders(folder: Path) -> list[Path]:
    found = [
        (int(match[1]), entry)
        for entry in (folder.iterdir() if folder.is_dir() else ())
        if (match := _NAME.fullmatch(entry.name)) and (entry / STATE).is_file()
    ]
    return [entry for _, entry in sorted(found)]


def _replace(partial: Path, target: Path) -> None:
    """Rename over an older folder of the same iteration, if any."""
    outdated = target.with_name(f".{target.name}.outdated")
    shutil.rmtree(outdated, ignore_errors=True)
    if target.exists():
        os.rename(target, outdated)
    os.rename(partial, target)
    shutil.rmtree(outdated, ignore_errors=True)
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_synced(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
