"""Reading and writing models: safetensors with JSON metadata, whole or not at all, finite numbers only."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from foundation.config import ModelConfig
from foundation.errors import CheckpointError
from foundation.model import FlowModel
from foundation.replacing import replacing

FORMAT = 1
_OWN = ("model.", "conditioner.")


@dataclass(frozen=True)
class Checkpoint:
    """A flow model as read from a file.

    extra: what the writer put beside it (vocabulary, provenance, ...). others: tensors of modules other than the flow
    model, such as the encoders', under the names they were saved with.
    """

    path: Path
    model: FlowModel
    extra: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)


def save(
    path: str | Path,
    model: FlowModel,
    extra: Mapping[str, Any] | None = None,
    others: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a flow model with its dimensions, JSON-like `extra`, and `others`, tensors of further modules.

    Names in `others` must not start with "model." or "conditioner.", which are the flow model's.
    Raises CheckpointError: numbers that are not finite, a clash of names, no space or right to write.
    """
    tensors = dict(model.state_dict())
    for name, tensor in (others or {}).items():
        if name.startswith(_OWN):
            raise CheckpointError(f"Tensor {name!r} clashes with the flow model's names; give it another prefix.")
        tensors[name] = tensor
    write_tensors(path, tensors, {"format": FORMAT, "config": model.config.model_dump(), "extra": dict(extra or {})})


def load(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read what `save` wrote, in evaluation mode.

    Raises CheckpointError: no such file, another kind of file, truncated, no model description, tensors that do not fit
    the described dimensions, NaN or infinity.
    """
    tensors, metadata = read_tensors(path, device)
    if "config" not in metadata:
        raise CheckpointError(
            f"{path} has no model description in its metadata; expected a checkpoint written by `prism pretrain` or "
            "`prism train`."
        )
    try:
        config = ModelConfig(**metadata["config"])
    except (ValidationError, TypeError) as error:
        raise CheckpointError(f"{path} describes a model that this version does not know: {error}") from error
    with torch.device("meta"):
        model = FlowModel(config)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(_OWN)}
    load_state(model, own, source=str(path), assign=True)
    others = {name: tensor for name, tensor in tensors.items() if name not in own}
    return Checkpoint(Path(path), model.eval(), metadata.get("extra", {}), others)


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], source: str, assign: bool = False) -> None:
    """Strictly load tensors into a module.

    assign: take the tensors as they are (for modules on the meta device) instead of copying into the module's.
    Raises CheckpointError listing missing, unexpected and misshaped keys.
    """
    expected = module.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    misshaped = [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    problems = [
        f"{label}: {_some(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("other dimensions", misshaped))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source} does not fit the model. {'; '.join(problems)}. Use the recipe that the checkpoint was made with."
        )
    if assign:
        tensors = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    module.load_state_dict(dict(tensors), strict=True, assign=assign)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write finite tensors and JSON metadata: a temporary file beside `path`, synced, then renamed over it.

    Raises CheckpointError; the old file, if any, is then untouched and nothing half-written is left.
    """
    path = Path(path)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _require_finite(whole, f"Refusing to write {path}")
    try:
        described = {"prism": json.dumps(dict(metadata), sort_keys=True)}
    except TypeError as error:
        raise CheckpointError(f"The metadata of {path} is not plain JSON: {error}") from error
    with replacing(path, sum(tensor.nbytes for tensor in whole.values())) as temporary:
        save_file(whole, temporary, described)


def read_tensors(path: str | Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON metadata of a safetensors file. Raises CheckpointError as `load` does."""
    path = Path(path)
    with _opened(path, device) as (file, metadata):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    _require_finite(tensors, f"Refusing to load {path}")
    return tensors, metadata


def read_metadata(path: str | Path) -> dict[str, Any]:
    """JSON metadata of a safetensors file, without its tensors. Raises CheckpointError as `load` does."""
    with _opened(Path(path), "cpu") as (_, metadata):
        return metadata


@contextmanager
def _opened(path: Path, device: torch.device | str) -> Iterator[tuple[Any, dict[str, Any]]]:
    if not path.exists():
        raise CheckpointError(f"No checkpoint at {path}; check the path or make one with `prism pretrain`.")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; expected a .safetensors file inside it.")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            yield file, json.loads((file.metadata() or {}).get("prism", "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is not a complete safetensors file: {error}. It was cut short or is "
            "of another kind; copy it again, or convert it."
        ) from error
    except OSError as error:
        raise CheckpointError(f"Could not read {path}: {error.strerror or error}.") from error


def checksum(state: Mapping[str, np.ndarray]) -> str:
    """blake2b over sorted names, types, shapes and bytes; equal weights give equal sums on every worker."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        array = np.ascontiguousarray(state[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _require_finite(tensors: Mapping[str, Tensor], intent: str) -> None:
    broken = sorted(n for n, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all())
    if broken:
        raise CheckpointError(f"{intent}: NaN or infinite values in {_some(broken)}. Go back to an earlier checkpoint.")


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
