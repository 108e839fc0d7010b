"""A real video's impacts and positions, drawn in the world the encoders know."""

import numpy as np
import pytest

from scenes.materials import LABELS
from scenes.schematic import describe, draw, material_of
from scenes.world import make_scene


def place(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of the object in every frame, as shares of the picture."""
    bright = frames.max(-1) > 150
    rows, columns = np.mgrid[: frames.shape[1], : frames.shape[2]] / frames.shape[1]
    weight = bright.sum((1, 2))
    return (bright * columns).sum((1, 2)) / weight, (bright * rows).sum((1, 2)) / weight


def test_the_object_is_lowest_at_the_events_and_follows_the_positions() -> None:
    across, down = place(draw([0.5, 1.25], np.linspace(-0.8, 0.8, 50).tolist(), 2.0, None))
    assert across == pytest.approx(0.5 + 0.42 * np.linspace(-0.8, 0.8, 33)[:32], abs=0.04)
    assert down[8] == pytest.approx(down.max(), abs=0.02)
    assert down[20] == pytest.approx(down.max(), abs=0.02)
    assert down[14] < down.max() - 0.1


def test_without_events_nothing_bounces() -> None:
    _, down = place(draw([], [0.0] * 8, 2.0, None))
    assert np.ptp(down) < 0.02


@pytest.mark.parametrize(("seconds", "frames"), [(0.25, 4), (1.0, 16), (2.0, 32), (9.0, 32)])
def test_lengths(seconds: float, frames: int) -> None:
    assert draw([], [], seconds, "A dog.").shape == (frames, 96, 96, 3)


def test_captions_pick_the_shape() -> None:
    assert LABELS[material_of("Somebody hits a METAL fence.")] == "metal"
    assert material_of("A dog.") == material_of(None) == 0


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("Metal hits", "A metal tin bouncing."),
        ("somebody plays a drum!", "A leather drum bouncing."),
        ("A dog barks.", "A dog barks."),
        (None, None),
    ],
)
def test_captions_are_said_in_known_words(caption: str | None, said: str | None) -> None:
    assert describe(caption) == said


def test_what_scenes_say_stays_word_for_word() -> None:
    for index in range(40):
        caption = make_scene(index).caption
        assert describe(caption) == caption
