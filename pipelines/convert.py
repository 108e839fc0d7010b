"""`prism convert`, `prism export`: released files in another format, and a trained model as a released file."""

from pathlib import Path

import torch
from torch import Tensor

from foundation import checkpoint, prismaudio
from foundation.build import RELEASE
from foundation.errors import CheckpointError
from foundation.flat import (
    FLOW,
    TORCH_SUFFIXES,
    VAE_PREFIXES,
    compare,
    load_strict,
    model_config,
    read_flat,
    vae_names,
    write_flat,
)
from foundation.model import FlowModel
from foundation.oobleck import Oobleck
from foundation.release import Release
from pipelines.recipe import find_model

LIGHTNING = "autoencoder."  # names in vae.ckpt, which Lightning keeps under "state_dict"


def convert(source: Path, target: Path, vae: Path | None = None, without_vae: bool = False) -> Path:
    """Write a released model or autoencoder file, or the model of a release folder, as the suffix of `target` says.

    Names, types and their order stay. vae: a file whose autoencoder goes into the model's file, in place of one that is
    there; without_vae: leave it out. Returns `target`. Raises CheckpointError: a file that does not fit the released
    layout, or a target that exists.
    """
    _require_new(target)
    path = Release.find(source).model if source.is_dir() else source
    tensors = read_flat(path)
    _, held = vae_names(tensors)
    has_flow = any(name.startswith(FLOW) for name in tensors)
    if (vae is not None or without_vae) and not has_flow:
        raise CheckpointError(f"{path} holds no flow model, so an autoencoder can neither join nor leave it.")
    if vae is not None or without_vae:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in set(held)}
    if vae is not None:
        tensors |= _released_vae(vae)
    _check(tensors, str(path), has_flow)
    lightning = target.suffix in TORCH_SUFFIXES and not has_flow and vae_names(tensors)[0] == LIGHTNING
    write_flat(target, tensors, key="state_dict" if lightning else None)
    return target


def export(source: Path, target: Path, release: Path | None = None) -> Path:
    """Write a run's model as the whole flat file of its release: same names, order and types, autoencoder included.

    source: a run folder, one of its checkpoint folders, or a model file in one. release: the release that the run began
    from, where it is no longer in the folder that the checkpoint names. Returns `target`.
    Raises CheckpointError: not a checkpoint of such a run, other dimensions than the release's, a target that exists.
    """
    _require_new(target)
    path = find_model(source)
    began = release or _began(path)
    model = prismaudio.load(began)
    tensors = read_flat(path)
    compare(model.flow.state_dict(), tensors, f"{path}, to be written in the layout of {began},")
    load_strict(model.flow, tensors, str(path))
    model.save(target, vae=True if model.codec is not None else None)
    return target


def _require_new(target: Path) -> None:
    if target.exists():
        raise CheckpointError(f"{target} exists already; models are never written over. Choose another name.")


def _released_vae(path: Path) -> dict[str, Tensor]:
    """The autoencoder of a file under the names that it has in the model's file."""
    return Oobleck.of(read_flat(path), str(path)).official_state(VAE_PREFIXES[0])


def _check(tensors: dict[str, Tensor], source: str, has_flow: bool) -> None:
    """Strict, so that nothing is written that could not be read again. Other kinds of file pass as they are."""
    _, held = vae_names(tensors)
    if held:
        Oobleck.of({name: tensors[name] for name in held}, source)
    if has_flow:
        own = {name: tensor for name, tensor in tensors.items() if name not in set(held)}
        with torch.device("meta"):
            expected = FlowModel(model_config(own)).state_dict()
        compare(expected, own, source)


def _began(path: Path) -> Path:
    """The folder that a checkpoint's metadata names as the release which training began from."""
    extra = checkpoint.read_metadata(path).get("extra", {}) if path.suffix == ".safetensors" else {}
    if RELEASE not in extra:
        raise CheckpointError(
            f"{path} does not name a release that it was trained from; only models that began from one can be written "
            "as a released file. If this one did, name the folder with --release."
        )
    folder = Path(extra[RELEASE])
    if not folder.exists():
        raise CheckpointError(
            f"{path} was trained from the release in {folder}, which is gone; name it with --release."
        )
    return folder
