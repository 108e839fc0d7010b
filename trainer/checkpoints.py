"""Training checkpoints: one folder per saved iteration, complete or absent, from which a run resumes exactly.

A run that trains adapters leaves them, their average and their moments, which are small, and one whole model: the
average, merged into what training began from.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from foundation.checkpoint import Checkpoint, read_tensors, save, write_tensors
from foundation.errors import CheckpointError
from foundation.lora import whole
from foundation.model import FlowModel
from trainer.ema import Ema
from trainer.totals import Totals

MODEL, EMA, OPTIMISER, STATE = "model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"
ADAPTERS, ADAPTERS_EMA = "adapters.safetensors", "adapters_ema.safetensors"
FORMAT = 1
_NAME = re.compile(r"iter-(\d{6,})")


class Trained(Protocol):
    """What is saved and restored: `trainer.update.Learner`, for one.

    parameters: those that are trained, by name. checksums: of the weights by version, the current one included.
    """

    model: FlowModel
    parameters: dict[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    ema: Ema
    version: int
    checksums: dict[int, str]

    def at_version(self, version: int) -> None:
        """Declare the current parameters to be `version`."""
        ...


@dataclass(frozen=True)
class State:
    """The cursor of a run: its version (finished iterations), its seed, its books, and what pins the weights.

    lora: the adapters' configuration, if the run trains some.
    There is no generator state to keep: prompts, windows and noise are pure functions of (seed, iteration) and of
    `spreads`, what was measured per window start, by version (`trainer.windows.SpreadHistory.states`).
    """

    version: int
    seed: int
    checksum: str
    ema_steps: int
    totals: Totals
    spreads: dict[int, dict[int, float]] = field(default_factory=lambda: {0: {}})
    lora: dict[str, Any] | None = None
    format: int = FORMAT


def name(version: int) -> str:
    """Folder name of a checkpoint."""
    return f"iter-{version:06d}"


def write(
    folder: Path,
    learner: Trained,
    base: Checkpoint,
    seed: int,
    totals: Totals,
    keep: int,
    spreads: Mapping[int, Mapping[int, float]] | None = None,
) -> Path:
    """Write `folder`/iter-<version>, then remove all but the newest `keep`; returns the new folder.

    ema.safetensors, and without adapters model.safetensors too, are whole models that `prism generate` reads; `base` is
    the checkpoint that training began from, whose other parts (encoders, words, the name of the release) are written
    along. Raises CheckpointError, leaving nothing behind.
    """
    target = folder / name(learner.version)
    partial = folder / f".{target.name}.partial"
    kept = {version: dict(measured) for version, measured in (spreads or {learner.version: {}}).items()}
    flow, lora = learner.model, _lora(learner)
    state = State(learner.version, seed, learner.checksums[learner.version], learner.ema.steps, totals, kept, lora)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        training = {"version": learner.version, "seed": seed} | ({"lora": lora} if lora else {})
        extra = {**base.extra, "training": training}
        if lora:
            write_tensors(partial / ADAPTERS, learner.parameters, {"format": FORMAT, "lora": lora})
            write_tensors(partial / ADAPTERS_EMA, learner.ema.shadow, {"format": FORMAT, "lora": lora})
        else:
            save(partial / MODEL, flow, extra, base.others)
        with learner.ema.applied(learner.parameters):
            save(partial / EMA, whole(flow) if lora else flow, extra, base.others)
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
            f"{path} is not a training checkpoint of this version ({error}); expected {MODEL} or {ADAPTERS}, {EMA}, "
            f"{OPTIMISER} and {STATE} as `prism train` writes them."
        ) from error


def restore(path: Path, learner: Trained, seed: int) -> State:
    """Put a learner exactly where it was when `path` was written.

    Raises CheckpointError: a file missing, cut short or not finite, other dimensions or adapters, another seed, altered
    weights.
    """
    state = read_state(path)
    if state.seed != seed:
        raise CheckpointError(
            f"{path} belongs to a run with seed {state.seed}, this one has seed {seed}; resume with seed={state.seed}."
        )
    if state.lora != _lora(learner):
        raise CheckpointError(
            f"{path} was trained with {_adapters(state.lora)}, this run has {_adapters(_lora(learner))}; resume with "
            "the recipe that the run was started with."
        )
    model, average = (ADAPTERS, ADAPTERS_EMA) if state.lora else (MODEL, EMA)
    averages = {name: parameter.detach().clone() for name, parameter in learner.parameters.items()}
    _copy_into(learner.parameters, path / model)
    _copy_into(averages, path / average)
    learner.ema.load(averages, state.ema_steps)
    _load_moments(learner, path / OPTIMISER)
    learner.checksums.clear()
    learner.at_version(state.version)
    if learner.checksums[state.version] != state.checksum:
        raise CheckpointError(
            f"The weights in {path / model} have checksum {learner.checksums[state.version][:12]}, but {STATE} names "
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


def _lora(learner: Trained) -> dict[str, Any] | None:
    """The adapters' configuration as JSON gives it back."""
    adapters = learner.model.adapters
    return adapters.model_dump(mode="json") if adapters else None


def _adapters(lora: dict[str, Any] | None) -> str:
    return f"adapters {lora}" if lora else "no adapters"


def _moments(learner: Trained) -> dict[str, Tensor]:
    states = learner.optimiser.state
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in learner.parameters.items()
        for key, value in states.get(parameter, {}).items()
    }


def _load_moments(learner: Trained, path: Path) -> None:
    tensors, _ = read_tensors(path)
    moments: dict[str, dict[str, Tensor]] = {}
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
