"""What the Synchformer reward is put together from: memory of tokens, parts of clips, the guard against trains."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from media.frames import read_frames
from media.squares import cropped_square
from rewards_service.errors import RewardError
from rewards_service.released.onset_guard import OnsetGuard
from rewards_service.released.sync_view import RELEASED, WHOLE, _middle
from rewards_service.released.visual_tokens import VisualTokens
from rewards_service.scores import Reference
from tests.foundation.conftest import read_json
from tests.rewards_service.released.clips import RATE, make_film

CLIP = Reference("clip", "", 2.0, (), (), 16.0, uri="/videos/none.mp4")
ONE = 3 * 8 * 4 * 4
"""Bytes of the tokens below."""


def tokens_of(start: float) -> Tensor:
    return torch.full((3, 8, 4), start)


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(0, 4))
def test_the_memory_keeps_what_was_asked_for_last(starts: list[int], room: int) -> None:
    computed: list[float] = []

    def compute(path: str, start: float, seconds: float) -> Tensor:
        computed.append(start)
        return tokens_of(start)

    tokens = VisualTokens(compute, room * ONE + ONE // 2)
    kept: list[int] = []
    misses = 0
    for start in starts:
        assert torch.equal(tokens.get(replace(CLIP, start=float(start))), tokens_of(start))
        misses += start not in kept
        kept = [*(k for k in kept if k != start), start][-room:] if room else []
        assert tokens.bytes == len(kept) * ONE
        assert len(computed) == misses
    assert tokens.counts["remembered"] == len(starts) - misses


def test_another_video_under_the_same_path_is_another_clip(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"one")
    tokens = VisualTokens(lambda path, start, seconds: torch.rand(3, 8, 4), 10 * ONE)
    clip = replace(CLIP, uri=str(path))
    first = tokens.get(clip)
    assert torch.equal(tokens.get(clip), first)
    path.write_bytes(b"another")
    assert not torch.equal(tokens.get(clip), first)
    with pytest.raises(RewardError, match="names no video file"):
        tokens.get(replace(clip, uri=""))


@pytest.mark.parametrize("case", read_json("synchformer_segments.json")["official"], ids=lambda c: c["duration_s"])
def test_the_released_segments_hold_the_originals_frames_and_samples(case: dict) -> None:
    frames = np.arange(case["crop_video_frames"])[RELEASED.skipped :][: RELEASED.frames]
    assert case["crop_video_frames"] / 25 == RELEASED.crop_s
    assert frames[::8][:14].tolist() == case["segment_video_first_frame"]
    assert frames[15::8].tolist() == case["segment_video_last_frame"]
    samples = RELEASED.sound(torch.arange(case["audio_samples"])[None])[0].unfold(0, 10_240, 5120)
    assert samples[:, 0].tolist() == case["segment_audio_first_sample"]
    assert samples[:, -1].tolist() == case["segment_audio_last_sample"]


@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    [(256, 340, 16, 58), (256, 454, 16, 115), (256, 256, 16, 16), (340, 256, 58, 16), (256, 341, 16, 58)],
)
def test_the_released_middle_is_the_originals(height: int, width: int, top: int, left: int) -> None:
    rows, columns = np.indices((height, width))
    frame = np.stack([rows % 256, columns % 256, rows // 256 + 2 * (columns // 256)], axis=-1).astype(np.uint8)
    np.testing.assert_array_equal(_middle(frame, 256, 224), frame[top : top + 224, left : left + 224])


def test_parts_of_a_clip(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mp4", 0)
    uri = film.reference.uri
    whole = WHOLE.picture(uri, 0.4, 5.6, 64)
    np.testing.assert_array_equal(whole, read_frames(uri, 25, 0.4, 5.6, lambda f: cropped_square(f, 64)))
    assert torch.equal(WHOLE.sound(torch.arange(100)[None]), torch.arange(100)[None])
    large = read_frames(uri, 25, 0.4, 5.0, lambda f: cropped_square(f, 256))
    np.testing.assert_array_equal(RELEASED.picture(uri, 0.4, 5.6, 64), large[2:122, 96:160, 96:160])


def train(per_second: float, seconds: float = 6.0) -> Tensor:
    """(1, S) short bursts of noise."""
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 1e-4, round(seconds * RATE))
    for time in np.arange(0.05, seconds - 0.05, 1 / per_second):
        at = round(time * RATE)
        sound[at : at + 600] += 0.3 * rng.normal(size=600) * np.exp(-np.arange(600) / 120)
    return torch.from_numpy(sound.astype(np.float32))[None]


def factor(sound: Tensor, eventful: bool = True, guard: OnsetGuard | None = None) -> float:
    factors, told = (guard or OnsetGuard())(sound, torch.tensor([eventful]))
    assert told[0]["guard"] == pytest.approx(float(factors[0]), abs=1e-3)
    return float(factors[0])


def test_click_trains_lose_with_their_rate() -> None:
    assert [factor(train(rate)) for rate in (1, 3, 7)] == [1, 1, 1]
    assert factor(train(12)) == pytest.approx(0.5, abs=0.05)
    assert factor(train(16)) == pytest.approx(0, abs=0.05)
    assert factor(train(30)) == 0
    assert factor(train(30), guard=OnsetGuard(per_s=0)) == 1


def test_noise_loses_only_where_impacts_are_seen() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (1, 6 * RATE)).astype(np.float32))
    assert factor(noise) < 0.5
    assert factor(noise, eventful=False) == 1
    assert factor(noise, guard=OnsetGuard(prominence_db=0)) == 1


def test_rendered_scenes_lose_nothing(tmp_path: Path) -> None:
    sounds = torch.stack([torch.from_numpy(make_film(tmp_path / f"{k}.mp4", k).sound.mean(0)) for k in range(4)])
    assert OnsetGuard()(sounds, torch.ones(4, dtype=torch.bool))[0].tolist() == [1] * 4
