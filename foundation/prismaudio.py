"""The released PrismAudio model as one object: velocity, autoencoder, conditions, and writing it back.

Source: FunAudioLLM/ThinkSound, branch prismaudio: PrismAudio/models/diffusion.py, dit.py, conditioners.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foundation import checkpoint
from foundation.conditioners import resample_time
from foundation.conditions import Conditions
from foundation.errors import CheckpointError, SamplingError
from foundation.flat import VAE_PREFIXES, load_strict, model_config, read_flat, vae_names, write_flat
from foundation.model import FlowModel
from foundation.release import Release

if TYPE_CHECKING:
    from foundation.oobleck import Oobleck

# 9 s of the released model: latent frames and sync tokens. Its sync conditioner interpolates to their ratio.
RELEASED_FRAMES, RELEASED_SYNC = 194, 216


@dataclass(frozen=True)
class ReleasedConditions(Conditions):
    """Conditioners' outputs, with sync also at its own rate, so that any latent length can be interpolated to.

    sync: (B, int(194 n / 216), width), as the released conditioner returns it. sync_tokens: (B, n, width).
    """

    sync_tokens: Tensor

    def __getitem__(self, index: slice | Tensor) -> ReleasedConditions:
        return ReleasedConditions(*(tensor[index] for tensor in self._all()))

    def repeat_interleave(self, times: int) -> ReleasedConditions:
        """Each clip's conditions `times` times in a row, clip-major."""
        return ReleasedConditions(*(tensor.repeat_interleave(times, dim=0) for tensor in self._all()))

    def to(self, device: torch.device | str) -> ReleasedConditions:
        """A copy on another device."""
        return ReleasedConditions(*(tensor.to(device) for tensor in self._all()))

    def at(self, length: int) -> Conditions:
        """For states of `length` latent frames: sync interpolated once, from its tokens."""
        same = self.sync.shape[1] == length
        return Conditions(self.video, self.text, self.sync if same else resample_time(self.sync_tokens, length))

    @staticmethod
    def cat(parts: Sequence[Conditions]) -> ReleasedConditions:
        """Concatenate along the batch; token counts must agree."""
        columns = zip(*(cast(ReleasedConditions, part)._all() for part in parts), strict=True)
        return ReleasedConditions(*(torch.cat(column) for column in columns))

    def _all(self) -> tuple[Tensor, ...]:
        return self.video, self.text, self.sync, self.sync_tokens


class PrismAudio:
    """Flow model and, where the files hold one, autoencoder.

    flow, codec: the modules; changes to their weights are what `save` writes. legacy_null_sync: the default of
    `conditions`.
    """

    def __init__(
        self,
        flow: FlowModel,
        codec: Oobleck | None = None,
        legacy_null_sync: bool = False,
        layout: dict[str, torch.dtype] | None = None,
    ):
        self.flow, self.codec, self.legacy_null_sync = flow, codec, legacy_null_sync
        self._layout = layout

    @property
    def device(self) -> torch.device:
        """Where the flow model is."""
        return self.flow.dit.empty_sync_feat.device

    def conditions(
        self,
        video: Tensor | Sequence[Tensor],
        text: Tensor | Sequence[Tensor],
        sync: Tensor | Sequence[Tensor],
        legacy_null_sync: bool | None = None,
    ) -> ReleasedConditions:
        """Encoder features, (B, tokens, channels) each or a list of B (tokens, channels), for `velocity`.

        Shorter texts and videos of a list are padded with zeros, as the released code pads them; sync features must be
        equally long. legacy_null_sync: give every clip the learned empty sync feature, as the released demo does by a
        mistake in its `predict.py`. Raises SamplingError for other dimensions.
        """
        config = self.flow.config
        given = Conditions(
            self._features("video", video, config.video_dim),
            self._features("text", text, config.text_dim),
            self._features("sync", sync, config.sync_dim),
        )
        batches = [len(tensor) for tensor in (given.video, given.text, given.sync)]
        if len(set(batches)) > 1:
            raise SamplingError(f"Video, text and sync features are of {batches} clips; give each of the same clips.")
        tokens = given.sync.shape[1]
        made = self.flow.condition(given, tokens)
        native = made.sync
        legacy = self.legacy_null_sync if legacy_null_sync is None else legacy_null_sync
        if legacy:
            native = self.flow.dit.empty_sync_feat.expand(batches[0], tokens, -1)
        length = max(1, RELEASED_FRAMES * tokens // RELEASED_SYNC)
        return ReleasedConditions(made.video, made.text, resample_time(native, length), native)

    def velocity(self, x: Tensor, t: Tensor | float, conditions: ReleasedConditions, cfg_scale: float = 1.0) -> Tensor:
        """State (B, C, L) and noise level, a number or (B,), to the velocity v = eps - x0 (B, C, L).

        cfg_scale: s of v_null + s (v - v_null); 1 switches guidance off. Raises SamplingError for other dimensions.
        """
        channels = self.flow.config.latent_channels
        if x.dim() != 3 or x.shape[1] != channels:
            raise SamplingError(f"A state is (B, {channels}, L), got {tuple(x.shape)}.")
        if isinstance(t, Tensor) and t.numel() not in (1, x.shape[0]):
            raise SamplingError(f"One noise level or one per state ({x.shape[0]}) is needed, got {tuple(t.shape)}.")
        length = x.shape[2]
        matched = conditions.at(length) if isinstance(conditions, ReleasedConditions) else conditions
        prepared = self.flow.prepare(matched, length, cfg_scale)
        return self.flow.velocity(x, t, prepared)

    def encode(self, waveform: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, 2, S) in [-1, 1] at 44.1 kHz to latents (B, C, S // hop): the mean, or a sample with given unit noise.

        Raises CheckpointError without an autoencoder, SamplingError for other dimensions.
        """
        codec = self._codec()
        if waveform.dim() != 3 or waveform.shape[1] != codec.audio_channels or waveform.shape[2] < codec.hop:
            raise SamplingError(
                f"A waveform is (B, {codec.audio_channels}, S) with at least {codec.hop} samples, got "
                f"{tuple(waveform.shape)}."
            )
        return codec.encode(waveform, noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, L) to (B, 2, L * hop) at 44.1 kHz, not limited to [-1, 1].

        Raises CheckpointError without an autoencoder, SamplingError for other dimensions.
        """
        codec = self._codec()
        if latents.dim() != 3 or latents.shape[1] != codec.channels or latents.shape[2] < 1:
            raise SamplingError(f"Latents are (B, {codec.channels}, L), got {tuple(latents.shape)}.")
        return codec.decode(latents)

    def state(self, vae: bool | None = None) -> dict[str, Tensor]:
        """The flat dict: names, order and types of the file it was read from, weights as they are now.

        vae: whether the autoencoder is in it; as in that file when None. A model that was not read from a file has the
        flow model's order, without one. Raises CheckpointError when an autoencoder is wanted and there is none.
        """
        layout = self._layout if self._layout is not None else {n: t.dtype for n, t in self.flow.state_dict().items()}
        prefix, held = vae_names(layout)
        if vae is False:
            layout = {name: dtype for name, dtype in layout.items() if name not in set(held)}
        tensors = dict(self.flow.state_dict())
        if vae or (vae is None and held):
            official = self._codec().official_state(prefix if held else VAE_PREFIXES[0])
            tensors |= official
            layout = layout if held else layout | {name: tensor.dtype for name, tensor in official.items()}
        return {name: tensors[name].to(dtype) for name, dtype in layout.items()}

    def save(self, path: str | Path, vae: bool | None = None) -> None:
        """Write `state` as .ckpt or .safetensors. Raises CheckpointError."""
        write_flat(path, self.state(vae))

    def _codec(self) -> Oobleck:
        if self.codec is None:
            raise CheckpointError("This model was read without an autoencoder; put vae.ckpt beside its file.")
        return self.codec

    def _features(self, name: str, given: Tensor | Sequence[Tensor], channels: int) -> Tensor:
        """(B, tokens, channels) on the model's device and in its type."""
        parts = [given] if isinstance(given, Tensor) else list(given)
        axes = 3 if isinstance(given, Tensor) else 2
        lengths = {part.shape[-2] for part in parts if part.dim() == axes}
        wrong = [part for part in parts if part.dim() != axes or part.shape[-1] != channels or part.shape[-2] < 1]
        if wrong or not parts:
            raise SamplingError(
                f"The {name} features must be (B, tokens, {channels}), or a list of (tokens, {channels}) tensors; got "
                f"{[tuple(part.shape) for part in wrong] or 'an empty list'}."
            )
        if name == "sync" and len(lengths) > 1:
            raise SamplingError(f"The clips' sync features are of {sorted(lengths)} tokens; cut them to one length.")
        stacked = given if isinstance(given, Tensor) else pad_sequence(parts, batch_first=True)
        return stacked.to(self.device, self.flow.dit.empty_sync_feat.dtype)


def load(path: str | Path, device: torch.device | str = "cpu", legacy_null_sync: bool = False) -> PrismAudio:
    """Read a release folder or a flat file (.ckpt, .safetensors), in evaluation mode; dimensions come from the shapes.

    The autoencoder: of a folder, `vae.ckpt` where there is one, as the released code loads it over the model file's;
    of a file, its own if it has one, otherwise `vae.ckpt` beside it; none is no error. A checkpoint of a training run
    takes the one of the release that the run began from. On the CPU the weights stay mapped to the file: it may be
    replaced, but not written into, while the model lives.
    Raises CheckpointError naming missing, unexpected and misshaped keys.
    """
    path = Path(path)
    release = Release.find(path)
    tensors = read_flat(release.model, device)
    inside = {name: tensors[name] for name in vae_names(tensors)[1]}
    own = {name: tensor for name, tensor in tensors.items() if name not in inside}
    separate = _vae_beside(release)
    problems = []
    flow = codec = None
    try:
        flow = _flow_of(own, str(release.model))
    except CheckpointError as error:
        problems.append(str(error))
    try:
        if separate is not None and (path.is_dir() or not inside):
            codec = read_codec(separate, device)
        elif inside:
            codec = _codec_of(inside, str(release.model))
    except CheckpointError as error:
        problems.append(str(error))
    if flow is None or problems:
        raise CheckpointError(" ".join(problems))
    if codec is not None and codec.channels != flow.config.latent_channels:
        raise CheckpointError(
            f"{release.model} makes latents of {flow.config.latent_channels} channels, but its autoencoder has "
            f"{codec.channels}; put the one that it was trained with beside it."
        )
    layout = {name: tensor.dtype for name, tensor in tensors.items()}
    return PrismAudio(flow, codec, legacy_null_sync, layout)


def read_codec(path: str | Path, device: torch.device | str = "cpu") -> Oobleck:
    """The autoencoder of a file in any of its layouts. Raises CheckpointError."""
    return _codec_of(read_flat(path, device), str(path))


def _flow_of(tensors: dict[str, Tensor], source: str) -> FlowModel:
    config = model_config(tensors)
    with torch.device("meta"):
        flow = FlowModel(config)
    load_strict(flow, tensors, source)
    return flow.eval()


def _codec_of(tensors: dict[str, Tensor], source: str) -> Oobleck:
    from foundation.oobleck import Oobleck  # diffusers, which nobody needs who has no autoencoder

    return Oobleck.of(tensors, source).to(next(iter(tensors.values())).device)


def _vae_beside(release: Release) -> Path | None:
    """vae.ckpt of the release, or of the one that a run's checkpoint began from."""
    if release.vae is not None or release.model.suffix != ".safetensors":
        return release.vae
    began = checkpoint.read_metadata(release.model).get("extra", {}).get("release")
    return Release.find(began).vae if began and Path(began).is_dir() else None
