"""Sound that is longer than memory: written block by block, read back scaled, saved as WAV."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

from media.audio import check_waveform
from media.errors import NotWritable

BLOCK = 2**18  # samples read back at once
_WAV_BYTES = 2**32 - 2**16  # beyond it, the format cannot count its own length


class SoundScratch:
    """Stereo float32 samples in a file that is gone when the `with` block ends.

    samples: written so far. peak: their largest magnitude. Raises NotWritable when the disk takes no more.
    """

    def __init__(self, path: Path):
        self.path, self.samples, self.peak = path, 0, 0.0

    def __enter__(self) -> "SoundScratch":
        try:
            self._file = self.path.open("wb")
        except OSError as error:
            raise NotWritable(self.path, f"cannot be written ({error.strerror}); use a writable folder.") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def append(self, block: np.ndarray) -> None:
        """Write (2, n) samples behind what is there."""
        try:
            self._file.write(np.ascontiguousarray(block.T, np.float32).tobytes())
        except OSError as error:
            raise NotWritable(self.path, f"cannot be written ({error.strerror}); free disk space.") from error
        self.samples += block.shape[1]
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))

    def blocks(self, gain: float = 1.0) -> Iterator[np.ndarray]:
        """The samples from the start, (2, n) at a time, times the gain."""
        self._file.flush()
        with self.path.open("rb") as file:
            while content := file.read(BLOCK * 8):
                yield np.ascontiguousarray(np.frombuffer(content, np.float32).reshape(-1, 2).T) * np.float32(gain)


def write_wav_blocks(path: Path, sound: Iterator[np.ndarray], sample_rate: int, samples: int) -> None:
    """As `media.audio.write_wav`, from blocks (2, n) of `samples` in all; the file appears only when complete.

    More than 4 GiB are written as RF64, which is WAV with long counters. Raises BadSignal and NotWritable.
    """
    kind = "WAV" if samples * 6 < _WAV_BYTES else "RF64"
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with soundfile.SoundFile(str(partial), "w", sample_rate, 2, subtype="PCM_24", format=kind) as file:
            for block in sound:
                file.write(check_waveform(path, block).T)
        os.replace(partial, path)
    except (OSError, soundfile.LibsndfileError) as error:
        raise NotWritable(path, f"cannot be written ({error}); check the folder and its permissions.") from error
    finally:
        partial.unlink(missing_ok=True)
