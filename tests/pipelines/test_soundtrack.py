"""Soundtracks by recipe: what decides the bits, long videos, many videos, bad ones."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cot_service.analysis import analyse
from foundation.build import load_foundation
from media.audio import read_audio, write_wav
from media.video import probe
from pipelines import soundtrack as module
from pipelines.generate import GenerateError, generate, soundtrack, windows
from pipelines.generate_recipe import GenerateRecipe, resolve
from pipelines.recipe import find_model
from pipelines.segments import read_video
from pipelines.soundtrack import stretches
from settings import PrismError
from settings.load import ConfigError
from tests.pipelines.conftest import write_scene

CAPTION = "A glass marble bouncing."
FEW = ("sampler.steps=2",)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Videos of one, three and two windows' length."""
    folder = tmp_path_factory.mktemp("films")
    return [write_scene(folder / f"film{k}.mp4", 3 * k, repeat) for k, repeat in enumerate((1, 3, 2))]


def wavs(paths: list[Path]) -> list[bytes]:
    return [path.with_suffix(".wav").read_bytes() for path in paths]


@pytest.fixture(scope="module")
def alone(films: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Each film's sound, made in a call of its own, window by window."""
    folder = tmp_path_factory.mktemp("alone")
    return wavs([generate([film], CAPTION, folder, overrides=[*FEW, "batch=1"])[0] for film in films])


def test_without_a_recipe_it_is_the_plain_sampler_joined_linearly(tmp_path: Path, films: list[Path]) -> None:
    made = generate(films[1:2], CAPTION, tmp_path)[0]
    foundation, clip = load_foundation(find_model(None)), read_video(films[1])
    found = windows(foundation, films[1], clip, analyse(clip), CAPTION)
    assert [segment.start for segment in found] == [0.0, 1.75, 3.5, 4.0]
    write_wav(tmp_path / "expected.wav", soundtrack(foundation, found, 96_000, 0, 1.0, 16), 16_000)
    assert made.with_suffix(".wav").read_bytes() == (tmp_path / "expected.wav").read_bytes()


@pytest.mark.parametrize("batch", [2, 3])
def test_bits_do_not_depend_on_the_batch_or_on_other_videos(
    tmp_path: Path, films: list[Path], alone: list[bytes], batch: int
) -> None:
    order = [2, 0, 1]
    made = generate([films[k] for k in order], CAPTION, tmp_path, overrides=[*FEW, f"batch={batch}"])
    assert [path.name for path in made] == [films[k].name for k in order]
    assert wavs(made) == [alone[k] for k in order]


def test_all_windows_at_once_differ_by_rounding_alone(tmp_path: Path, films: list[Path], alone: list[bytes]) -> None:
    made = generate(films, CAPTION, tmp_path, overrides=FEW)
    assert wavs(made)[0] == alone[0]
    (tmp_path / "alone.wav").write_bytes(alone[1])
    sounds = [read_audio(path)[0] for path in (made[1].with_suffix(".wav"), tmp_path / "alone.wav")]
    np.testing.assert_allclose(sounds[0], sounds[1], atol=1e-5)


def test_actors_make_the_same_bits(ray_session: str, tmp_path: Path, films: list[Path], alone: list[bytes]) -> None:
    pool = ["pool.workers=2", "pool.num_cpus=0.1", "batch=1"]
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    given = [films[0], tmp_path / "broken.mp4", *films[1:]]
    with pytest.raises(GenerateError, match=r"(?s)1 of 4 videos.*broken\.mp4: expected a video"):
        generate(given, CAPTION, tmp_path / "out", overrides=[*FEW, *pool])
    assert wavs([tmp_path / "out" / film.name for film in films]) == alone


def test_bad_videos_are_listed_when_the_others_are_done(tmp_path: Path, films: list[Path], alone: list[bytes]) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    given = [tmp_path / "broken.mp4", films[0], tmp_path / "missing.mov"]
    with pytest.raises(GenerateError) as caught:
        generate(given, CAPTION, tmp_path / "out", overrides=[*FEW, "batch=1"])
    lines = str(caught.value).splitlines()
    assert lines[0] == f"2 of 3 videos got no soundtrack. The others are in {tmp_path / 'out'}."
    assert lines[1].startswith(f"  {tmp_path / 'broken.mp4'}: expected a video such as mp4")
    assert lines[2].startswith(f"  {tmp_path / 'missing.mov'}: no such file")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["film0.json", "film0.mp4", "film0.wav"]
    assert wavs([tmp_path / "out" / "film0.mp4"]) == alone[:1]


def test_the_error_of_a_single_video_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(PrismError, match="expected a video") as caught:
        generate([tmp_path / "broken.mp4"], None, tmp_path / "out", overrides=FEW)
    assert not isinstance(caught.value, GenerateError)


@pytest.mark.parametrize("most", [2.0, 4.5, 6.0, 9.0])
def test_stretches_cover_a_long_video(tmp_path: Path, most: float) -> None:
    film = write_scene(tmp_path / "long.mp4", 0, repeat=5)
    found = list(stretches(film, 2.0, 0.25, most))
    assert len(found) > 1
    assert all(clip.seconds <= most + 1 / 16 for _, clip in found)
    assert found[-1][0] + found[-1][1].seconds == pytest.approx(10.0)
    for (start, clip), (following, _) in pairwise(found):
        assert (following / 1.75) % 1 == pytest.approx(0) or following == pytest.approx(8.0)
        assert following <= start + clip.seconds - 0.25 + 1 / 16


def test_a_video_longer_than_is_held_at_once(
    tmp_path: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch, alone: list[bytes]
) -> None:
    monkeypatch.setattr(module, "MAX_SECONDS", 4.0)
    made = generate(films[1:2], CAPTION, tmp_path, overrides=[*FEW, "batch=1"])[0]
    sound, rate = read_audio(made.with_suffix(".wav"))
    assert (sound.shape, rate) == ((2, 96_000), 16_000)
    described = json.loads(made.with_suffix(".json").read_text())
    assert [window["start"] for window in described["windows"]] == [0.0, 1.75, 3.5, 4.0]
    # The first window sees the same stretch under the same noise, whatever follows.
    (tmp_path / "whole.wav").write_bytes(alone[1])
    whole, _ = read_audio(tmp_path / "whole.wav")
    assert np.abs(sound[:, 8_000:24_000]).max() > 0.01
    assert np.array_equal(sound[:, :24_000], whole[:, :24_000])
    assert probe(made).seconds == 6.0


def test_normalised_sound_peaks_at_full_scale(tmp_path: Path, films: list[Path]) -> None:
    options = ["sampler.peak=normalise", "crossfade=power", *FEW]
    sound, _ = read_audio(generate(films[1:2], CAPTION, tmp_path, overrides=options)[0].with_suffix(".wav"))
    assert np.abs(sound).max() == pytest.approx(1.0, abs=1e-6)


def test_options_go_before_overrides_before_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text("seed: 3\nsampler: {solver: ab2, steps: 9, guidance: 4.0}\n")
    found = resolve(recipe, ["sampler.steps=10", "seed=4"], {"seed": 5, "sampler.guidance": None, "model": "x"})
    assert (found.seed, found.sampler.solver, found.sampler.steps, found.sampler.guidance) == (5, "ab2", 10, 4.0)
    assert found.model == Path("x")
    assert resolve(None) == GenerateRecipe()
    with pytest.raises(ConfigError, match=r"sampler\.solver.*abm3"):
        resolve(None, options={"sampler.solver": "rk45"})


def test_a_device_that_is_not_there(tmp_path: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert GenerateRecipe(device="auto").on().type == "cpu"
    for name, message in (("cuda", "sees no GPU"), ("abacus", "not one torch knows")):
        with pytest.raises(PrismError, match=message):
            generate(films[:1], None, tmp_path / "out", overrides=[f"device={name}"])
