"""What a model file holds, without its values: names and shapes of its tensors and the plain entries beside them.

No tensor is read, so a file of gigabytes costs milliseconds. Nothing in a file is ever executed.
"""

import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rewards_service.errors import RewardError

Shapes = dict[str, tuple[int, ...]]
LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Header:
    """Contents of a model file.

    tensors: shapes by name, by the key of the dict that holds them; "" for those at the top, as all of safetensors are.
    others: the remaining entries at the top, such as a configuration; the metadata of safetensors.
    """

    tensors: dict[str, Shapes] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def named(self, key: str = "") -> Shapes:
        """Shapes under a key; none when it is not there."""
        return self.tensors.get(key, {})


def read_header(path: str | Path) -> Header:
    """Header of a safetensors file or of what `torch.save` wrote.

    Raises RewardError: no such file, a Git LFS pointer, a damaged file, one that asks for code to be run, one that
    holds something else than a dict.
    """
    path = Path(path)
    if not path.is_file():
        raise RewardError(f"There is no file {path}.")
    with path.open("rb") as file:
        start = file.read(len(LFS))
    if start == LFS:
        raise RewardError(f"{path} is a Git LFS pointer, not the file it stands for; fetch it with `git lfs pull`.")
    return _safetensors(path) if path.suffix == ".safetensors" else _torch(path)


def _safetensors(path: Path) -> Header:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            return Header({"": shapes} if shapes else {}, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise RewardError(f"{path} is not a whole safetensors file ({error}); copy it again.") from error


def _torch(path: Path) -> Header:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(plain_numpy()):
            warnings.simplefilter("ignore")
            content: Any = torch.load(path, map_location="meta", weights_only=True)
    except UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise RewardError(f"{path} is no model file of torch ({_reason(error)}).") from error
        raise RewardError(
            f"{path} was refused: it asks for {asked[1]}, and reading weights needs no code. If you trust its source, "
            "save its tensors alone with torch.save or safetensors."
        ) from error
    except Exception as error:  # a damaged file can end the reader in any way
        raise RewardError(f"{path} is damaged or no model file ({_reason(error)}); copy it again.") from error
    if not isinstance(content, dict):
        raise RewardError(f"{path} holds a {type(content).__name__}; expected a dict of tensors.")
    return _sorted(content)


def _sorted(content: dict[Any, Any]) -> Header:
    header = Header()
    for key, value in content.items():
        if isinstance(value, Tensor):
            header.tensors.setdefault("", {})[str(key)] = tuple(value.shape)
        elif isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values()):
            header.tensors[str(key)] = {str(k): tuple(v.shape) for k, v in value.items() if isinstance(v, Tensor)}
        else:
            header.others[str(key)] = value
    return header


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, as in config.json. Raises RewardError when it is absent or is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RewardError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise RewardError(f"{path} holds a {type(content).__name__}; expected an object.")
    return content


def plain_numpy() -> list[Any]:
    """Numbers of numpy, which training checkpoints hold beside their tensors, in the form `safe_globals` takes.

    They run nothing. Files name the module by the numpy they were written with.
    """
    core: Any = getattr(np, "_core", None) or np.core  # pyright: ignore[reportAttributeAccessIssue]
    scalar = core.multiarray.scalar
    named = [(scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")]
    return [*named, np.dtype, *{type(np.dtype(code)) for code in "fdeilqILQ?"}]


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("Unsupported")), lines[0] if lines else type(error).__name__)
    return told[:200].rstrip(".")
