"""What Synchformer's audio tower is given: overlapping segments of a waveform as normalised log-mel spectrograms.

Sources: hkchengrex/av-benchmark av_bench/extract.py, v-iashin/Synchformer dataset/transforms.py (AudioMelSpectrogram,
AudioLog, PadOrTruncate, AudioNormalizeAST).
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.resampling import resample

RATE = 16_000
SEGMENT = 10_240
HOP = 5_120
"""Of segments, in samples: 0.64 and 0.32 s, as 16 and 8 frames of picture at 25 Hz."""

WIDTH = 64
"""Zero crossings of the resampler, as in PrismAudio's sync reward."""

BANDS, FFT, WINDOW, STEP, FRAMES = 128, 1024, 400, 160, 66
MEAN, DEVIATION = -4.2677393, 4.5689974
FLOOR = 1e-6


def mono(waveforms: Tensor, rate: int) -> Tensor:
    """(..., C, S) at `rate` Hz to (..., S') at 16 kHz: the mean of the channels, resampled."""
    return resample(waveforms.mean(-2), rate, RATE, WIDTH)


def segments(audio: Tensor) -> Tensor:
    """(B, S) at 16 kHz to a view (B, S', 10240) of whole segments; what comes after the last is left out.

    A sound shorter than a segment is filled up with silence to make one.
    """
    return F.pad(audio, (0, max(0, SEGMENT - audio.shape[-1]))).unfold(-1, SEGMENT, HOP)


def log_mel(audio: Tensor) -> Tensor:
    """(..., 10240) at 16 kHz to (..., 66, 128) normalised log-mel frames; the last is filled up with log(1)."""
    flat = audio.reshape(-1, audio.shape[-1])
    window = torch.hann_window(WINDOW, device=audio.device)
    spectrum = torch.stft(flat, FFT, STEP, WINDOW, window, pad_mode="reflect", return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    mel = torch.log(power.transpose(1, 2) @ _filters().to(audio.device) + FLOOR)
    filled = F.pad(mel, (0, 0, 0, max(0, FRAMES - mel.shape[1])))[:, :FRAMES]
    return ((filled - MEAN) / (2 * DEVIATION)).view(*audio.shape[:-1], FRAMES, BANDS)


@lru_cache(maxsize=1)
def _filters() -> Tensor:
    """(513, 128) triangles of height 1 on the HTK mel scale from 0 to 8 kHz."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    points = 700 * (10 ** (torch.linspace(0, top, BANDS + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64)[:, None]
    rise = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    fall = (points[2:] - bins) / (points[2:] - points[1:-1])
    return torch.minimum(rise, fall).clamp_min(0).float()
