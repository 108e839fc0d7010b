"""Spatial reward with StereoCRW in place of GCC-PHAT (IFICL/stereocrw, MIT licence; `foundation.stereo_crw`)."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from rewards_service.errors import RewardError
from rewards_service.released.official_stereo import OfficialStereoScorer
from rewards_service.released.stereo import ImageScorer
from rewards_service.stereo.delays import OFFICIAL_SECONDS
from rewards_service.stereo.image import RATE, StereoImage

if TYPE_CHECKING:
    from foundation.stereo_crw import StereoCRW

LOOK = 160
GROUPS_AT_ONCE = 4
RMS, QUIET = 0.1, 1e-4


class NetworkOfWeights:
    """The network that a scorer's `weights` hold, read once."""

    weights: str
    device: str

    def load(self) -> None:
        """Read the weights. Raises RewardError or CheckpointError."""
        _ = self.network

    @cached_property
    def network(self) -> "StereoCRW":
        """On the device."""
        return read_network(self.weights).to(self.device)


@dataclass(frozen=True)
class StereoCrwScorer(NetworkOfWeights, ImageScorer):
    """Fit of delay, level, width and mono mix to the reference, with delays by StereoCRW (`ImageScorer` for the rest).

    In every window the network hears the loudest 76 ms: 49 patches of 64 ms, as trained. The delay's term comes from
    the mean square difference in ms^2. weights: a released file, such as FreeMusic-StereoCRW-1024.pth.tar.
    """

    by_mse: ClassVar[bool] = True
    window_s: float = 0.5
    hop_s: float = 0.5
    delay_softness_ms: float = 0.2
    weights: str = ""

    def listen(self, audio: Tensor) -> StereoImage:
        """The image of (B, 2, S) sounds at 16 kHz on the device, its delays by the network."""
        image = super().listen(audio)
        found = network_delays(self.network, audio, image.times, round(self.window_s * RATE))
        return replace(image, delay_ms=found)


@dataclass(frozen=True)
class OfficialStereoCrwScorer(NetworkOfWeights, OfficialStereoScorer):
    """-(1.25 d_crw^2 + 2.5 d_gcc^2) with a network that has weights, which the original's has not.

    d_crw is the difference of mean delays over the first 6.03 s, of 76 ms every `hop_s`, in windows of 64 ms as trained
    (the original's are 6 s long). weights: a released file.
    """

    bounds: ClassVar[tuple[float, float]] = (-33.75, 0.0)
    hop_s: float = 0.5
    weights: str = ""

    def delays(self, audio: Tensor) -> np.ndarray:
        """(B, 2, S) at 16 kHz to (B, 2) mean delays in ms, by GCC-PHAT and by the network."""
        gcc = super().delays(audio)[:, 0]
        audio = audio[..., : round(OFFICIAL_SECONDS * RATE)]
        length = round(self.hop_s * RATE)
        count = max(1, audio.shape[-1] // length)
        times = (torch.arange(count, device=audio.device) + 0.5) * self.hop_s
        crw = network_delays(self.network, audio, times, length).mean(1)
        return np.stack([gcc, crw.cpu().double().numpy()], axis=1)


def read_network(path: str) -> "StereoCRW":
    """The network of a released file. Raises RewardError or CheckpointError."""
    from foundation.stereo_crw import StereoCRW
    from rewards_service.released.checkpoints import read

    if not path:
        raise RewardError("StereoCRW needs its weights; give FreeMusic-StereoCRW-1024.pth.tar in the option weights.")
    return StereoCRW.of(read(Path(path), "StereoCRW checkpoint"), path)


def network_delays(network: "StereoCRW", audio: Tensor, times: Tensor, length: int) -> Tensor:
    """(B, 2, S) at 16 kHz to (B, W) ms: in windows of `length` samples around (W,) times, of their loudest 76 ms.

    Both channels are brought to -20 dBFS, so that neither gain nor panning by level changes the delay. Where one is
    silent there is none: 0.
    """
    from foundation.stereo_crw import GROUP

    length = max(length, GROUP)
    first = (times * RATE - length / 2).round().long().clamp_min(0)
    audio = torch.nn.functional.pad(audio, (0, max(0, int(first.max()) + length - audio.shape[-1])))
    windows = audio[..., first[:, None] + torch.arange(length, device=audio.device)].transpose(1, 2).flatten(0, 1)
    energy = windows.square().sum(1).unfold(-1, GROUP, LOOK).sum(-1)
    start = LOOK * energy.argmax(-1)
    at = start[:, None, None] + torch.arange(GROUP, device=audio.device)
    groups = windows.gather(-1, at.expand(-1, 2, -1))
    level = groups.square().mean(-1, keepdim=True).sqrt()
    audible = (level > QUIET).all(1)[:, 0]
    groups = (groups * RMS / level.clamp_min(QUIET))[audible]
    found = torch.zeros(len(audible), device=audio.device)
    if len(groups):
        found[audible] = torch.cat([network.delay_ms(part) for part in groups.split(GROUPS_AT_ONCE)])
    return found.unflatten(0, (len(audio), len(times)))
