"""What can be wrong with a media file, each with what to do about it."""

from pathlib import Path

from settings import PrismError


class MediaError(PrismError):
    """A media file that cannot be used. `path` names it."""

    def __init__(self, path: str | Path, message: str):
        super().__init__(f"{path}: {message}")
        self.path = str(path)
        self.reason = message

    def __reduce__(self) -> tuple[type["MediaError"], tuple[str, str]]:
        # Unpickled in another process by calling the class; the default would pass the joined message alone.
        return type(self), (self.path, self.reason)


class MissingFile(MediaError):
    """No file at that path."""


class IsFolder(MediaError):
    """A folder where a file was expected."""


class EmptyFile(MediaError):
    """A file of zero bytes."""


class NotMedia(MediaError):
    """Not a format that can be decoded."""


class StillImage(MediaError):
    """An image where a video was expected."""


class NoPicture(MediaError):
    """Sound only, where a picture was expected."""


class NoFrames(MediaError):
    """A video stream from which no frame can be decoded."""


class Truncated(MediaError):
    """The file ends, or is damaged, before what its header announces."""


class NoSound(MediaError):
    """No audio stream, where one was asked for."""


class OutOfRange(MediaError):
    """The stretch asked for lies outside the file."""


class NotWritable(MediaError):
    """The output cannot be created at that path or in that format."""


class BadSignal(MediaError):
    """Frames or samples that cannot be written: wrong shape or type, NaN or infinity."""


class ManifestError(MediaError):
    """A clip table that cannot be read or is inconsistent."""
