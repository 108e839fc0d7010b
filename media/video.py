"""The video files of the pipeline: look at one, read it, write it, put new sound under it."""

from dataclasses import dataclass
from pathlib import Path

from media.audio import fit_length, resample
from media.clip import Clip
from media.errors import NoFrames, OutOfRange
from media.opening import open_media, picture_stream, sound_stream
from media.picture import frame_rate, read_picture, stream_seconds
from media.sound import read_sound
from media.writing import mux, write_clip

__all__ = ["Probe", "mux", "probe", "read_clip", "write_clip"]


@dataclass(frozen=True)
class Probe:
    """What a file holds. seconds: of the picture. width, height: upright, in pixels. Rates in Hz, 0 without sound."""

    seconds: float
    fps: float
    width: int
    height: int
    has_video: bool
    has_audio: bool
    sample_rate: int
    channels: int


def probe(path: str | Path) -> Probe:
    """Read the header and the first frame. Raises the MediaError that fits, for audio-only files too."""
    with open_media(path) as container:
        stream = picture_stream(container, path)
        seconds = stream_seconds(container, stream)
        frame = next(container.decode(stream), None)
        if frame is None:
            raise NoFrames(path, "has a video stream but no frame can be decoded; re-encode it.")
        width, height = round(frame.width * float(stream.sample_aspect_ratio or 1)), frame.height
        if round(frame.rotation / 90) % 2:
            width, height = height, width
        sound = container.streams.audio[0] if container.streams.audio else None
        fps = frame_rate(stream)
        rate, channels = (sound.rate, sound.channels) if sound else (0, 0)
    if seconds is None:
        seconds = read_clip(path, short_side=16, audio=False).seconds
    return Probe(seconds, fps, width, height, True, sound is not None, rate, channels)


def read_clip(
    path: str | Path,
    *,
    fps: float | None = None,
    short_side: int | None = None,
    sample_rate: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    audio: bool = True,
) -> Clip:
    """Decode a stretch of a video; time 0 is the file's first frame.

    fps: constant rate in Hz of the nearest frames, the file's own average when None. short_side: pixels, scaled down
    only. sample_rate: Hz, the file's own when None. start, seconds: the stretch, to the end when None; it ends with
    the picture. audio: also decode the sound (None in the clip when the file has none); it is stereo, exactly as long
    as the frames, and silent where the file's sound does not reach.
    Raises the MediaError that fits.
    """
    if start < 0 or (seconds is not None and seconds <= 0):
        raise OutOfRange(path, f"start must be >= 0 and seconds > 0, got {start} and {seconds}.")
    with open_media(path) as container:
        picture = read_picture(container, picture_stream(container, path), path, fps, short_side, start, seconds)
        has_sound = bool(container.streams.audio)
    if not audio or not has_sound:
        return Clip(str(path), picture.frames, picture.fps)
    length = len(picture.frames) / picture.fps
    with open_media(path) as container:
        waveform, rate = read_sound(container, sound_stream(container, path), picture.origin, start, length)
    if sample_rate is not None:
        waveform, rate = resample(waveform, rate, sample_rate), sample_rate
    return Clip(str(path), picture.frames, picture.fps, fit_length(waveform, round(length * rate)), rate)
