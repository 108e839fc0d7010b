"""The released audio autoencoder: Oobleck of Stable Audio, with diffusers' blocks under the official names.

Source of the layout: stable-audio-tools/models/autoencoders.py, bottleneck.py as used by PrismAudio. Only this module
imports diffusers.
"""

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder, OobleckEncoder
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from foundation.errors import CheckpointError
from foundation.flat import VAE_PREFIXES, load_strict, some, vae_names

SAMPLE_RATE = 44_100
LEAST_STD = 1e-4
FRAMES = 512  # latent frames at once, clips times length: about 3 GB of activations at full size in fp32

_UNIT = {"layers.0": "snake1", "layers.1": "conv1", "layers.2": "snake2", "layers.3": "conv2"}
_ENCODER_BLOCK = {**{f"layers.{i}": f"res_unit{i + 1}" for i in range(3)}, "layers.3": "snake1", "layers.4": "conv1"}
_DECODER_BLOCK = {
    "layers.0": "snake1",
    "layers.1": "conv_t1",
    **{f"layers.{i + 2}": f"res_unit{i + 1}" for i in range(3)},
}


class Oobleck(nn.Module):
    """Implements `foundation.codec.Codec`. Its `state_dict` has the official names, beginning encoder. and decoder.

    audio_channels: of the waveform. width: of the first convolution. multiples, strides: per encoder block, outermost
    first. channels: of the latents. decoder_*: as the encoder's where not given.
    """

    def __init__(
        self,
        channels: int = 64,
        width: int = 128,
        multiples: tuple[int, ...] = (1, 2, 4, 8, 16),
        strides: tuple[int, ...] = (2, 4, 4, 8, 8),
        audio_channels: int = 2,
        decoder_width: int | None = None,
        decoder_multiples: tuple[int, ...] | None = None,
        sample_rate: int = SAMPLE_RATE,
    ):
        super().__init__()
        self.channels, self.strides, self.audio_channels, self.sample_rate = (
            channels,
            strides,
            audio_channels,
            sample_rate,
        )
        self.hop = math.prod(strides)
        # Without a graph, the folded weights that weight norm leaves beside its two parts can be copied.
        with warnings.catch_warnings(), torch.no_grad():
            # The released files are in the form of the older weight norm, which diffusers therefore still uses.
            warnings.filterwarnings("ignore", message=".*weight_norm.*", category=FutureWarning)
            self.encoder = OobleckEncoder(width, audio_channels, list(strides), list(multiples))
            # diffusers ties the number of outputs to the width of the first convolution, the official code does not.
            self.encoder.conv2 = weight_norm(nn.Conv1d(width * multiples[-1], 2 * channels, 3, padding=1))
            self.decoder = OobleckDecoder(
                decoder_width or width,
                channels,
                audio_channels,
                list(strides[::-1]),
                list(decoder_multiples or multiples),
            )
        names = {name: _official(name, len(strides)) for name in self.encoder.state_dict(prefix="encoder.")}
        names |= {name: _official(name, len(strides)) for name in self.decoder.state_dict(prefix="decoder.")}
        self._names = names
        self.register_state_dict_post_hook(_to_official)
        self.register_load_state_dict_pre_hook(_from_official)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], source: str = "the checkpoint") -> "Oobleck":
        """The autoencoder in a dict of tensors, under any of VAE_PREFIXES; its dimensions come from the shapes.

        Other names are not looked at. Raises CheckpointError naming missing, unexpected, misshaped keys.
        """
        prefix, names = vae_names(tensors)
        if not names:
            raise CheckpointError(
                f"{source} holds no autoencoder; expected names such as {VAE_PREFIXES[0]}encoder.layers.0.weight_v or "
                f"{VAE_PREFIXES[1]}encoder.layers.0.weight_v, found {some(tensors, 5)}. Put vae.ckpt beside the model."
            )
        own = {name.removeprefix(prefix): tensors[name] for name in names}
        with torch.device("meta"):
            made = cls(**_dimensions(own))
        load_strict(made, own, source)
        return made.eval()

    def official_state(self, prefix: str = VAE_PREFIXES[0]) -> dict[str, Tensor]:
        """Tensors under the official names in the official order; weight norm in its two parts."""
        state = self.state_dict()
        return {prefix + name: state[name] for name in sorted(state, key=_official_order)}

    def posterior(self, waveform: Tensor, frames: int | None = FRAMES) -> tuple[Tensor, Tensor]:
        """(B, audio_channels, S) in [-1, 1] to the mean and the standard deviation, each (B, channels, S // hop).

        frames: as in `decode`.
        """
        mean, scale = self._encoder_output(waveform, frames).chunk(2, dim=1)
        return mean, F.softplus(scale) + LEAST_STD

    def encode(self, waveform: Tensor, noise: Tensor | None = None, frames: int | None = FRAMES) -> Tensor:
        """(B, audio_channels, S) in [-1, 1] to (B, channels, S // hop): the mean, or mean + noise * deviation."""
        mean, deviation = self.posterior(waveform, frames)
        return mean if noise is None else mean + noise * deviation

    def decode(self, latents: Tensor, frames: int | None = FRAMES) -> Tensor:
        """(B, channels, L) to (B, audio_channels, L * hop), not limited to [-1, 1].

        frames: most latent frames to hold at once, clips times length; None for all. Clips are decoded together while
        they fit; longer ones in pieces that overlap by the receptive field, so that the result is the same to rounding.
        """
        return self._in_pieces(self.decoder, latents, frames, 1, self.hop, self.decoder_reach)

    def _encoder_output(self, waveform: Tensor, frames: int | None) -> Tensor:
        return self._in_pieces(self.encoder, waveform, frames, self.hop, 1, self.encoder_reach)

    @property
    def decoder_reach(self) -> int:
        """Latent frames on either side that a decoded frame depends on."""
        reach = 3  # samples; the last convolution
        for stride in self.strides:
            reach += UNITS_REACH
            reach = -(-(reach + math.ceil(stride / 2)) // stride) + 1
        return reach + 3

    @property
    def encoder_reach(self) -> int:
        """Latent frames of waveform on either side that an encoded frame depends on."""
        reach, rate = 3, 1
        for stride in self.strides:
            reach += (UNITS_REACH + math.ceil(stride / 2)) * rate
            rate *= stride
        return -(-(reach + rate) // rate)

    def _in_pieces(
        self, module: nn.Module, x: Tensor, frames: int | None, unit_in: int, unit_out: int, reach: int
    ) -> Tensor:
        """Apply a module to (B, C, T * unit_in), at most `frames` of its T frames at once, to (B, C', T * unit_out).

        Odd strides do not align pieces with frames; such a model takes every clip whole.
        """
        total = x.shape[-1] // unit_in
        if frames is None or x.shape[0] * total <= frames:
            return module(x)
        rows = max(1, frames // max(1, total))
        if rows > 1 or total <= frames or any(stride % 2 for stride in self.strides):
            return torch.cat([module(part) for part in x.split(rows)])
        piece = max(1, frames - 2 * reach)
        return torch.cat(
            [
                torch.cat(
                    [self._piece(module, row, start, min(start + piece, total), unit_in, unit_out, reach)
                     for start in range(0, total, piece)], dim=-1)
                for row in x.split(1)
            ]
        )  # fmt: skip

    def _piece(
        self, module: nn.Module, x: Tensor, start: int, end: int, unit_in: int, unit_out: int, reach: int
    ) -> Tensor:
        """Output frames start to end, computed from as much input around them as they depend on."""
        first = max(0, start - reach)
        last = end + reach if (end + reach) * unit_in < x.shape[-1] else None
        window = x[..., first * unit_in : None if last is None else last * unit_in]
        return module(window)[..., (start - first) * unit_out : (end - first) * unit_out]


UNITS_REACH = 3 * (1 + 3 + 9)  # three residual units: width 7, dilations 1, 3, 9


def _official(name: str, blocks: int) -> str:
    """diffusers' name of a tensor as the official one."""
    half, rest = name.split(".", 1)
    block = _ENCODER_BLOCK if half == "encoder" else _DECODER_BLOCK
    inner = {new: old for old, new in block.items()}
    unit = {new: old for old, new in _UNIT.items()}
    parts = rest.split(".")
    if parts[0] == "block":
        path = [f"layers.{int(parts[1]) + 1}", inner[parts[2]]]
        path += [unit[parts[3]]] if len(parts) == 5 else []
    else:
        path = [{"conv1": "layers.0", "snake1": f"layers.{blocks + 1}", "conv2": f"layers.{blocks + 2}"}[parts[0]]]
    return ".".join([half, *path, parts[-1]])


def _to_official(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Rename a state dict in place; Snake parameters lose their two unit axes."""
    for ours, official in cast(Oobleck, module)._names.items():
        tensor = state.pop(prefix + ours)
        state[prefix + official] = tensor.flatten() if ours.endswith((".alpha", ".beta")) else tensor


def _from_official(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The reverse, before loading; what is missing stays missing, so that strict loading reports it."""
    for ours, official in cast(Oobleck, module)._names.items():
        if prefix + official in state:
            tensor = state.pop(prefix + official)
            state[prefix + ours] = tensor[None, :, None] if ours.endswith((".alpha", ".beta")) else tensor


def _official_order(name: str) -> list[tuple[int, Any]]:
    """Encoder first, layers by number, then as the official classes register: bias, weight_g, weight_v, alpha, beta."""
    parts = name.split(".")
    return [(0, 0 if parts[0] == "encoder" else 1), *((0, int(p)) for p in parts if p.isdigit()), (1, parts[-1])]


def _dimensions(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor arguments from shapes: the strided convolutions are twice as wide as their stride.

    What a missing or misshaped tensor does not tell is taken from its neighbours or the released model; the strict
    load then names that tensor.
    """
    released = (2, 4, 4, 8, 8)

    def size(name: str, axis: int, default: int) -> int:
        shape = tensors[name].shape if name in tensors else ()
        return max(1, shape[axis]) if len(shape) == 3 else default

    width = size("encoder.layers.0.weight_v", 0, size("encoder.layers.0.weight_g", 0, 128))
    down, up = _blocks(tensors, "encoder"), _blocks(tensors, "decoder")
    blocks = max([*down, *up], default=len(released))
    multiples, strides, decoder_multiples = [], [], []
    decoder_width = size(f"decoder.layers.{blocks}.layers.1.weight_v", 1, width)
    for i in range(1, blocks + 1):
        name, mirror = f"encoder.layers.{i}.layers.4.", f"decoder.layers.{blocks + 1 - i}.layers.1."
        multiples.append(max(1, size(name + "weight_v", 0, size(name + "weight_g", 0, width)) // width))
        kernel = size(name + "weight_v", 2, size(mirror + "weight_v", 2, 2 * released[min(i, 5) - 1]))
        strides.append(max(1, kernel // 2))
        given = size(mirror + "weight_v", 0, size(mirror + "weight_g", 0, decoder_width))
        decoder_multiples.append(max(1, given // decoder_width))
    return {
        "channels": size("decoder.layers.0.weight_v", 1, 64),
        "width": width,
        "multiples": tuple(multiples),
        "strides": tuple(strides),
        "audio_channels": size("encoder.layers.0.weight_v", 1, 2),
        "decoder_width": decoder_width,
        "decoder_multiples": tuple(decoder_multiples),
    }


def _blocks(tensors: Mapping[str, Tensor], half: str) -> list[int]:
    """Numbers of the blocks of a half."""
    pattern = re.compile(rf"{half}\.layers\.(\d+)\.layers\.")
    return sorted({int(found[1]) for name in tensors if (found := pattern.match(name))})
