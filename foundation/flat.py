"""Reading and writing flat state dicts: the layout of the released model, `.ckpt` or safetensors.

A flat file maps official names to tensors: `model.*` and `conditioner.*` (the flow model), `pretransform.model.*` (the
autoencoder, where it is in the file). Lightning files hold theirs under "state_dict".
"""

import json
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from foundation.config import ModelConfig
from foundation.errors import CheckpointError
from foundation.replacing import replacing
from settings import PrismError

TORCH_SUFFIXES = (".ckpt", ".pth", ".pt")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
FLOW = ("model.model.", "conditioner.")
VAE_PREFIXES = ("pretransform.model.", "autoencoder.", "model.", "")
LISTED = 50  # names per kind of problem in one message

_ORDER = "order"  # metadata of our safetensors files: the names in their original order
_T = "model.model.transformer."
_C = "conditioner.conditioners."


def read_flat(path: str | Path, device: torch.device | str = "cpu", only: Sequence[str] = ()) -> dict[str, Tensor]:
    """Tensors of a file by name, in the order they were written in.

    On the CPU they are views of the mapped file wherever its format allows it: nothing is held twice, and several
    processes share the pages. Writing to them changes memory only. only: prefixes of the names to read; all when empty.
    Raises CheckpointError: no such file, another kind of file, objects other than tensors, cut short, NaN or infinity.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; expected one of its files ({', '.join(SUFFIXES)}).")
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint {path}; check the path.")
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path} ends in {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    wanted = tuple(only)
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    tensors = read(path, device, wanted)
    require_finite(tensors, f"Refusing to load {path}")
    return tensors


def write_flat(path: str | Path, tensors: Mapping[str, Tensor], key: str | None = None) -> None:
    """Write tensors in their order, as `torch.save` or safetensors by the suffix: whole or not at all.

    key: put the dict under this key, as Lightning does with "state_dict"; safetensors files have no such level.
    Raises CheckpointError: another suffix, NaN or infinity, no space or right to write; an old file is then untouched.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"Cannot write {path}: the name must end in one of {', '.join(SUFFIXES)}.")
    whole = _owned(tensors)
    require_finite(whole, f"Refusing to write {path}")
    with replacing(path, sum(tensor.nbytes for tensor in whole.values())) as temporary:
        if path.suffix == ".safetensors":
            # One entry alone: several would be written in no fixed order, and equal models would differ in their bytes.
            save_file(whole, temporary, {_ORDER: json.dumps(list(whole))})
        else:
            with open(temporary, "wb") as file:  # a name instead would be written into the archive
                torch.save({key: whole} if key else whole, file)


def require_finite(tensors: Mapping[str, Tensor], intent: str) -> None:
    """Raise CheckpointError naming the tensors with NaN or infinite values."""
    broken = [name for name, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if broken:
        raise CheckpointError(f"{intent}: NaN or infinite values in {some(broken)}. Get a sound copy of the file.")


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Give a module, usually on the meta device, exactly these tensors, cast to its own types.

    Raises CheckpointError naming missing, unexpected and misshaped keys.
    """
    expected = module.state_dict()
    compare(expected, tensors, source)
    cast = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    module.load_state_dict(cast, strict=True, assign=True)


def compare(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError naming every missing, unexpected and misshaped key, if there is one."""
    misshaped = [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "other dimensions": misshaped,
    }
    problems = [f"{kind} ({len(names)}): {some(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise CheckpointError(
            f"{source} does not fit the released layout. {'; '.join(problems)}. Expected the flat state dict of the "
            "released model, possibly at other dimensions; check that this is the right file and that it is whole."
        )


def model_config(tensors: Mapping[str, Tensor]) -> ModelConfig:
    """Dimensions of the flow model, read from the shapes of a flat dict.

    Each dimension is what most of the tensors that share it say, so that one broken tensor is reported as such and not
    as all others; a dimension that no tensor tells is the released model's. Raises CheckpointError when these are not
    tensors of such a model, or the dimensions contradict each other.
    """
    if not any(name.startswith(FLOW) for name in tensors):
        raise CheckpointError(
            f"No flow model here: no name begins with {' or '.join(FLOW)}; the names are {some(tensors, 5)}."
        )
    layers = {int(found[1]) for name in tensors if (found := re.match(re.escape(_T) + r"layers\.(\d+)\.", name))}
    released = ModelConfig.released()

    def vote(default: int, *places: tuple[str, str], unit: int = 1) -> int:
        """What most tensors say; a place is a name and its axes, with x for the one that is asked for."""
        votes = Counter(
            tensors[name].shape[axes.index("x")] // unit
            for name, axes in places
            if name in tensors and tensors[name].dim() == len(axes)
        )
        return votes.most_common(1)[0][0] if votes else default

    def each(name: str, axes: str) -> list[tuple[str, str]]:
        return [(f"{_T}layers.{i}.{name}", axes) for i in sorted(layers)]

    m, project_in, project_out = "model.model.", _T + "project_in.weight", _T + "project_out.weight"
    width = vote(released.width, (project_in, "x."), (project_out, ".x"), (_T + "gate", "..x"),
                 (m + "empty_clip_feat", ".x"), *each("pre_norm.gamma", "x"),
                 *each("self_attn.to_out.weight", "x."))  # fmt: skip
    norms = (f"{kind}_attn.{part}_norm.weight" for kind in ("self", "cross") for part in "qk")
    head = vote(64, *(place for name in norms for place in each(name, "x")))

    def features(part: str, *more: tuple[str, str]) -> int:
        # A conditioner has proj_out wherever its input is not as wide as its output.
        return vote(width, (f"{_C}{part}.embedder.0.weight", ".x"), (f"{_C}{part}.proj_out.weight", ".x"), *more)

    try:
        return ModelConfig(
            latent_channels=vote(released.latent_channels, (project_in, ".x"), (project_out, "x."),
                                 (m + "preprocess_conv.weight", "x.."), (m + "postprocess_conv.weight", "x..")),
            width=width,
            depth=max(layers, default=0) + 1,
            heads=max(1, width // max(1, head)),
            video_dim=features("video_features"),
            text_dim=features("text_features"),
            sync_dim=features("sync_features", (_C + "sync_features.sync_pos_emb", "...x")),
            sync_segment=vote(released.sync_segment, (_C + "sync_features.sync_pos_emb", "..x.")),
            timestep_features=2 * vote(released.timestep_features // 2, (m + "timestep_features.weight", "x.")),
            ff_mult=vote(released.ff_mult, *each("ff.ff.2.weight", ".x"), unit=width),
        )  # fmt: skip
    except (ValidationError, PrismError) as error:
        raise CheckpointError(f"The tensors' shapes describe no model that can be built: {error}") from error


def vae_names(tensors: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Which of VAE_PREFIXES the autoencoder's names have in a dict, and these names; no names where there is none.

    The two long prefixes are the autoencoder's alone; under the others it is encoder.* and decoder.*.
    """
    for prefix in VAE_PREFIXES:
        halves = (prefix + "encoder.", prefix + "decoder.")
        if any(name.startswith(halves) for name in tensors):
            whole = prefix in VAE_PREFIXES[:2]
            return prefix, [name for name in tensors if name.startswith(prefix if whole else halves)]
    return "", []


def some(names: Iterable[str], most: int = LISTED) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _read_safetensors(path: Path, device: torch.device | str, only: tuple[str, ...]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            names = list(file.offset_keys())
            order = json.loads((file.metadata() or {}).get(_ORDER, "[]"))
            if isinstance(order, list) and set(order) == set(names):
                names = order
            return {name: file.get_tensor(name) for name in names if not only or name.startswith(only)}
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{_size(path)} is not a complete safetensors file: {error}. Copy it again.") from error


def _read_torch(path: Path, device: torch.device | str, only: tuple[str, ...]) -> dict[str, Tensor]:
    try:
        # Files from before torch 1.6 are not zip archives and cannot be mapped.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{_size(path)} is cut short or holds more than tensors: {str(error).splitlines()[0]} Such files can run "
            "any code and are not opened; save the dict of tensors alone."
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{_size(path)} cannot be read: {error}. It was cut short; copy it again.") from error
    return {
        name: tensor if str(device) == "cpu" else tensor.to(device)
        for name, tensor in _unwrapped(path, loaded).items()
        if not only or name.startswith(only)
    }


def _unwrapped(path: Path, loaded: Any) -> dict[str, Tensor]:
    """The dict of tensors, which Lightning keeps under "state_dict" beside its own records."""
    inner = loaded.get("state_dict") if isinstance(loaded, dict) else None
    found = inner if isinstance(inner, Mapping) else loaded
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not names and tensors.")
    others = [str(name) for name, value in found.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise CheckpointError(f"{path} holds entries that are not tensors: {some(others, 10)}.")
    return dict(found)


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that own their storage alone, as both writers need them; copied only where they do not."""
    owned, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(storage.data_ptr())
        owned[name] = tensor
    return owned


def _size(path: Path) -> str:
    return f"{path} ({path.stat().st_size} bytes)"
