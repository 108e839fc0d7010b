"""One independent measure per reward dimension, per scene: nothing trains on it, and it shares no code with the reward.

| dimension | watched by | needs |
|---|---|---|
| semantic | a judge's probability of the true class | a label that the judge knows |
| temporal | F1 of onsets (rises in dB) against the impacts | impacts, known or seen |
| spatial | level and delay (plain cross-correlation) at impacts against the object's place | impacts and positions |
| aesthetic | distance of each band's levels from those of the scene's own sound, whenever they occur | that sound |

Impacts and positions may be known or seen in the picture. Up is better in all four; where a scene lacks what is
needed there is NaN. A judge of the recipe (`rewards.judges`) takes the place of the watcher of its dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from evaluation.measures import AUDIBLE_DBFS, EventPan, event_pans, onset_f1, onsets
from evaluation.monitor import MIN_SCENES
from evaluation.spectra import log_mel
from rewards_service.scores import Reference
from scenes.sound import DELAY_SAMPLES, LEVEL_DB, SAMPLE_RATE
from settings import PrismError

RANGE_DB = 40.0
LACKING = {
    "semantic": "a label that the judge knows",
    "temporal": "a visible impact",
    "spatial": "a visible impact and the object's place",
    "aesthetic": "an audible sound of its own to compare with",
}


NOBODY = "nothing built in watches it; a scorer named in rewards.judges would"


class Classifier(Protocol):
    """What `rewards_service.judge.Judge` is to this file."""

    @property
    def labels(self) -> list[str]:
        """Class names in output order."""
        ...

    def probabilities(self, waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
        """(B, 2, S) waveforms to (B, K) class probabilities."""
        ...


@dataclass(frozen=True)
class Edge:
    """Stereo cues of a source at the picture's right edge: level of the right (dB), delay of the left channel (ms)."""

    level_db: float = LEVEL_DB
    delay_ms: float = DELAY_SAMPLES / SAMPLE_RATE * 1e3


@dataclass(frozen=True)
class Watchers:
    """The four measures for fixed scenes; picklable.

    references, labels: per scene. clean: per scene the (frames, bands) log-mel of its own sound at `rate` Hz, or None.
    judged: dimensions that a judge watches instead; they are not measured here.
    """

    rate: int
    references: Sequence[Reference]
    labels: Sequence[str | None]
    clean: Sequence[np.ndarray | None]
    judge: Classifier | None = None
    edge: Edge = field(default_factory=Edge)
    judged: tuple[str, ...] = ()

    @staticmethod
    def of(
        rate: int,
        references: Sequence[Reference],
        labels: Sequence[str | None],
        sounds: Sequence[np.ndarray | None],
        judge: Classifier | None = None,
        edge: Edge | None = None,
        judged: Sequence[str] = (),
    ) -> "Watchers":
        """From the scenes' own (2, S) sounds at `rate` Hz; one that is missing or inaudible watches nothing."""
        known = [label if judge is not None and label in judge.labels else None for label in labels]
        clean = [log_mel(s, rate) if s is not None and _audible(s) else None for s in sounds]
        return Watchers(rate, references, known, clean, judge, edge or Edge(), tuple(judged))

    @property
    def scenes(self) -> dict[str, int]:
        """How many scenes each dimension can be watched on."""
        placed = [bool(r.events and r.positions) for r in self.references]
        built_in = {
            "semantic": sum(label is not None for label in self.labels),
            "temporal": sum(bool(r.events) for r in self.references),
            "spatial": sum(placed),
            "aesthetic": sum(mel is not None for mel in self.clean),
        }
        return built_in | dict.fromkeys(self.judged, len(self.references))

    @property
    def unwatched(self) -> dict[str, str]:
        """Why no alarm can come for a dimension, in words for the user; empty when all are watched."""
        return {name: self._lacking(name, count) for name, count in self.scenes.items() if count < MIN_SCENES}

    def _lacking(self, name: str, count: int) -> str:
        what = "a judge to ask" if name in self.judged else LACKING[name]
        text = f"{count or 'none'} of {len(self.references)} held-out clips {'have' if count > 1 else 'has'} {what}"
        return text + (f"; an alarm needs {MIN_SCENES}" if count else "")

    def measure(self, waveforms: np.ndarray, places: Sequence[int]) -> dict[str, np.ndarray]:
        """(B, 2, S) waveforms of the scenes at `places` to {dimension: (B,)}, NaN where it cannot be measured.

        Dimensions with a judge are left to it. A waveform with NaN or infinite samples is measured in none.
        Raises PrismError when counts disagree.
        """
        if waveforms.ndim != 3 or waveforms.shape[:2] != (len(places), 2):
            raise PrismError(f"Watchers need stereo sounds of {len(places)} scenes, got the shape {waveforms.shape}.")
        columns = {name: np.full(len(places), np.nan) for name in LACKING if name not in self.judged}
        sound = [row for row in range(len(places)) if np.isfinite(waveforms[row]).all()]
        if "semantic" in columns:
            self._classify(columns["semantic"], waveforms, [(row, places[row]) for row in sound])
        for row in sound:
            waveform, reference, clean = waveforms[row], self.references[places[row]], self.clean[places[row]]
            if "temporal" in columns and reference.events:
                columns["temporal"][row] = onset_f1(onsets(waveform, self.rate), reference.events)
            if "spatial" in columns and reference.events and reference.positions:
                columns["spatial"][row] = place_agreement(event_pans(waveform, self.rate, reference), self.edge)
            if "aesthetic" in columns and clean is not None:
                columns["aesthetic"][row] = -level_distance(log_mel(waveform, self.rate), clean)
        return columns

    def _classify(self, column: np.ndarray, waveforms: np.ndarray, rows: list[tuple[int, int]]) -> None:
        known = [(row, label) for row, place in rows if (label := self.labels[place]) is not None]
        if self.judge is None or not known:
            return
        chosen = waveforms if len(known) == len(waveforms) else waveforms[[row for row, _ in known]]
        found = self.judge.probabilities(chosen, self.rate)
        for probabilities, (row, label) in zip(found, known, strict=True):
            column[row] = probabilities[self.judge.labels.index(label)]


def place_agreement(pans: Sequence[EventPan], edge: Edge) -> float:
    """1 less the mean distance between the place heard, by level and by delay, and the object's place in -1..1.

    NaN when no event is loud enough to have a place.
    """
    if not pans:
        return float("nan")
    errors = [
        abs(float(np.clip(heard, -1, 1)) - pan.position)
        for pan in pans
        for heard in (pan.level_db / edge.level_db, pan.delay_ms / edge.delay_ms)
    ]
    return 1 - float(np.mean(errors))


def level_distance(found: np.ndarray, clean: np.ndarray) -> float:
    """Mean absolute difference in dB of two (frames, bands) log-mel spectrograms, each band sorted over time.

    Levels more than 40 dB below the clean peak count as that. Sorting (the Wasserstein distance of each band's levels)
    makes timing cost next to nothing, so that noise, level, bandwidth and colour are what is left.
    """
    frames = min(len(found), len(clean))
    floor = clean[:frames].max() - RANGE_DB
    heard, wanted = (np.sort(np.maximum(mel[:frames], floor), axis=0) for mel in (found, clean))
    return float(np.abs(heard - wanted).mean())


def _audible(sound: np.ndarray) -> bool:
    return bool(np.isfinite(sound).all() and np.square(sound, dtype=np.float64).mean() > 10 ** (AUDIBLE_DBFS / 10))
