"""A reference clip's own sound, and what was found out about it."""

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from media.audio import fit_length, resample
from media.errors import MediaError
from media.opening import open_media, sound_stream
from media.picture import stream_start
from media.sound import read_sound
from rewards_service.scores import Reference

QUIETEST = 1e-3
"""RMS in full scale, -60 dB, below which a reference counts as having no sound."""
REMEMBERED = 4096

Found = TypeVar("Found")


def reference_sound(reference: Reference, rate: int) -> np.ndarray | None:
    """(2, S) float32 at `rate` Hz of the stretch, on the clock of the picture; None where there is none to hear.

    That is where the reference names no file, or a file without sound, or is silent below -60 dBFS.
    Raises MediaError when the file cannot be read.
    """
    if not reference.uri:
        return None
    with open_media(reference.uri) as container:
        if not container.streams.audio:
            return None
        sound = sound_stream(container, reference.uri)
        own = float(sound.start_time * sound.time_base) if sound.start_time and sound.time_base else 0.0
        origin = stream_start(container.streams.video[0]) if container.streams.video else own
        waveform, given = read_sound(container, sound, origin, reference.start, reference.seconds)
    waveform = fit_length(resample(waveform, given, rate), round(reference.seconds * rate))
    return waveform if float(np.sqrt(np.mean(waveform**2))) >= QUIETEST else None


class Remembered(Generic[Found]):
    """What `find` says of references, asked once per stretch of a file; the oldest of 4096 is forgotten."""

    def __init__(self, find: Callable[[Reference], Found], unreadable: Found) -> None:
        self._find, self._unreadable = find, unreadable
        self._known: dict[tuple[str, float, float], Found] = {}

    def of(self, references: list[Reference], members: int) -> tuple[list[Found], dict[tuple[int, int], str]]:
        """One finding a reference, and the reasons why samples are missing whose reference cannot be read."""
        found, missing = [], {}
        for g, reference in enumerate(references):
            try:
                found.append(self._of(reference))
            except MediaError as error:
                found.append(self._unreadable)
                missing |= {(g, n): f"the reference clip cannot be read: {error}" for n in range(members)}
        return found, missing

    def _of(self, reference: Reference) -> Found:
        key = (reference.uri, reference.start, reference.seconds)
        if key not in self._known:
            found = self._find(reference)
            while len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[key] = found
        return self._known[key]
