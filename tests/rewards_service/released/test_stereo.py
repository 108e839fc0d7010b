"""The stereo reward prefers what sounds from where the reference does, and says nothing about mono references."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.features import FeatureStore
from media.stretches import Stretch, write_stretches
from rewards_service.build import build_scorer
from rewards_service.config import ScorerConfig
from rewards_service.errors import RewardError
from rewards_service.released.official_stereo import OfficialStereoScorer
from rewards_service.released.stereo import StereoScorer
from rewards_service.scores import Reference, Scores
from rewards_service.stereo.image import identity
from scenes.sound import render
from scenes.world import FPS, SECONDS
from tests.rewards_service.released.stereo_sounds import (
    RATE,
    as_material,
    mono,
    moving,
    panned,
    positions,
    reference,
    scene,
)

SCORER = StereoScorer()


@cache
def original() -> np.ndarray:
    return moving()


@pytest.fixture
def known(tmp_path: Path) -> Reference:
    return reference(tmp_path, "moving", original())


def scores(sounds: list[np.ndarray], about: Reference, scorer: StereoScorer | OfficialStereoScorer = SCORER) -> Scores:
    return scorer.score(np.stack(sounds)[None].astype(np.float32), RATE, [about], detail=True)


def values(sounds: list[np.ndarray], about: Reference) -> list[float]:
    return scores(sounds, about).values[0].tolist()


def test_the_original_is_best_and_mono_silence_swapping_and_other_places_cost(known: Reference) -> None:
    dry = original().mean(0)
    itself, mono_, swapped, silent, left_alone, elsewhere, backwards, opposed = values(
        [
            original(),
            mono(original()),
            original()[::-1],
            0 * original(),
            original() * np.array([[1.0], [0.0]]),
            panned(dry, 0.3, -6.0),
            moving(0, later_ms=-0.3, louder_db=-6.0),
            np.stack([dry, -dry]),
        ],
        known,
    )
    assert itself == pytest.approx(1.0, abs=0.01)
    assert silent == 0.0
    assert max(mono_, swapped, elsewhere, backwards) < 0.6
    assert max(opposed, left_alone) < 0.1


def test_another_sound_with_the_same_places_beats_every_mono(known: Reference) -> None:
    """What a good generator gives: not the same samples, but the same places, with noise of its own."""
    rng = np.random.default_rng(5)
    other = moving(seed=77)
    noisy = other + rng.normal(0, 0.1 * other.std(), other.shape)
    monos = [mono(s) for s in (original(), other, rng.normal(0, 0.1, other.shape))]
    good, fair, *flat = values([other, noisy, *monos], known)
    assert good > 0.85
    assert fair > 0.75
    assert max(flat) < fair - 0.2


@pytest.mark.parametrize("later_ms", [0.05, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("louder_db", [0.0, 3.0])
def test_a_constant_pan_does_not_replace_movement(known: Reference, later_ms: float, louder_db: float) -> None:
    dry = original().mean(0)
    itself, constant = values([original(), panned(dry, later_ms, louder_db)], known)
    assert constant < itself - 0.4


def test_a_delay_that_spoils_the_mono_mix_is_marked_down(tmp_path: Path) -> None:
    """Against a reference panned by level alone; the delay gives a channel difference, and combs the mono mix."""
    dry = original().mean(0)
    by_level = panned(dry, 0.0, 6.0)
    about = reference(tmp_path, "panned", by_level)
    found = scores([by_level, panned(dry, 0.9, 6.0)], about)
    assert found.measured is not None
    assert found.measured[0][0]["mono"] == pytest.approx(1.0, abs=1e-3)
    assert found.measured[0][1]["mono"] < 0.7
    assert found.values[0, 1] < 0.3


@settings(deadline=None, max_examples=25)
@given(gain=st.floats(0.2, 5.0), later=st.floats(-0.6, 0.6), louder=st.floats(-10, 10))
def test_gain_does_not_matter_and_swapping_mirrors(
    tmp_path_factory: pytest.TempPathFactory, gain: float, later: float, louder: float
) -> None:
    about = reference(tmp_path_factory.mktemp("clips"), "moving", original()[:, :RATE])
    mirrored = reference(tmp_path_factory.mktemp("clips"), "mirrored", original()[::-1, :RATE])
    dry = original().mean(0)[:RATE]
    sound = panned(dry, later, louder)
    plain, scaled = values([sound, gain * sound], about)
    assert scaled == pytest.approx(plain, abs=1e-4)
    assert values([sound[::-1]], mirrored) == pytest.approx([plain], abs=1e-4)


@settings(deadline=None, max_examples=20)
@given(
    true=st.floats(-0.5, 0.5), nearer=st.floats(0.0, 0.25), farther=st.floats(0.05, 0.3), side=st.sampled_from([-1, 1])
)
def test_the_nearer_place_is_the_better_one(
    tmp_path_factory: pytest.TempPathFactory, true: float, nearer: float, farther: float, side: int
) -> None:
    dry = original().mean(0)[:RATE]
    about = reference(tmp_path_factory.mktemp("clips"), "still", panned(dry, true, 12 * true + 6))
    at = [true + side * d for d in (nearer, nearer + farther)]
    good, bad = values([panned(dry, x, 12 * x + 6) for x in at], about)
    assert good > bad


def test_what_was_measured_is_told(known: Reference) -> None:
    found = scores([original()], known)
    assert found.measured is not None
    told = found.measured[0][0]
    assert told["basis"] == "the reference clip's own sound"
    assert told["mse_ms2"] == pytest.approx(0.0, abs=1e-4)
    first, last = told["windows"][1], told["windows"][-2]
    assert first["delay_ms"] == pytest.approx(0.3, abs=0.05)
    assert last["delay_ms"] == pytest.approx(-0.3, abs=0.05)
    assert first["level_db"] == pytest.approx(-6.0, abs=1.0)
    assert last["level_db"] == pytest.approx(6.0, abs=1.0)
    assert sum(window["weight"] for window in told["windows"]) == pytest.approx(1.0, abs=0.02)


def near_mono(side_db: float) -> np.ndarray:
    """A sound whose side is so far from its mid."""
    middle, rest = original().mean(0), moving(seed=3).mean(0)
    side = rest * 10 ** (side_db / 20) * middle.std() / rest.std()
    return np.stack([middle + side, middle - side])


def test_mono_diffuse_and_missing_references_are_gated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    diffuse = rng.normal(0, 0.1, original().shape).astype(np.float32)
    cases = [
        (reference(tmp_path, "mono", mono(original())), "the reference clip is mono"),
        (reference(tmp_path, "near", near_mono(-33.0)), "the reference clip is mono"),
        (reference(tmp_path, "diffuse", diffuse), "diffuse"),
        (reference(tmp_path, "silent", 0 * original()), "no sound"),
        (Reference("none", "", 4.0, (), (), 1.0), "no sound, and nothing is known of where its source is seen"),
    ]
    sounds = np.repeat(np.stack([original(), mono(original())])[None], len(cases), 0)
    found = SCORER.score(sounds, RATE, [about for about, _ in cases], detail=True)
    assert np.isnan(found.values).all()
    assert not found.missing
    assert sorted(found.gated) == list(range(len(cases)))
    assert all(told in found.gated[g] for g, (_, told) in enumerate(cases))
    assert found.measured is not None
    assert found.measured[0][0]["basis"] == found.gated[0]


def test_a_little_side_is_enough_to_be_judged(tmp_path: Path) -> None:
    sound = near_mono(-24.0)
    itself, flat = values([sound, mono(sound)], reference(tmp_path, "near", sound))
    assert itself > flat + 0.1


def test_gated_and_judged_prompts_share_a_batch(tmp_path: Path, known: Reference) -> None:
    flat = reference(tmp_path, "mono", mono(original()))
    sounds = np.stack([np.stack([original(), original()[::-1]])] * 2)
    found = SCORER.score(sounds, RATE, [flat, known])
    assert list(found.gated) == [0]
    np.testing.assert_allclose(found.values[1], values([original(), original()[::-1]], known), atol=1e-5)


def test_the_stretch_of_the_file_is_compared_at_any_rate(tmp_path: Path) -> None:
    import soxr

    high = soxr.resample(original().T, RATE, 44100).T.astype(np.float32)
    about = reference(tmp_path, "late", high, start=1.5, rate=44100)
    found = SCORER.score(high[None, None], 44100, [about])
    assert found.values.item() == pytest.approx(1.0, abs=0.03)


def test_nan_is_refused_and_an_unreadable_reference_is_nobodys_score(tmp_path: Path, known: Reference) -> None:
    broken = original().copy()
    broken[0, 100] = np.nan
    lost = Reference("lost", "", 4.0, (), (), 1.0, uri=str(tmp_path / "gone.mp4"))
    sounds = np.stack([np.stack([original(), broken]), np.stack([original(), original()])])
    found = SCORER.score(sounds, RATE, [known, lost])
    assert np.isfinite(found.values).tolist() == [[True, False], [False, False]]
    assert sorted(found.missing) == [(0, 1), (1, 0), (1, 1)]
    assert "gone.mp4" in found.missing[1, 0]
    assert not found.gated
    (tmp_path / "gone.mp4").write_bytes((tmp_path / "moving.wav").read_bytes())
    again = SCORER.score(sounds, RATE, [known, lost])
    assert again.values[1] == pytest.approx([1.0, 1.0], abs=0.01), "a file that was late is read once it is there"


def test_a_reference_is_measured_once(tmp_path: Path) -> None:
    about = reference(tmp_path, "once", original())
    scorer = StereoScorer()
    first = scorer.score(original()[None, None], RATE, [about]).values
    Path(about.uri).unlink()
    np.testing.assert_array_equal(scorer.score(original()[None, None], RATE, [about]).values, first)


@pytest.mark.parametrize("with_events", [True, False])
def test_without_a_sound_of_its_own_the_place_on_screen_counts(with_events: bool) -> None:
    made = [scene(i) for i in range(12)]
    abouts = [
        Reference(str(i), "", SECONDS, s.events if with_events else (), positions(s), FPS, {"positions": "truth"})
        for i, s in enumerate(made)
    ]
    sounds = np.stack([render(s) for s in made])[:, None]
    clean = SCORER.score(sounds, RATE, abouts, detail=True)
    judged = [g for g in range(12) if g not in clean.gated]
    assert len(judged) > 8
    worse = [
        SCORER.score(wrong.astype(np.float32), RATE, abouts).values[judged, 0]
        for wrong in (sounds[:, :, ::-1], mono(sounds), 0 * sounds)
    ]
    good = clean.values[judged, 0]
    assert good.mean() > 0.7
    assert all((good > bad).all() for bad in worse)
    assert max(bad.mean() for bad in worse) < good.mean() - 0.3
    assert clean.measured is not None
    assert "true positions" in clean.measured[judged[0]][0]["basis"]


def test_a_source_in_the_middle_is_gated() -> None:
    about = Reference("middle", "", 4.0, (1.0,), (0.02, 0.03, 0.02), 1.0)
    found = scores([original()], about)
    assert "where mono is as right" in found.gated[0]


def test_impacts_of_another_material_at_the_right_places_beat_mono(tmp_path: Path) -> None:
    """The reference is a scene's own sound; what is scored sounds otherwise but from the same places."""
    gains = []
    for index in range(6):
        made = scene(index)
        about = reference(tmp_path, f"scene{index}", render(made))
        other = as_material(made, (made.material_index + 3) % 8, 1)
        right, swapped, flat = values([other, other[::-1], mono(other)], about)
        gains.append((right - swapped, right - flat))
    assert (np.mean(gains, axis=0) > 0.15).all()
    assert (np.array(gains) > 0).mean() > 0.8


def test_what_features_stored_is_what_is_measured(tmp_path: Path, known: Reference) -> None:
    store = str(tmp_path / "store")
    with pytest.raises(RewardError, match="prism features"):
        StereoScorer(store=store).score(original()[None, None], RATE, [known])
    stretch = Stretch("an-id", "moving", known.uri, known.start, known.seconds, "")
    sound = StereoScorer().own_sound(known).image
    assert sound is not None
    FeatureStore(store).write(identity(SCORER.window_s, SCORER.hop_s), {stretch.id: sound.arrays()})
    write_stretches(store, [stretch])
    Path(known.uri).unlink()
    found = scores([original(), original()[::-1]], known, StereoScorer(store=store)).values[0]
    assert found[0] == pytest.approx(1.0, abs=0.01)
    assert found[1] < 0.6


def test_the_official_formula(known: Reference) -> None:
    """-2.5 times the squared difference of mean delays: 0.25 ms off costs 0.15625."""
    dry = original().mean(0)
    still = replace(known, clip_id="still", uri=known.uri.replace("moving", "still"))
    reference(Path(known.uri).parent, "still", panned(dry, 0.25, 6.0))
    sounds = [panned(dry, 0.25, 6.0), panned(dry, 0.5, 0.0), panned(dry, 0.0, 0.0), 0 * original()]
    found = scores(sounds, still, OfficialStereoScorer())
    np.testing.assert_allclose(found.values[0], [0.0, -0.15625, -0.15625, -22.5], atol=1e-3)
    assert found.measured is not None
    assert found.measured[0][1]["gcc_ms"] == pytest.approx(0.5, abs=1e-3)


def test_the_official_formula_gates_mono_unless_told_not_to(tmp_path: Path) -> None:
    flat = reference(tmp_path, "mono", mono(original()))
    assert "mono" in scores([original()], flat, OfficialStereoScorer()).gated[0]
    released = scores([mono(original()), original()], flat, OfficialStereoScorer(gate=False))
    assert released.values[0, 0] == 0.0
    assert released.values[0, 1] <= 0.0


def test_recipes_name_them(known: Reference) -> None:
    made = build_scorer("spatial", ScorerConfig(scorer="stereo", options={"hop_s": 0.25}))
    found = made.score(original()[None, None], RATE, [known])
    assert found.values.item() == pytest.approx(1.0, abs=0.01)
    assert isinstance(build_scorer("spatial", ScorerConfig(scorer="stereo_official")), OfficialStereoScorer)
