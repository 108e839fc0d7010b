"""Decoding the picture onto a constant frame rate."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.errors import NoFrames, OutOfRange, Truncated

DEFAULT_FPS = Fraction(25)
MISSING_TAIL = 0.5


@dataclass(frozen=True)
class Picture:
    """frames: (T, H, W, 3) uint8. fps: Hz. origin: time of the file's first frame on the container's clock, seconds."""

    frames: np.ndarray
    fps: float
    origin: float


def frame_rate(stream: VideoStream) -> float:
    """Average frames per second; the container's guess, or 25, where no average is known."""
    return float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)


def read_picture(
    container: InputContainer,
    stream: VideoStream,
    path: str | Path,
    fps: float | None,
    short_side: int | None,
    start: float,
    seconds: float | None,
) -> Picture:
    """Decode [start, start + seconds) of the picture; each output frame is the nearest in time of the file's frames.

    Raises NoFrames, OutOfRange (start beyond the end) and Truncated (the picture ends well before the header says).
    """
    rate = float(fps or frame_rate(stream))
    stream.thread_type = "NONE" if stream.width * stream.height < 256 * 256 else "AUTO"
    origin = stream_start(stream)
    aspect = float(stream.sample_aspect_ratio or 1)
    if start > 1.0:
        container.seek(int((start + origin) * av.time_base), backward=True)
    limit = None if seconds is None else max(1, round(seconds * rate))
    frames: list[np.ndarray] = []
    wanted, end, seen = 0, 0.0, False
    previous: tuple[float, VideoFrame] | None = None
    array: np.ndarray | None = None
    for time, frame in timed(container, stream, origin):
        seen = True
        end = max(end, time + frame_seconds(frame, stream))
        while (limit is None or wanted < limit) and start + wanted / rate <= time:
            target = start + wanted / rate
            if previous is not None and target - previous[0] <= time - target:
                array = to_array(previous[1], short_side, aspect) if array is None else array
                frames.append(array)
            else:
                previous, array = (time, frame), to_array(frame, short_side, aspect)
                frames.append(array)
            wanted += 1
        if limit is not None and wanted >= limit:
            break
        if previous is None or previous[1] is not frame:
            previous, array = (time, frame), None
    if not seen:
        raise NoFrames(path, "has a video stream but no frame can be decoded; re-encode it.")
    while previous and (limit is None or wanted < limit) and start + (wanted + 0.5) / rate < end + 1e-6:
        array = to_array(previous[1], short_side, aspect) if array is None else array
        frames.append(array)
        wanted += 1
    if limit is None or wanted < limit:
        check_complete(stream, end, path)
    if not frames:
        raise OutOfRange(path, f"the picture is {end:.2f} s long, but the stretch asked for starts at {start:.2f} s.")
    return Picture(np.stack(frames), rate, origin)


def to_array(frame: VideoFrame, short_side: int | None, aspect: float = 1.0) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright, with square pixels, its shorter side scaled down to `short_side`.

    aspect: width of the file's pixels over their height.
    """
    width, height = frame.width * aspect, float(frame.height)
    scale = min(1.0, short_side / min(width, height)) if short_side else 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], interpolation="AREA")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def stream_start(stream: VideoStream) -> float:
    """Presentation time of the first frame in seconds."""
    return float(stream.start_time * stream.time_base) if stream.start_time is not None and stream.time_base else 0.0


def stream_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """Length of the picture as the header tells it, or None."""
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION")
    if tag and tag.count(":") == 2:
        hours, minutes, seconds = (float(part) for part in tag.split(":"))
        return hours * 3600 + minutes * 60 + seconds
    if container.duration and not container.streams.audio:
        return container.duration / av.time_base
    return None


def check_complete(stream: VideoStream, end: float, path: str | Path) -> None:
    """Raises Truncated when decoding stopped long before the announced end."""
    container = stream.container
    announced = stream_seconds(container, stream) if isinstance(container, InputContainer) else None
    if announced is not None and announced - end > max(MISSING_TAIL, 0.1 * announced):
        raise Truncated(
            path, f"the picture ends at {end:.2f} s of the announced {announced:.2f} s; copy it again or re-encode it."
        )


def timed(container: InputContainer, stream: VideoStream, origin: float) -> Iterator[tuple[float, VideoFrame]]:
    """Frames in order of presentation with their time in seconds after `origin`; a missing time continues the last."""
    last, step = None, 1.0 / frame_rate(stream)
    for frame in container.decode(stream):
        time = frame.time - origin if frame.time is not None else (0.0 if last is None else last + step)
        last = time
        yield time, frame


def frame_seconds(frame: VideoFrame, stream: VideoStream) -> float:
    """How long a frame is shown, in seconds; one step of the average rate when the file does not say."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return 1.0 / frame_rate(stream)
