"""Soundtracks for any video: length, determinism, joins, warnings, and errors that lose nothing."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from media.audio import read_audio
from media.video import probe, read_clip
from pipelines.generate import generate, overlap_add
from pipelines.plan import plan
from pipelines.score import score
from settings import PrismError
from tests.pipelines.conftest import write_scene


@given(st.integers(1, 5), st.integers(4, 30), st.integers(1, 8))
def test_overlap_add_of_a_constant_is_that_constant(count: int, length: int, fade: int) -> None:
    hop = max(1, length - fade)
    begins = [k * hop for k in range(count)]
    samples = begins[-1] + length
    out = overlap_add(torch.full((count, 2, length), 0.5), begins, samples, min(fade, length))
    assert torch.allclose(out, torch.full((2, samples), 0.5), atol=1e-5)


@pytest.mark.parametrize("repeat", [1, 3])
def test_a_soundtrack_is_as_long_as_the_picture_and_repeatable(tmp_path: Path, repeat: int) -> None:
    video = write_scene(tmp_path / "scene.mp4", 0, repeat)
    first = generate([video], "A glass marble bouncing.", tmp_path / "a", steps=4)[0]
    again = generate([video], "A glass marble bouncing.", tmp_path / "b", steps=4)[0]
    other = generate([video], "A glass marble bouncing.", tmp_path / "c", seed=1, steps=4)[0]
    sounds = [read_audio(path.with_suffix(".wav"))[0] for path in (first, again, other)]
    assert sounds[0].shape == (2, 32_000 * repeat)
    assert np.array_equal(sounds[0], sounds[1])
    assert not np.array_equal(sounds[0], sounds[2])
    assert np.abs(sounds[0]).max() > 0.01
    assert probe(first).has_audio
    assert np.array_equal(read_clip(first, audio=False).frames, read_clip(video, audio=False).frames)
    described = json.loads(first.with_suffix(".json").read_text())
    assert described["plan"]["semantic"] == "A glass marble bouncing."
    assert len(described["windows"]) == (1 if repeat == 1 else 4)


def test_unknown_caption_words_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = write_scene(tmp_path / "scene.mp4", 0)
    with caplog.at_level(logging.WARNING):
        generate([video], "A glass dragon bouncing.", tmp_path / "out", steps=1)
    assert "dragon" in caplog.text
    assert "bouncing" not in caplog.text.split("It knows")[0]


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="different folders"):
        generate([tmp_path / "a" / "x.mp4", tmp_path / "b" / "x.mov"], None, tmp_path / "out")


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    video = write_scene(tmp_path / "scene.mp4", 0)
    before = video.read_bytes()
    with pytest.raises(PrismError, match="input itself"):
        generate([video], None, tmp_path, steps=1)
    assert video.read_bytes() == before


def test_plan_and_score_of_a_scene(tmp_path: Path) -> None:
    video, other = write_scene(tmp_path / "one.mp4", 1), write_scene(tmp_path / "two.mp4", 2)
    told = plan(video, "A metal tin.")
    assert told["semantic"] == "A metal tin."
    assert told["events"]
    own, foreign = score(video)["scores"], score(video, other)["scores"]
    assert own["temporal"]["score"] > foreign["temporal"]["score"]
    json.dumps(score(video), allow_nan=False)


def test_scoring_a_silent_video_asks_for_sound(tmp_path: Path) -> None:
    from media.writing import write_clip

    write_clip(tmp_path / "mute.mp4", np.zeros((32, 32, 32, 3), np.uint8), 16.0)
    with pytest.raises(PrismError, match="has no sound"):
        score(tmp_path / "mute.mp4")
