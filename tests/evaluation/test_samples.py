import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.samples import SampleRecord, file_stem, read_samples, save_sample
from media.clip import Clip
from media.errors import MediaError
from media.video import probe, read_clip
from scenes import picture
from scenes.world import FPS, Scene
from tests.evaluation.conftest import RATE, record


def test_frames_become_a_video_with_the_sound(tmp_path: Path, scenes: list[Scene], clean: np.ndarray) -> None:
    clip = Clip("anywhere.mp4", picture.render(scenes[0]), FPS)
    video = save_sample(tmp_path, "after", record(scenes[0], "one"), clip, clean[0], RATE)
    found = probe(video)
    assert (found.seconds, found.sample_rate, found.channels) == (2.0, RATE, 2)
    heard = read_clip(video).waveform
    assert heard is not None
    assert np.corrcoef(heard[0][:32000], clean[0][0])[0, 1] > 0.95


def test_what_was_saved_is_read_back(run_dir: Path, scenes: list[Scene]) -> None:
    problems: list[str] = []
    pairs = read_samples(run_dir, problems)
    assert problems == []
    assert [pair.clip_id for pair in pairs] == ["clip-0", "clip-1"]
    after = pairs[1].after
    assert after is not None
    assert after.record.plan == record(scenes[1], "clip-1").plan
    assert tuple(after.record.events) == pytest.approx(scenes[1].events)
    assert after.record.total == pytest.approx(0.65)


def test_numbers_that_json_lacks_are_null(tmp_path: Path, scenes: list[Scene], clean: np.ndarray) -> None:
    odd = SampleRecord("odd", 2.0, measured={"temporal": {"offsets_ms": np.array([np.nan, np.float32(1.5)])}})
    clip = Clip("a.mp4", picture.render(scenes[0]), FPS)
    video = save_sample(tmp_path, "before", odd, clip, clean[0], RATE)
    text = json.loads(video.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert text["measured"]["temporal"]["offsets_ms"] == [None, 1.5]


def test_a_total_needs_every_score() -> None:
    assert SampleRecord("a", 2.0, scores={"semantic": 0.5, "temporal": None}).total is None
    assert SampleRecord("a", 2.0).total is None


def test_a_missing_picture_is_a_clear_error(tmp_path: Path, clean: np.ndarray) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.mp4"):
        save_sample(tmp_path, "after", SampleRecord("a", 2.0), tmp_path / "nowhere.mp4", clean[0], RATE)


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_any_two_ids_get_two_safe_names(a: str, b: str) -> None:
    for name in (file_stem(a), file_stem(b)):
        assert "/" not in name
        assert name not in ("", ".", "..")
        assert not name.startswith(".")
    if a != b:
        assert file_stem(a) != file_stem(b)


def test_ids_with_folders_stay_apart(tmp_path: Path, scenes: list[Scene], clean: np.ndarray) -> None:
    clip = Clip("a.mp4", picture.render(scenes[0]), FPS)
    for name in ("dogs/1", "dogs_1"):
        save_sample(tmp_path, "after", SampleRecord(name, 2.0), clip, clean[0], RATE)
    assert {pair.clip_id for pair in read_samples(tmp_path, [])} == {"dogs/1", "dogs_1"}
