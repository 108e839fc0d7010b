"""Every reward that judges without released weights prefers a scene's own sound to the same sound spoiled."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.io import wavfile

from benchmarks.corruptions import ALL, OTHER, concerning, corrupted
from benchmarks.ranking import Example, Ranked, rank, scorers
from rewards_service.scores import Reference
from tests.rewards_service.conftest import RATE, World

# A scene with a little noise still sounds like what it shows, so the semantic reward need not always hear it.
FORGIVEN = {("semantic", "noise, 15 dB SNR"): (0.0, 0.6), ("semantic", "noise, 5 dB SNR"): (0.03, 0.75)}


@pytest.fixture(scope="module")
def examples(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """The scenes with their sounds in files, as references that name them."""
    folder = tmp_path_factory.mktemp("sounds")
    found = []
    for k, (reference, sound, label) in enumerate(zip(world.references, world.sounds[:, 0], world.labels, strict=True)):
        path = folder / f"{k}.wav"
        wavfile.write(path, RATE, sound.T)
        found.append(Example(replace(reference, uri=str(path)), sound, label))
    return found


@pytest.mark.parametrize("name", scorers())
def test_the_original_is_preferred(examples: list[Example], name: str) -> None:
    dimension, scorer = scorers()[name]
    rows = rank(name, dimension, scorer, examples, RATE)
    assert {row.corruption for row in rows} == set(concerning(dimension))
    for row in rows:
        drop, share = FORGIVEN.get((dimension, row.corruption), (0.1, 0.95))
        assert row.clips == len(examples), row
        assert row.drop is not None
        assert row.ranked is not None
        assert row.drop > drop, row
        assert row.ranked >= share, row
        if row.corruption == "silence":
            assert row.drop == pytest.approx(row.score), "silence is worth nothing"


def test_a_larger_fault_costs_no_less(examples: list[Example]) -> None:
    found: dict[str, Ranked] = {}
    for name in ("temporal (embedded)", "aesthetic (embedded)", "semantic (embedded)"):
        dimension, scorer = scorers()[name]
        found |= {f"{dimension} {row.corruption}": row for row in rank(name, dimension, scorer, examples, RATE)}
    for dimension in ("aesthetic", "semantic"):
        little, much = (found[f"{dimension} noise, {db} dB SNR"].drop for db in (15, 5))
        assert little is not None
        assert much is not None
        assert much > little
    late, early = (found[f"temporal shifted {sign}100 ms"].drop for sign in "+−")
    assert late == pytest.approx(early, abs=0.1), "early and late cost alike"


def test_every_dimension_has_its_faults() -> None:
    shifts = {f"shifted {sign}{ms} ms" for sign in "+−" for ms in (100, 200, 500)}
    assert set(concerning("temporal")) == shifts | {"silence", "another clip's sound"}
    assert set(concerning("spatial")) == {"swapped channels", "mono", "silence"}
    assert set(concerning("aesthetic")) == {
        "clipped, 12 dB",
        "noise, 15 dB SNR",
        "noise, 5 dB SNR",
        "−60 dB",
        "silence",
    }
    assert set(concerning("semantic")) == {"noise, 15 dB SNR", "noise, 5 dB SNR", "silence", "another clip's sound"}


def test_faults_are_what_their_names_say() -> None:
    rng = np.random.default_rng(1)
    sound = 0.1 * rng.standard_normal((2, RATE)).astype(np.float32)
    other = rng.standard_normal((2, 300)).astype(np.float32)
    found = corrupted(sound, RATE, other)
    assert set(found) == {c.name for c in (*ALL, OTHER)}
    assert all(spoiled.shape == sound.shape and spoiled.dtype == np.float32 for spoiled in found.values())
    np.testing.assert_array_equal(found["shifted +200 ms"][:, 3200:], sound[:, :-3200])
    np.testing.assert_array_equal(found["shifted −500 ms"][:, :-8000], sound[:, 8000:])
    assert not found["shifted +200 ms"][:, :3200].any()
    assert not found["shifted −500 ms"][:, -8000:].any()
    for db in (15, 5):
        noise = found[f"noise, {db} dB SNR"] - sound
        assert 20 * np.log10(sound.std() / noise.std()) == pytest.approx(db, abs=0.1)
        assert abs(np.corrcoef(noise)[0, 1]) < 0.03, "each channel has its own"
    loud = found["clipped, 12 dB"]
    assert np.abs(loud).max() == 1
    gain = 10 ** (12 / 20) / np.abs(sound).max()
    whole = np.abs(gain * sound) < 1
    np.testing.assert_allclose(loud[whole], gain * sound[whole], rtol=1e-5)
    np.testing.assert_allclose(found["−60 dB"], sound / 1000, rtol=1e-5)
    np.testing.assert_array_equal(found["swapped channels"], sound[::-1])
    np.testing.assert_array_equal(found["mono"][0], found["mono"][1])
    np.testing.assert_array_equal(found["another clip's sound"][:, 300:600], other)
    assert not found["silence"].any()


def test_what_does_not_change_a_clip_is_left_out(examples: list[Example]) -> None:
    middle = [replace(e, sound=np.repeat(e.sound.mean(axis=0, keepdims=True), 2, axis=0)) for e in examples[:3]]
    silent_reference = [replace(e, reference=Reference("x", "", 2.0, (), (), 16.0)) for e in examples[:2]]
    dimension, scorer = scorers()["spatial (embedded)"]
    rows = {row.corruption: row for row in rank("x", dimension, scorer, [*middle, examples[5]], RATE)}
    assert (rows["mono"].clips, rows["mono"].unchanged) == (1, 3)
    assert (rows["silence"].clips, rows["silence"].unchanged) == (4, 0)
    rows = {row.corruption: row for row in rank("x", *scorers()["stereo"], silent_reference, RATE)}
    assert [(row.clips, row.gated, row.ranked) for row in rows.values()] == [(0, 2, None)] * 3
