"""Frames at a constant rate for an encoder: each is prepared as soon as it is decoded, so long high pictures fit."""

import math
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.errors import NoFrames, OutOfRange
from media.opening import open_media, picture_stream
from media.picture import check_complete, frame_seconds, stream_start, timed, to_array

Prepare = Callable[[np.ndarray], np.ndarray]


def frame_count(fps: float, seconds: float) -> int:
    """Frames of a stretch: int(fps * seconds), but at least one."""
    return max(1, int(fps * seconds))


def read_frames(
    path: str | Path, fps: float, start: float = 0.0, seconds: float | None = None, prepare: Prepare | None = None
) -> np.ndarray:
    """Decode [start, start + seconds) of the picture at `fps` Hz: (T, ...) of what `prepare` makes of a frame.

    Which frame of the file stands at output n: the last one that begins before start + (n + 1/2) / fps, as in ffmpeg's
    `fps` filter, which made the released model's features. (`read_clip` takes the nearest to start + n / fps instead.)
    T is frame_count(fps, seconds); where the file has less, its last frame is repeated. With `seconds` None, T reaches
    to the end of the file.
    prepare: from (H, W, 3) uint8 RGB, upright and with square pixels; whole frames are kept when None.
    Raises the MediaError that fits, also when `start` lies beyond the end.
    """
    if start < 0 or (seconds is not None and seconds <= 0) or fps <= 0:
        raise OutOfRange(path, f"start must be >= 0, seconds and fps > 0, got {start}, {seconds} and {fps}.")
    with open_media(path) as container:
        return _read(container, picture_stream(container, path), path, fps, start, seconds, prepare or np.asarray)


def _read(
    container: InputContainer,
    stream: VideoStream,
    path: str | Path,
    fps: float,
    start: float,
    seconds: float | None,
    prepare: Prepare,
) -> np.ndarray:
    stream.thread_type = "NONE" if stream.width * stream.height < 256 * 256 else "AUTO"
    origin = stream_start(stream)
    aspect = float(stream.sample_aspect_ratio or 1)
    if start > 1.0:
        container.seek(int((start + origin) * av.time_base), backward=True)
    count = None if seconds is None else frame_count(fps, seconds)
    pictures: list[np.ndarray] = []
    shown = _Shown(prepare, aspect)
    end = 0.0
    for time, frame in timed(container, stream, origin):
        end = max(end, time + frame_seconds(frame, stream))
        # The first output that this frame may stand at; the tolerance is for times that are not exact in binary.
        slot = math.floor((time - start) * fps + 0.5 + 1e-6)
        missing = slot - len(pictures) if count is None else min(slot, count) - len(pictures)
        if missing > 0:
            # Nothing begins before the first output where the file's picture starts late: its first frame stands in.
            if shown.frame is None:
                shown.show(frame)
            pictures.extend([shown.picture()] * missing)
        if len(pictures) == count:
            break
        shown.show(frame)
    if shown.frame is None:
        raise NoFrames(path, "has a video stream but no frame can be decoded; re-encode it.")
    if len(pictures) != count:
        check_complete(stream, end, path)
        if end <= start:
            raise OutOfRange(
                path, f"the picture is {end:.2f} s long, but the stretch asked for starts at {start:.2f} s."
            )
        total = count or max(1, math.floor((end - start) * fps + 0.5 + 1e-6))
        pictures.extend([shown.picture()] * (total - len(pictures)))
    return np.stack(pictures)


class _Shown:
    """The frame that stands at the next output; converted and prepared once, and only if it is ever used."""

    def __init__(self, prepare: Prepare, aspect: float):
        self.frame: VideoFrame | None = None
        self._prepare, self._aspect = prepare, aspect
        self._picture: np.ndarray | None = None

    def show(self, frame: VideoFrame) -> None:
        if frame is not self.frame:
            self.frame, self._picture = frame, None

    def picture(self) -> np.ndarray:
        assert self.frame is not None
        if self._picture is None:
            self._picture = self._prepare(to_array(self.frame, None, self._aspect))
        return self._picture
