"""Extractors that misbehave, for the tests of feature extraction. No torch, so that their processes start at once."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foundation.errors import CheckpointError
from media.errors import NotMedia
from media.stretches import Stretch
from pipelines.extractor import Extractor


@dataclass
class Counting(Extractor):
    """Writes down every stretch that it computes. bad: clips that it cannot read."""

    marks: Path
    bad: tuple[str, ...] = ()
    label: str = "counting-1"
    name = "counting"
    names = ("x",)

    @property
    def identity(self) -> str:
        return self.label

    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        with open(self.marks, "a") as file:
            file.write(f"{stretch.clip}\n")
        if stretch.clip in self.bad:
            raise NotMedia(stretch.uri, "expected a video")
        return {"x": np.full(3, float(stretch.start))}

    def computed(self) -> list[str]:
        return self.marks.read_text().split() if self.marks.exists() else []


class Slow(Counting):
    """Tells its process id and gives a test time to kill it."""

    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        self.marks.with_suffix(".pid").write_text(str(os.getpid()))
        time.sleep(0.1)
        return super().rows(stretch)


class Held(Counting):
    """Stops after four stretches until a test lets it go on."""

    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        go = self.marks.with_suffix(".go")
        while len(self.computed()) >= 4 and not go.exists():
            time.sleep(0.02)
        return super().rows(stretch)

    def let_go(self) -> None:
        self.marks.with_suffix(".go").touch()


class Trouble(Counting):
    """Everything that can go wrong with one stretch, by clip."""

    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        match stretch.clip:
            case "kills":
                os._exit(1)
            case "hangs":
                time.sleep(600)
            case "raises":
                raise ZeroDivisionError("no frames")
            case "nan":
                return {"x": np.array([np.nan])}
            case "nothing":
                return {}
        return super().rows(stretch)


class Unloadable(Counting):
    """Its weights cannot be read."""

    def load(self) -> None:
        raise ValueError("no such weights")


class Spoilt(Counting):
    """Finds out at the first stretch that its weights cannot be used."""

    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        raise CheckpointError(f"{stretch.clip}: the weights do not fit")
