"""The world: what a scene promises holds in its motion, picture, sound and faults."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenes import picture, sound
from scenes.corruption import CorruptionConfig, corrupt
from scenes.materials import LABELS, MATERIALS
from scenes.world import MIN_GAP, SECONDS, Scene, make_scene, scene_seed

CLEAN = "Clean."
FAULTLESS = CorruptionConfig(
    wrong_class=0, jitter_s=0, shift_probability=0, dropped=0, invented=0, mirrored=0, mono=0, noisy=0, level_db=0,
    described_truthfully=1,
)  # fmt: skip


def scene(index: int, split: str = "tests") -> Scene:
    return make_scene(scene_seed(split, 0, index))


@given(st.integers(0, 2**62))
def test_events_are_ordered_apart_and_inside(seed: int) -> None:
    drawn = make_scene(seed)
    assert 2 <= len(drawn.events) <= 4
    assert min(np.diff(drawn.events)) >= MIN_GAP - 1e-9
    assert drawn.events[0] >= 0.2
    assert drawn.events[-1] <= SECONDS - 0.3 + 1e-9


@given(st.integers(0, 2**62))
def test_the_object_touches_the_floor_at_its_events_only(seed: int) -> None:
    drawn = make_scene(seed)
    assert np.allclose(drawn.height(np.array(drawn.events)), 0, atol=1e-9)
    between = (np.array(drawn.events[:-1]) + np.array(drawn.events[1:])) / 2
    assert (drawn.height(between) > 0.1).all()


def test_a_scene_is_a_function_of_its_seed_and_splits_differ() -> None:
    assert scene(3) == scene(3)
    assert scene(3) != scene(3, "other")
    assert (picture.render(scene(3)) == picture.render(scene(3))).all()
    assert (sound.render(scene(3)) == sound.render(scene(3))).all()


def test_every_shape_is_shared_by_two_materials() -> None:
    shapes = [m.shape for m in MATERIALS]
    assert all(shapes.count(s) == 2 for s in shapes)
    assert len(set(LABELS)) == len(MATERIALS)


def test_the_picture_shows_the_object_where_the_scene_says() -> None:
    drawn = scene(5)
    frames = picture.render(drawn).astype(float).max(axis=-1)
    bright = frames > 0.6 * frames.max()
    columns = np.arange(frames.shape[2])
    seen = (bright.sum(1) * columns).sum(1) / bright.sum((1, 2)) / frames.shape[2]
    expected = 0.5 + 0.42 * drawn.position(np.arange(len(frames)) / 16)
    assert np.abs(seen - expected).max() < 0.03


@pytest.mark.parametrize("pan", [-0.8, 0.5])
def test_place_delays_and_levels_the_far_ear(pan: float) -> None:
    out = sound.place(np.array([0.5]), np.array([1.0]), np.array([pan]), material_index=4, variant=0)
    level = 10 * np.log10((out[1] ** 2).sum() / (out[0] ** 2).sum())
    assert level == pytest.approx(pan * sound.LEVEL_DB, abs=0.3)
    spectrum = np.fft.rfft(out, 4 * out.shape[1])
    lags = np.fft.irfft(spectrum[0] * spectrum[1].conj())
    lag = int(np.argmax(np.concatenate([lags[-20:], lags[:20]]))) - 20
    assert lag == pytest.approx(pan * sound.DELAY_SAMPLES, abs=1)


def test_normalise_never_clips() -> None:
    spike = np.zeros((2, 1000), np.float32)
    spike[:, 10] = 5.0
    assert np.abs(sound.normalise(spike, rms_db=0.0)).max() <= 0.99


def test_faultless_corruption_is_the_clean_sound() -> None:
    drawn = scene(7)
    clean, made = sound.render(drawn), corrupt(drawn, FAULTLESS, CLEAN)
    # The same impacts up to the variant that was struck: onsets and levels of the ears agree.
    energy = [(w.reshape(2, 100, -1) ** 2).sum(-1) for w in (clean, made.waveform)]
    assert np.corrcoef(energy[0].ravel(), energy[1].ravel())[0, 1] > 0.8
    assert made.aesthetic.startswith("Clean clear")


@pytest.mark.parametrize(("fault", "value"), [("mono", 1.0), ("mirrored", 1.0)])
def test_spatial_faults(fault: str, value: float) -> None:
    drawn = next(s for s in map(scene, range(100)) if abs(s.position(s.events[0])) > 0.6)
    made = corrupt(drawn, FAULTLESS.model_copy(update={fault: value}), CLEAN).waveform
    first = round(drawn.events[0] * sound.SAMPLE_RATE)
    window = made[:, first : first + 1600]
    level = 10 * np.log10((window[1] ** 2).sum() / (window[0] ** 2).sum())
    expected = 0.0 if fault == "mono" else -sound.LEVEL_DB * float(drawn.position(drawn.events[0]))
    assert level == pytest.approx(expected, abs=1.0)


def test_quiet_scenes_have_no_impacts_and_next_to_no_sound() -> None:
    quiet = make_scene(11, quiet=1.0)
    assert quiet.events == ()
    assert (quiet.height(np.linspace(0, 2, 32)) == 0).all()
    assert np.sqrt((sound.render(quiet) ** 2).mean()) < 1e-3
    assert np.sqrt((corrupt(quiet, FAULTLESS, CLEAN).waveform ** 2).mean()) < 1e-3
