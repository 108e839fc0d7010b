"""The released recipe on a forged release: an untouched picture over finite stereo sound, the same bits every time."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from foundation.build import load_foundation
from foundation.generate import SamplerConfig
from media.audio import read_audio
from media.video import probe
from media.writing import write_clip
from pipelines import soundtrack
from pipelines.generate import generate
from pipelines.generate_recipe import resolve
from pipelines.recipe import ROOT
from settings import PrismError

DEBUG = ROOT / "recipes" / "debug" / "prismaudio.yaml"
RATE = 44_100
CAPTION = "A dog barks twice in a large hall."


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2.5 s of a moving square, with B-frames, 25 Hz and a sound of its own."""
    frames = np.zeros((62, 90, 160, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[20:60, 2 * index : 2 * index + 30] = (200, 180, 60)
    path = tmp_path_factory.mktemp("films") / "square.mp4"
    write_clip(path, frames, 25.0, np.zeros((2, 39_680), np.float32), 16_000)
    return path


@pytest.fixture(scope="module")
def made(release: Path, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate([video], CAPTION, tmp_path_factory.mktemp("out"), model=release, recipe=DEBUG)[0]


def packets(path: Path) -> list[tuple[bytes, Fraction, Fraction]]:
    """Bytes, presentation and decoding time of every packet of the picture."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = [packet for packet in container.demux(stream) if packet.size]
        return [(bytes(p), (p.pts or 0) * p.time_base, (p.dts or 0) * p.time_base) for p in found]


def test_the_picture_is_untouched_under_finite_stereo_sound(made: Path, video: Path) -> None:
    assert packets(made) == packets(video)
    found = probe(made)
    assert (found.sample_rate, found.channels) == (RATE, 2)
    sound, rate = read_audio(made.with_suffix(".wav"))
    assert (sound.shape, rate) == ((2, round(2.48 * RATE)), RATE)
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() == pytest.approx(1.0, abs=1e-6)
    assert np.abs(sound[0] - sound[1]).max() > 0
    described = json.loads(made.with_suffix(".json").read_text())
    assert described["plan"]["semantic"] == CAPTION
    assert len(described["windows"]) == 1


def test_seed_and_caption_decide(release: Path, made: Path, video: Path, tmp_path: Path) -> None:
    def again(name: str, caption: str, *settings: str) -> bytes:
        path = generate([video], caption, tmp_path / name, model=release, recipe=DEBUG, overrides=settings)[0]
        return path.with_suffix(".wav").read_bytes()

    first = made.with_suffix(".wav").read_bytes()
    assert again("same", CAPTION) == first
    assert again("text", "Rain.") != first
    assert again("seed", CAPTION, "seed=1") != first
    assert again("solver", CAPTION, "sampler.solver=abm3", "sampler.guidance_interval=[0.2,0.8]") != first


def test_windows_whose_texts_differ_in_length(
    release: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of 1 s, whose plans differ: the bits do not depend on how many are evaluated together."""

    def short(path: Path, device: str) -> object:
        return type(found := load_foundation(path, device))(**{**vars(found), "seconds": 1.0})

    monkeypatch.setattr(soundtrack, "load_foundation", short)
    made = [
        generate([video], None, tmp_path / str(batch), model=release, recipe=DEBUG, overrides=[f"batch={batch}"])[0]
        for batch in (1, 4)
    ]
    assert len(json.loads(made[0].with_suffix(".json").read_text())["windows"]) == 4
    sounds = [path.with_suffix(".wav").read_bytes() for path in made]
    assert sounds[0] == sounds[1]


def test_the_full_recipe_samples_as_released() -> None:
    found = resolve(ROOT / "recipes" / "prismaudio.yaml")
    assert found.sampler == SamplerConfig(solver="euler", steps=24, guidance=5.0, peak="normalise")
    assert found.sampler.nfe == 48
    debug = resolve(DEBUG)
    differing = {"model", "device", "sampler", "execution", "torch_threads"}
    assert found.model_dump(exclude=differing) == debug.model_dump(exclude=differing)


def test_a_release_that_is_not_there(video: Path, tmp_path: Path) -> None:
    with pytest.raises(PrismError, match=r"no model at models/forged"):
        generate([video], None, tmp_path / "out", recipe=DEBUG)
