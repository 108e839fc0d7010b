"""The last step before anyone hears or scores a waveform."""

import torch
from torch import Tensor

CEILING = 0.98


def limit_peak(waveforms: Tensor) -> Tensor:
    """Scale each clip (..., 2, S) down, as a whole, so that its peak stays below full scale; quiet clips are untouched.

    Per clip, never per batch: a loud neighbour must not change a clip's score
    (FunAudioLLM/ThinkSound:PrismAudio normalises over the whole batch).
    """
    both = (-2, -1)
    peak = torch.maximum(waveforms.amax(both, keepdim=True), -waveforms.amin(both, keepdim=True))
    return waveforms * (CEILING / peak).clamp(max=1.0)
