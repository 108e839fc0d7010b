"""Small weight files of the reward models: safetensors with the model's description as JSON in the header."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rewards_service.errors import RewardError


def write_weights(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and their description, atomically. Raises RewardError when the disk refuses."""
    path = Path(path)
    tensors = {name: t.detach().contiguous() for name, t in tensors.items()}
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(save(tensors, metadata={"about": json.dumps(about)}))
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RewardError(f"Cannot write {path}: {error}. Free some space or choose another place.") from error


def read_weights(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a file whose description says `kind`.

    Raises RewardError when the file is absent, damaged, of another kind or holds values that are not numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise RewardError(f"No {kind} weights at {path}; `prism pretrain` makes them, or point the recipe at a file.")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise RewardError(f"{path} is not a readable safetensors file ({error}); make it again.") from error
    if about.get("kind") != kind:
        raise RewardError(f"{path} holds {about.get('kind', 'an unknown kind of')!r} weights; expected {kind!r}.")
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if bad:
        raise RewardError(f"{path} holds NaN or Inf in {', '.join(bad)}; make it again.")
    return tensors, about
