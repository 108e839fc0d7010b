"""Cutting videos into the model's clips, and what each is judged against."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_service.analysis import VideoAnalysis
from cot_service.analysis_planner import AnalysisPlanner
from foundation.embedded import picture
from media.clip import Clip
from media.manifest import ClipRecord
from media.writing import write_clip
from pipelines.conditions import pictures
from pipelines.segments import part, read_segments, segments, shown, starts
from scenes.schematic import draw
from settings import PrismError

PLANNER = AnalysisPlanner()


def record(seconds: float = 4.0, **truth: object) -> ClipRecord:
    return ClipRecord("clip", "clip.mp4", seconds, 16, round(16 * seconds), 0, 0, "A ball.", "train", "", **truth)  # type: ignore[arg-type]


def clip(seconds: float, fps: float = 16.0) -> Clip:
    count = round(seconds * fps)
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(24, 1).repeat(24, 2).repeat(3, 3)
    sound = np.linspace(-1, 1, round(seconds * 8000), dtype=np.float32)[None].repeat(2, 0)
    return Clip("clip.mp4", frames, fps, sound, 8000)


@given(st.floats(0.3, 60), st.floats(0.5, 4), st.floats(0.5, 1))
def test_windows_cover_everything_and_stay_inside(total: float, length: float, share: float) -> None:
    hop = share * length
    found = starts(total, length, hop)
    assert found[0] == 0
    assert all(0 < b - a <= hop + 1e-6 for a, b in itertools.pairwise(found))
    if total > length:
        assert found[-1] + length == pytest.approx(total)
    else:
        assert found == [0.0]


def test_part_cuts_picture_and_sound_alike() -> None:
    cut = part(clip(4.0), 1.0, 2.0)
    assert cut.frames[:, 0, 0, 0].tolist() == list(range(16, 48))
    assert cut.waveform is not None
    assert cut.waveform.shape == (2, 16_000)


def test_shown_counts_from_the_start_of_the_stretch() -> None:
    whole = VideoAnalysis((0.5, 2.5, 3.9), (1.0, 0.5, 0.2), tuple(range(64)), 16.0, 1.0, "track")
    here = shown(whole, 2.0, 2.0)
    assert here.events == pytest.approx((0.5, 1.9))
    assert here.strengths == (0.5, 0.2)
    assert here.positions == tuple(range(32, 64))


def test_truth_is_used_where_known_and_named() -> None:
    known = record(events=(0.5, 2.5), positions=tuple(np.linspace(-1, 1, 64)), position_fps=16.0)
    first, second = segments(known, clip(4.0), PLANNER, 2.0)
    assert first.reference.origin == {"events": "truth", "positions": "truth"}
    assert first.reference.events == (0.5,)
    assert second.reference.events == (0.5,)
    assert second.id == "clip@2.00"
    assert second.reference.positions[0] == pytest.approx(0.0159, abs=1e-3)
    seen = segments(record(), clip(4.0), PLANNER, 2.0)[0]
    assert seen.reference.origin == {"events": "picture", "positions": "picture"}
    assert seen.reference.text == "A ball."


def test_pictures_resample_to_the_encoders_rate() -> None:
    found = segments(record(), clip(4.0, fps=32.0), PLANNER, 2.0)
    followed = [replace(segment, seen=replace(segment.seen, method="track")) for segment in found]
    seen = pictures(followed, 16.0)
    assert seen.shape == (2, 32, 32, 32)
    assert seen[0, :3, 0, 0].tolist() == [1, 3, 5]


def test_what_cannot_be_followed_is_drawn_from_its_analysis() -> None:
    segment = segments(record(), clip(2.0), PLANNER, 2.0)[0]
    for events in ((), (0.5, 1.2)):
        seen = VideoAnalysis(events, (1.0,) * len(events), (0.3,) * 32, 16.0, 0.5, "flow")
        drawn = pictures([replace(segment, seen=seen)], 16.0)
        expected = draw(events, (0.3,) * 32, 2.0, "A ball.")
        assert (drawn[0] == picture(Clip("", expected, 16.0))).all()


def test_what_cannot_be_read_is_reported_not_fatal(tmp_path: Path) -> None:
    bad = record()
    found, rejected = read_segments([bad], PLANNER, 2.0)
    assert found == []
    assert "clip.mp4" in rejected[0].path
    assert "no such file" in rejected[0].reason


def test_too_short_and_too_long_videos_are_refused(tmp_path: Path) -> None:
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    write_clip(tmp_path / "short.mp4", frames, 16.0)
    write_clip(tmp_path / "long.mp4", np.zeros((130, 32, 32, 3), np.uint8), 1.0)
    from pipelines.segments import read_video

    with pytest.raises(PrismError, match=r"short.mp4 lasts 0\.1"):
        read_video(tmp_path / "short.mp4")
    with pytest.raises(PrismError, match=r"long.mp4 is 130 s long.*Cut it"):
        read_video(tmp_path / "long.mp4")
