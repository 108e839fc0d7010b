"""Reading checkpoints of released reward models safely, and saying everything that is wrong with them."""

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rewards_service.errors import RewardError

UNDER = ("model", "state_dict")
"""Where a file with other records beside the tensors keeps them."""
Shapes = dict[str, tuple[int, ...]]
_LISTED = 20


def read(path: str | Path, what: str) -> dict[str, Tensor]:
    """Tensors of a .pt, .pth or .safetensors file by name, without the `module.` of wrapped models.

    Only tensors and plain values are read, numbers of numpy included (trainers keep a best score in one); a file that
    asks for anything else could run any code and is refused. Mapped where the format allows it. Raises RewardError: no
    such file, another kind of content, cut short, no tensors, NaN or infinity.
    """
    if not Path(path).is_file():
        raise RewardError(f"There is no {what} at {str(path)!r}; give the file's path in the option weights.")
    path = Path(path)
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if bad:
        raise RewardError(f"{path} holds NaN or infinity in {_some(bad)}; copy it again.")
    return tensors


def shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    """Shape of every tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def compare(expected: Shapes, found: Shapes, source: str | Path, may_lack: str = "", may_have: str = "") -> None:
    """Raise RewardError naming the missing, the unexpected and the misshaped tensors of a file, if there are any.

    may_lack, may_have: patterns of names that do not matter (constants that versions of a library store or do not).
    """

    def matters(name: str, pattern: str) -> bool:
        return not (pattern and re.fullmatch(pattern, name))

    both = [name for name in expected if name in found]
    problems = {
        "missing": [name for name in expected if name not in found and matters(name, may_lack)],
        "unexpected": [name for name in found if name not in expected and matters(name, may_have)],
        "of another shape": [
            f"{name} {found[name]}, expected {expected[name]}" for name in both if found[name] != expected[name]
        ],
    }
    told = [f"{kind} ({len(names)}): {_some(names)}" for kind, names in problems.items() if names]
    if told:
        raise RewardError(f"{source} is not a file of this model. {'; '.join(told)}.")


def _torch(path: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals(_numpy_numbers()):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise RewardError(
            f"{path} is cut short or holds more than tensors and is not opened: {str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise RewardError(f"{path} cannot be read: {error}. Copy it again.") from error
    for key in UNDER:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise RewardError(f"{path} holds no dict of tensors, neither bare nor under {' or '.join(UNDER)}.")
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name.removeprefix("module."): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise RewardError(f"{path} is not a complete safetensors file: {error}. Copy it again.") from error


def _numpy_numbers() -> list[Any]:
    """What a pickled numpy number consists of, under the names that numpy 1 and 2 give it."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *kinds]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
