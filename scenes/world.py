"""What happens in a scene: which object, when it hits the floor, where it is."""

from dataclasses import dataclass

import numpy as np

from scenes.materials import MATERIALS, Material

SECONDS = 2.0
FPS = 16.0
MIN_GAP = 0.28


@dataclass(frozen=True)
class Scene:
    """One two-second scene; everything else (picture, sound, truth) follows from it.

    events: floor contacts in s. loudness: relative level per event. start, end: horizontal position in [-1, 1]
    at the first and last instant. color: (3,) RGB in [0, 1]. distractor: (x0, x1, y) of a silent drifting shape.
    """

    seed: int
    material_index: int
    caption: str
    events: tuple[float, ...]
    loudness: tuple[float, ...]
    start: float
    end: float
    size: float
    color: tuple[float, float, float]
    distractor: tuple[float, float, float] | None

    @property
    def material(self) -> Material:
        """The object's material."""
        return MATERIALS[self.material_index]

    def position(self, seconds: np.ndarray | float) -> np.ndarray:
        """Horizontal position in [-1, 1] at the given times."""
        return self.start + (self.end - self.start) * np.asarray(seconds) / SECONDS

    def height(self, seconds: np.ndarray) -> np.ndarray:
        """Height above the floor in [0, 1] at the given times: ballistic arcs that touch 0 at every event."""
        if not self.events:
            return np.zeros_like(seconds)
        gaps = np.diff(self.events)
        first, last = self.events[0], self.events[-1]
        knots = np.array([first - max(2 * first, 0.7), *self.events, last + (gaps[-1] if len(gaps) else 0.6) * 0.8])
        arc = np.clip(np.searchsorted(knots, seconds, side="right") - 1, 0, len(knots) - 2)
        length = knots[arc + 1] - knots[arc]
        phase = (seconds - knots[arc]) / length
        return np.where(phase > 1, 0.0, 4 * phase * (1 - phase)) * np.minimum(0.2 + 0.55 * length, 0.8)


def scene_seed(split: str, seed: int, index: int) -> int:
    """A scene's own seed; splits never share scenes."""
    return int(np.random.SeedSequence([seed, index, *split.encode()]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_scene(seed: int, quiet: float = 0.0) -> Scene:
    """Draw a scene; a pure function of its arguments. quiet: probability that the object slides and nothing hits."""
    rng = np.random.default_rng(seed)
    index = int(rng.integers(len(MATERIALS)))
    adjective, noun = MATERIALS[index].words[int(rng.integers(len(MATERIALS[index].words)))]
    count = int(rng.integers(2, 5))
    slack = SECONDS - 0.2 - 0.3 - (count - 1) * MIN_GAP
    cuts = np.sort(rng.uniform(0, slack, count))
    events = 0.2 + cuts + MIN_GAP * np.arange(count)
    start, end = rng.uniform(-0.9, 0.9, 2)
    color = rng.uniform(0.45, 1.0, 3)
    size, loudness = rng.uniform(0.09, 0.13), rng.uniform(0.6, 1.0, count)
    drift = (*rng.uniform(-0.9, 0.9, 2), rng.uniform(0.1, 0.35))
    distractor = (float(drift[0]), float(drift[1]), float(drift[2])) if rng.random() < 0.5 else None
    if rng.random() < quiet:
        events = events[:0]
    return Scene(
        seed=seed,
        material_index=index,
        caption=f"A {adjective} {noun} bouncing.",
        events=tuple(float(e) for e in events),
        loudness=tuple(float(v) for v in loudness[: len(events)]),
        start=float(start),
        end=float(end),
        size=float(size),
        color=(float(color[0]), float(color[1]), float(color[2])),
        distractor=distractor,
    )
