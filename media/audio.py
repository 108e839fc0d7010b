"""Sound files and sample rates."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from media.errors import BadSignal, NotWritable
from media.opening import open_media, sound_stream
from media.sound import read_sound


def resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """(C, S) to (C, round(S * new_rate / rate)) float32; linear phase, so nothing moves in time."""
    if rate == new_rate:
        return np.ascontiguousarray(waveform, np.float32)
    out = soxr.resample(np.ascontiguousarray(waveform.T, np.float32), rate, new_rate, quality="HQ").T
    return fit_length(out, round(waveform.shape[1] * new_rate / rate))


def fit_length(waveform: np.ndarray, length: int) -> np.ndarray:
    """Cut or pad (C, S) with silence to (C, length)."""
    short = length - waveform.shape[1]
    fitted = np.pad(waveform, ((0, 0), (0, short))) if short > 0 else waveform[:, :length]
    return np.ascontiguousarray(fitted, np.float32)


def read_audio(path: str | Path, sample_rate: int | None = None) -> tuple[np.ndarray, int]:
    """The sound of an audio or video file as (2, S) float32, and its rate in Hz; resampled when a rate is given.

    Raises the MediaError that fits, NoSound when there is no audio stream.
    """
    with open_media(path) as container:
        stream = sound_stream(container, path)
        start = float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0
        waveform, rate = read_sound(container, stream, max(0.0, start), 0.0, None)
    if sample_rate is None:
        return waveform, rate
    return resample(waveform, rate, sample_rate), sample_rate


def write_wav(path: str | Path, waveform: np.ndarray, sample_rate: int) -> None:
    """Write (C, S) float samples as 24-bit WAV, clipped to [-1, 1]. Raises BadSignal and NotWritable."""
    checked = check_waveform(path, waveform)
    try:
        soundfile.write(str(path), checked.T, sample_rate, subtype="PCM_24", format="WAV")
    except (OSError, soundfile.LibsndfileError) as error:
        raise NotWritable(path, f"cannot be written ({error}); check the folder and its permissions.") from error


def check_waveform(path: str | Path, waveform: np.ndarray) -> np.ndarray:
    """(C, S) float32 in [-1, 1]; one channel may come as (S,). Raises BadSignal for other shapes, NaN, infinity."""
    samples = np.atleast_2d(np.asarray(waveform, np.float32))
    if samples.ndim != 2 or samples.shape[0] > 2 or samples.shape[1] == 0:
        raise BadSignal(path, f"expected sound of shape (2, samples), got {np.shape(waveform)}; nothing was written.")
    if not np.isfinite(samples).all():
        raise BadSignal(path, "the sound holds NaN or infinite samples; nothing was written.")
    return np.clip(samples, -1.0, 1.0)
