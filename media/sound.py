"""Decoding sound onto the clock of the picture."""

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

GAP = 0.02
LEAD = 0.25


def read_sound(
    container: InputContainer, stream: AudioStream, origin: float, start: float, seconds: float | None
) -> tuple[np.ndarray, int]:
    """(2, S) float32 of [start, start + seconds) after `origin` (seconds on the container's clock), and its rate in Hz.

    Sound that begins later than asked, has gaps, or ends early is filled with silence; mono is duplicated; more than
    two channels are mixed down. Without `seconds`, to the end the header announces (encoders pad the last packet).
    """
    rate = stream.rate
    begin = origin + start
    if start > 1.0:
        container.seek(int(max(0.0, begin - LEAD) * av.time_base), backward=True)
    length = None if seconds is None else round(seconds * rate)
    pieces: list[tuple[int, np.ndarray]] = []
    mixer = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
    cursor: int | None = None
    for frame in container.decode(stream):
        samples = _stereo(frame, mixer)
        at = cursor
        if frame.time is not None:
            place = round((frame.time - begin) * rate)
            if cursor is None or abs(place - cursor) > GAP * rate:
                at = place
        first = at or 0
        pieces.append((first, samples))
        cursor = end = first + samples.shape[1]
        if length is not None and end >= length:
            break
    if length is None:
        length = max((at + samples.shape[1] for at, samples in pieces), default=0)
        if stream.duration is not None and stream.time_base:
            announced = float((stream.duration + (stream.start_time or 0)) * stream.time_base) - begin
            length = min(length, max(0, round(announced * rate)))
    return _assemble(pieces, length), rate


def _assemble(pieces: list[tuple[int, np.ndarray]], length: int) -> np.ndarray:
    out = np.zeros((2, length), np.float32)
    for at, samples in pieces:
        low, high = max(0, at), min(length, at + samples.shape[1])
        if high > low:
            out[:, low:high] = samples[:, low - at : high - at]
    return out


def _stereo(frame: AudioFrame, mixer: av.AudioResampler) -> np.ndarray:
    if frame.layout.nb_channels == 1:
        mono = av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate)
        parts = [part.to_ndarray() for part in mono.resample(frame)]
        return np.repeat(np.concatenate(parts, axis=1), 2, axis=0)
    return np.concatenate([part.to_ndarray() for part in mixer.resample(frame)], axis=1)
