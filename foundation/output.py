"""The last step before anyone hears or scores a waveform."""

from typing import Literal

import torch
from torch import Tensor

CEILING = 0.98
Peak = Literal["limit", "normalise", "none"]


def limit_peak(waveforms: Tensor) -> Tensor:
    """Scale each clip (..., 2, S) down, as a whole, so that its peak stays below full scale; quiet clips are untouched.

    Per clip, never per batch: a loud neighbour must not change a clip's score
    (FunAudioLLM/ThinkSound:PrismAudio normalises over the whole batch).
    """
    return waveforms * (CEILING / _peak(waveforms)).clamp(max=1.0)


def normalise_peak(waveforms: Tensor) -> Tensor:
    """Scale each clip (..., 2, S), as a whole, to a peak of 1; silence stays silence.

    What the released code does to a batch of one (FunAudioLLM/ThinkSound:PrismAudio, predict.py), for each clip.
    """
    peak = _peak(waveforms)
    return waveforms / peak.where(peak > 0, peak.new_ones(()))


def level(waveforms: Tensor, peak: Peak) -> Tensor:
    """Waveforms (..., 2, S) with their peaks as asked."""
    if peak == "none":
        return waveforms
    return limit_peak(waveforms) if peak == "limit" else normalise_peak(waveforms)


def gain(peak: float, wanted: Peak) -> float:
    """The factor that `level` applies to sound of this peak, for sound that does not fit into memory."""
    if wanted == "none" or peak <= 0:
        return 1.0
    loudest = torch.tensor(peak)  # float32, as the waveforms are: the same factor to the last bit
    return (CEILING / loudest).clamp(max=1.0).item() if wanted == "limit" else (1 / loudest).item()


def _peak(waveforms: Tensor) -> Tensor:
    both = (-2, -1)
    return waveforms.amax(both, keepdim=True).maximum(-waveforms.amin(both, keepdim=True))
