"""What computes features: one class per encoder or constant."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from media.stretches import Stretch


class Extractor(ABC):
    """Computes arrays of a stretch of video. Made on the driver, sent to the workers by pickle, loaded there.

    A new constant for a reward is one subclass, given to `pipelines.features.extract`.
    name: what the progress bar and errors call it. names: of the arrays that `rows` gives.
    """

    name: ClassVar[str]
    names: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def identity(self) -> str:
        """What it is, with everything that its results depend on, as in videoprism-1f3a9c0e12: a partition's name."""

    @abstractmethod
    def rows(self, stretch: Stretch) -> dict[str, np.ndarray]:
        """One array per name. Any exception is the reason why the stretch has none."""

    def key(self, stretch: Stretch) -> str:
        """Id under which the arrays are stored; stretches that share it are computed once."""
        return stretch.id

    def load(self) -> None:  # noqa: B027 (most constants need none)
        """Read weights, once per worker. An exception ends the run: it would be the same for every stretch."""
