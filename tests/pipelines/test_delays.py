"""The stored delays are those that the spatial reward compares with."""

from pathlib import Path

import numpy as np
import pytest

from media.errors import NoSound
from media.stretches import Stretch
from media.writing import write_clip
from pipelines.extractors import DELAYS, Delays
from rewards_service.released.stereo import StereoScorer
from rewards_service.scores import Reference
from scenes.picture import render as render_picture
from scenes.sound import SAMPLE_RATE, render
from scenes.world import FPS, SECONDS, Scene, make_scene, scene_seed


@pytest.fixture
def scene() -> Scene:
    return make_scene(scene_seed("delays", 0, 0))


def test_of_a_scene(scene: Scene, tmp_path: Path) -> None:
    """The right channel leads where the object is on the right; what is stored scores as what the file holds."""
    path = tmp_path / "scene.mp4"
    write_clip(path, render_picture(scene), FPS, render(scene), SAMPLE_RATE, audio_codec="flac")
    extractor = Delays()
    rows = extractor.rows(Stretch("id", "scene", str(path), 0.0, SECONDS, ""))
    assert tuple(rows) == extractor.names == DELAYS
    assert {array.shape[0] for array in rows.values()} == {15}
    loudest = int(rows["amplitude"].argmax())
    place = float(scene.position(float(rows["time_s"][loudest])))
    level = float((rows["level_db"] * rows["share"]).sum(-1)[loudest])
    assert level == pytest.approx(12 * place, abs=1.5)
    assert np.sign(rows["delay_ms"][loudest]) == -np.sign(place)
    heard = StereoScorer().own_sound(Reference("scene", "", SECONDS, (), (), 1.0, uri=str(path))).image
    assert heard is not None
    for name, array in heard.arrays().items():
        np.testing.assert_allclose(rows[name], array, atol=1e-5)


def test_its_settings_are_in_its_name() -> None:
    assert Delays().identity == Delays().identity
    assert Delays(window_s=0.5).identity != Delays().identity
    assert Delays().identity.startswith("delays-")


def test_a_silent_film_has_none(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    write_clip(path, render_picture(scene), FPS)
    with pytest.raises(NoSound):
        Delays().rows(Stretch("id", "silent", str(path), 0.0, SECONDS, ""))
