"""Impacts and positions from the picture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from cot_service.analysis import analyse
from media.clip import Clip
from media.video import read_clip, write_clip
from scenes.picture import render
from scenes.world import FPS, make_scene, scene_seed
from tests.cot_service.conftest import Drawer

TOLERANCE = 0.07


def matches(found: tuple[float, ...], truth: tuple[float, ...]) -> int:
    if not found or not truth:
        return 0
    distance = np.abs(np.subtract.outer(found, truth))
    rows, columns = linear_sum_assignment(np.where(distance <= TOLERANCE, distance, 9.0))
    return int((distance[rows, columns] <= TOLERANCE).sum())


def test_bounces_are_found_to_ten_milliseconds(bouncing: Drawer) -> None:
    truth = (0.31, 0.77, 1.33, 1.68)
    seen = analyse(bouncing(truth))
    assert seen.method == "track"
    np.testing.assert_allclose(seen.events, truth, atol=0.01)
    assert max(seen.strengths) == pytest.approx(1.0)
    assert seen.confidence > 0.8


def test_positions_follow_the_ball(bouncing: Drawer) -> None:
    seen = analyse(bouncing((0.5, 1.1), start=-0.8, end=0.6))
    expected = np.linspace(-0.8, 0.6 - 1.4 / 32, 32)
    np.testing.assert_allclose(seen.positions, expected, atol=0.03)
    assert seen.fps == 16.0


@pytest.mark.parametrize(
    ("fps", "size"), [(12.0, (64, 64)), (25.0, (90, 160)), (30.0, (120, 90)), (60.0, (96, 96)), (24.0, (240, 426))]
)
def test_any_rate_and_shape(bouncing: Drawer, fps: float, size: tuple[int, int]) -> None:
    truth = (0.4, 0.95, 1.5)
    seen = analyse(bouncing(truth, fps=fps, size=size, start=0.7, end=-0.7))
    assert len(seen.events) == 3
    np.testing.assert_allclose(seen.events, truth, atol=0.04)
    assert np.corrcoef(seen.positions, np.linspace(0.7, -0.7, len(seen.positions)))[0, 1] > 0.99
    assert len(seen.positions) == pytest.approx(2 * seen.fps, abs=1)


def test_procedural_scenes_through_a_real_video_file(tmp_path: Path) -> None:
    hits = found = truth = 0
    correlations, misplaced = [], []
    for index in range(24):
        scene = make_scene(scene_seed("analysis-test", 0, index))
        path = tmp_path / "scene.mp4"
        write_clip(path, render(scene), FPS)
        seen = analyse(read_clip(path, audio=False))
        hits += matches(seen.events, scene.events)
        found += len(seen.events)
        truth += len(scene.events)
        positions = scene.position(np.arange(32) / FPS)
        misplaced.append(np.abs(positions - seen.positions).max())
        if abs(scene.end - scene.start) > 0.1:
            correlations.append(np.corrcoef(positions, seen.positions)[0, 1])
    assert 2 * hits / (found + truth) > 0.95
    assert min(correlations) > 0.95
    assert np.mean(misplaced) < 0.05


def test_a_ball_that_bounces_in_one_place_is_not_taken_for_background(bouncing: Drawer) -> None:
    truth = (0.3, 0.6, 0.9, 1.2, 1.5, 1.8)
    seen = analyse(bouncing(truth, start=0.2, end=0.2, gravity=14.0, around=0.3))
    assert matches(seen.events, truth) == len(truth) == len(seen.events)
    np.testing.assert_allclose(seen.positions, 0.2, atol=0.05)


@pytest.mark.parametrize("frames", [1, 2, 3, 32])
@pytest.mark.parametrize("noise", [0.0, 3.0, 10.0])
def test_nothing_moves(frames: int, noise: float) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (1, 48, 64, 3)).astype(np.float64)
    video = np.clip(picture + rng.normal(0, noise, (frames, 48, 64, 3)), 0, 255).astype(np.uint8)
    seen = analyse(Clip("still.mp4", video, 16.0))
    assert seen.events == ()
    assert len(seen.positions) == frames
    assert all(np.abs(seen.positions) < 0.35)
    assert seen.confidence < 0.5


def test_a_cut_is_no_impact() -> None:
    rng = np.random.default_rng(1)
    shots = rng.integers(0, 255, (2, 12, 16, 3)).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    shots[1] = 255 - shots[0]
    video = np.concatenate([shots[:1].repeat(20, axis=0), shots[1:].repeat(20, axis=0)])
    assert analyse(Clip("cut.mp4", video, 16.0)).events == ()


def test_a_moving_camera_is_not_an_object() -> None:
    rng = np.random.default_rng(2)
    wall = rng.integers(0, 255, (12, 40, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    video = np.stack([wall[:, 3 * t : 3 * t + 96] for t in range(40)])
    seen = analyse(Clip("pan.mp4", video, 16.0))
    assert len(seen.events) <= 1
    assert seen.method != "track"


def test_a_hit_without_a_background_is_found_by_flow() -> None:
    """A textured hand comes down and stops at frames 8, 24 and 40, before a camera that sways."""
    rng = np.random.default_rng(3)
    wall = np.kron(rng.integers(40, 200, (30, 40)), np.ones((4, 4)))
    hand = np.kron(rng.integers(0, 255, (14, 14)), np.ones((4, 4)))
    path = [4 * min(t % 16, 16 - t % 16) for t in range(48)]
    frames = []
    for t, y in enumerate(path):
        shift = int(6 + 4 * np.sin(t / 3))
        frame = wall[4:100, shift : shift + 96].copy()
        frame[y : y + 56, 20:76] = hand
        frames.append(frame)
    video = np.stack(frames)[..., None].repeat(3, axis=-1).astype(np.uint8)
    seen = analyse(Clip("hand.mp4", video, 16.0))
    for truth in (0.5, 1.5, 2.5):
        assert min(abs(time - truth) for time in seen.events) < 0.1


def test_analysis_does_not_change_the_clip(bouncing: Drawer) -> None:
    clip = bouncing((0.5, 1.2))
    before = clip.frames.copy()
    assert analyse(clip) == analyse(replace(clip, path="other.mp4"))
    np.testing.assert_array_equal(clip.frames, before)


@settings(max_examples=30)
@given(
    length=st.integers(1, 12),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    fps=st.sampled_from([1.0, 7.5, 16.0, 59.94]),
    seed=st.integers(0, 99),
)
def test_any_pixels_give_a_valid_answer(length: int, height: int, width: int, fps: float, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 255, (length, height, width, 3)).astype(np.uint8)
    seen = analyse(Clip("any.mp4", frames, fps))
    assert len(seen.positions) == -(-length // max(1, int(np.ceil(fps / 32))))
    assert len(seen.events) == len(seen.strengths)
    assert all(0 <= time <= length / fps for time in seen.events)
    assert list(seen.events) == sorted(seen.events)
    assert all(-1 <= x <= 1 for x in seen.positions)
    assert 0 <= seen.confidence <= 1
