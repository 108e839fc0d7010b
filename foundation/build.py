"""From a checkpoint file or a release folder to everything that turns a clip and a plan into sound.

Packages that only the released model needs are imported when one is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from foundation import checkpoint
from foundation.checkpoint import Checkpoint
from foundation.codec import Codec
from foundation.embedded import EmbeddedEncoder
from foundation.errors import CheckpointError
from foundation.model import FlowModel
from foundation.release import EncodingConfig, Release
from foundation.vocoder import Vocoder

if TYPE_CHECKING:
    from foundation.released_encoders import ReleasedEncoders

RELEASE = "release"  # in a checkpoint's `extra`: the folder of the release that training began from
RELEASED_SECONDS = 9.0


@dataclass(frozen=True)
class Foundation:
    """A flow model with the encoders of its conditions and its codec.

    seconds: the clip length it was trained on. extra: the checkpoint's provenance. path: where it was read from; a
    foundation with a path is pickled as that path, so that it travels without its weights.
    """

    flow: FlowModel
    encoder: EmbeddedEncoder | ReleasedEncoders
    codec: Codec
    seconds: float
    extra: dict[str, Any]
    path: str | None = None

    def frames(self, seconds: float) -> int:
        """Latent frames of a clip of this length."""
        return max(1, round(seconds * self.codec.sample_rate / self.codec.hop))

    def save(self, path: str | Path, extra: dict[str, Any] | None = None) -> None:
        """Write an embedded model into one safetensors file. Raises CheckpointError, for a released one too."""
        if not isinstance(self.encoder, EmbeddedEncoder):
            raise CheckpointError("A released model is written in its own layout; use `prism export`.")
        described = {**(extra or self.extra), **self.encoder.described(), "seconds": self.seconds}
        checkpoint.save(path, self.flow, described, self.encoder.tensors())

    def __reduce__(self) -> tuple[Callable[..., Foundation], tuple[Any, ...]]:
        if self.path is not None:
            return load_foundation, (self.path,)
        return Foundation, (self.flow, self.encoder, self.codec, self.seconds, self.extra)


def load_model(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """The flow model of an embedded checkpoint, a release (folder or file) or a checkpoint of a run, ready to train.

    `extra["release"]` names the release folder where there is one; `others` then holds nothing, since the codec and the
    encoders stay in that folder. Raises CheckpointError.
    """
    if not _is_release(path):
        return checkpoint.load(path, device)
    from foundation import prismaudio

    release = Release.find(path)
    return Checkpoint(Path(path), prismaudio.load(release.model, device).flow, {RELEASE: str(release.folder)})


def load_codec(path: str | Path, device: torch.device | str = "cpu") -> Codec:
    """The codec of what `load_model` reads, in evaluation mode. Raises CheckpointError."""
    release = _release_of(path)
    if release is None:
        return Vocoder().to(device)
    from foundation import prismaudio

    return prismaudio.read_codec(release.vae or release.model, device)


def load_foundation(
    path: str | Path,
    device: torch.device | str = "cpu",
    encoding: EncodingConfig = EncodingConfig(),  # noqa: B008  (immutable)
) -> Foundation:
    """Everything of what `load_model` reads, in evaluation mode; encoders of a release are read when first used.

    encoding: how those run. Raises CheckpointError, also when the parts do not fit each other.
    """
    loaded, codec = load_model(path, device), load_codec(path, device)
    if codec.channels != loaded.model.config.latent_channels:
        raise CheckpointError(
            f"{path} makes latents of {loaded.model.config.latent_channels} channels, but its codec has "
            f"{codec.channels}; a model for another codec needs that codec's file beside it."
        )
    release = _release_of(path, loaded.extra)
    if release is not None:
        from foundation.released_encoders import ReleasedEncoders

        encoder = ReleasedEncoders(release, device, encoding.max_tokens, getattr(torch, encoding.weights))
        return Foundation(loaded.model, encoder, codec, RELEASED_SECONDS, loaded.extra, str(path))
    encoder = EmbeddedEncoder.restored(loaded.extra, loaded.others, str(path))
    encoder.encoders.to(device)
    try:
        seconds = float(loaded.extra["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not say how long its clips are ({error}); make it again.") from error
    return Foundation(loaded.model, encoder, codec, seconds, loaded.extra, str(path))


def _release_of(path: str | Path, extra: dict[str, Any] | None = None) -> Release | None:
    """The release behind a path: itself, or the one that a run's checkpoint began from."""
    if _is_release(path):
        return Release.find(path)
    known = checkpoint.read_metadata(path).get("extra", {}) if extra is None else extra
    if RELEASE not in known:
        return None
    try:
        return Release.find(known[RELEASE])
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} was trained from the release in {known[RELEASE]}, whose codec and encoders it still needs: {error}"
        ) from error


def _is_release(path: str | Path) -> bool:
    """A folder is one; a file is one unless it carries the description that our own checkpoints have."""
    path = Path(path)
    if path.is_dir() or path.suffix in (".ckpt", ".pth", ".pt"):
        return True
    return path.is_file() and "config" not in checkpoint.read_metadata(path)
