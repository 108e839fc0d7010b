"""Opening a media file and choosing its streams, with an error for everything that is not a video."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from media.errors import (
    EmptyFile,
    IsFolder,
    MediaError,
    MissingFile,
    NoPicture,
    NoSound,
    NotMedia,
    StillImage,
    Truncated,
)

IMAGE_FORMATS = ("image2", "png", "apng_image", "jpeg", "ico", "tiff", "webp")
TEXT_FORMATS = ("tty", "bin", "xbin", "adf", "idf")


@contextmanager
def open_media(path: str | Path) -> Iterator[InputContainer]:
    """An open container; every decoding error inside the block becomes a MediaError that names the file."""
    check_file(path)
    try:
        container = av.open(os.fspath(path), mode="r", metadata_errors="replace")
    except av.FFmpegError as error:
        if "moov" in str(error).lower() or _looks_like_mp4(path):
            raise Truncated(
                path, "the file ends before its index (an interrupted copy or recording); copy or record it again."
            ) from error
        raise NotMedia(path, "expected a video such as mp4, mov, mkv or webm, but it cannot be decoded.") from error
    try:
        yield container
    except av.FFmpegError as error:
        raise Truncated(path, f"the data is damaged ({error.strerror}); copy it again or re-encode it.") from error
    finally:
        container.close()


def check_file(path: str | Path) -> None:
    """Raises MissingFile, IsFolder or EmptyFile, or MediaError when it may not be read."""
    path = Path(path)
    if path.is_dir():
        raise IsFolder(path, "is a folder; name a video file (folders are read with data=FOLDER).")
    if not path.exists():
        raise MissingFile(path, "no such file; check the path.")
    if not os.access(path, os.R_OK):
        raise MediaError(path, "may not be read; check its permissions.")
    if path.stat().st_size == 0:
        raise EmptyFile(path, "is empty (0 bytes); copy or record it again.")


def picture_stream(container: InputContainer, path: str | Path) -> VideoStream:
    """The first real video stream. Raises StillImage, NotMedia (text) or NoPicture."""
    formats = container.format.name.split(",")
    if any(name.endswith("_pipe") or name in IMAGE_FORMATS for name in formats):
        raise StillImage(path, "is an image; expected a video.")
    if any(name in TEXT_FORMATS for name in formats):
        raise NotMedia(path, "is text; expected a video such as mp4, mov, mkv or webm.")
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    if container.streams.audio:
        raise NoPicture(path, "has sound but no picture; expected a video.")
    raise NotMedia(path, "holds neither picture nor sound; expected a video such as mp4, mov, mkv or webm.")


def sound_stream(container: InputContainer, path: str | Path) -> AudioStream:
    """The first audio stream. Raises NoSound."""
    if not container.streams.audio:
        raise NoSound(path, "has no audio stream; use a file with sound, or name an audio file beside it.")
    return container.streams.audio[0]


def _looks_like_mp4(path: str | Path) -> bool:
    with open(path, "rb") as file:
        return file.read(12)[4:8] == b"ftyp"
