"""Short-time spectra for the measures: octave-band levels and log-mel frames, in numpy."""

from functools import lru_cache

import numpy as np
from scipy.fft import rfft


def power_frames(waveform: np.ndarray, window: int, hop: int) -> np.ndarray:
    """(channels, S) to power spectra (frames, window // 2 + 1) summed over channels; frame k is centred on k * hop.

    Single precision takes half the time and costs 0.01 dB at worst, in the faintest bins.
    """
    shape = _window(window)
    padded = np.pad(waveform.astype(np.float32), ((0, 0), (window // 2, window // 2)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window, axis=1)[:, ::hop]
    total = np.zeros((frames.shape[1], window // 2 + 1), np.float32)
    for channel in frames:
        spectra = np.asarray(rfft(channel * shape), np.complex64)
        total += np.square(spectra.real)
        total += np.square(spectra.imag)
    return total


@lru_cache(maxsize=8)
def _window(size: int) -> np.ndarray:
    """(size,) Hann window of unit energy."""
    shape = np.hanning(size)
    return (shape / np.sqrt(np.square(shape).sum())).astype(np.float32)


def octave_levels(waveform: np.ndarray, rate: int, window: int, hop: int) -> np.ndarray | None:
    """Level of each octave band above its own noise floor, (bands, frames) in dB, never negative; None for silence.

    The floor is 6 dB above the band's 20th percentile over time, and at least 50 dB under the clip's loudest frame.
    """
    power = power_frames(waveform, window, hop)
    edges = 125.0 * 2.0 ** np.arange(20)
    first = np.searchsorted(np.fft.rfftfreq(window, 1 / rate), edges[edges < rate / 2 * 0.75])
    bands = np.add.reduceat(power, first, axis=1).T
    peak = bands.sum(axis=0).max()
    if peak < 1e-9:
        return None
    floor = np.maximum(4 * np.quantile(bands, 0.2, axis=1, keepdims=True), 1e-5 * peak)
    return 10 * np.log10(np.maximum(bands / floor, 1.0))


def log_mel(waveform: np.ndarray, rate: int, bands: int = 40) -> np.ndarray:
    """(channels, S) to (frames, bands) mel levels in dB: 32 ms windows every 16 ms, summed over channels."""
    window = round(0.032 * rate)
    power = power_frames(waveform, window, window // 2)
    return 10 * np.log10(power @ _mel_filters(rate, window, bands) + 1e-10)


@lru_cache(maxsize=8)
def _mel_filters(rate: int, window: int, bands: int) -> np.ndarray:
    """(window // 2 + 1, bands) triangles, evenly spaced in mel = 2595 log10(1 + f / 700) between 50 Hz and Nyquist."""
    mel = np.linspace(2595 * np.log10(1 + 50 / 700), 2595 * np.log10(1 + rate / 1400), bands + 2)
    centres = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.fft.rfftfreq(window, 1 / rate)[:, None]
    rising = (frequencies - centres[:-2]) / np.diff(centres)[:-1]
    falling = (centres[2:] - frequencies) / np.diff(centres)[1:]
    return np.maximum(0.0, np.minimum(rising, falling))
