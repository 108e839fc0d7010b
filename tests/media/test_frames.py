"""Which frames an encoder gets, against ffmpeg's own filter, and that only prepared ones are held."""

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.filter import Graph

from media.errors import MissingFile, OutOfRange, Truncated
from media.frames import frame_count, read_frames
from media.squares import cropped_square
from media.video import write_clip


def brightness(frames: np.ndarray) -> list[int]:
    """The grey level of frames that are one grey, in steps of 4."""
    return [round(float(frame.mean()) / 4) for frame in frames]


def grey_movie(path: Path, count: int, fps: float, side: int = 64) -> Path:
    """Frame i is all grey of level 4 i."""
    levels = (4 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    write_clip(path, np.broadcast_to(levels, (count, side, side, 3)).copy(), fps)
    return path


@pytest.fixture(scope="module")
def greys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at 24 frames per second."""
    return grey_movie(tmp_path_factory.mktemp("frames") / "greys.mp4", 48, 24)


def through_the_filter(path: Path, fps: float) -> np.ndarray:
    """What ffmpeg's `fps` filter makes of a file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = Graph()
        nodes = [graph.add_buffer(template=stream), graph.add("fps", str(fps)), graph.add("format", "rgb24")]
        nodes.append(graph.add("buffersink"))
        for one, next_one in pairwise(nodes):
            one.link_to(next_one)
        graph.configure()
        frames = []
        for frame in [*container.decode(stream), None]:
            nodes[0].push(frame)
            try:
                while True:
                    frames.append(nodes[-1].pull().to_ndarray())  # pyright: ignore[reportAttributeAccessIssue]
            except (av.BlockingIOError, av.EOFError):
                pass
    return np.stack(frames)


@pytest.mark.parametrize("fps", [4, 10, 24, 25, 60])
def test_frames_are_those_of_ffmpegs_filter(greys: Path, fps: float):
    np.testing.assert_array_equal(read_frames(greys, fps), through_the_filter(greys, fps))


def test_an_output_shows_the_last_frame_that_begins_before_the_middle_of_its_time(greys: Path):
    # At 4 Hz the middles are 0.125, 0.375, ... s. Frame 3 begins at 0.125 s: not before the first of them.
    assert brightness(read_frames(greys, 4, seconds=1)) == [2, 8, 14, 20]


def test_a_stretch_starts_where_it_is_told(greys: Path):
    assert brightness(read_frames(greys, 24, start=0.5, seconds=0.25)) == [12, 13, 14, 15, 16, 17]
    # Far enough in for the decoder to be sent ahead.
    assert brightness(read_frames(greys, 24, start=1.5, seconds=0.25)) == [36, 37, 38, 39, 40, 41]


def test_the_last_frame_fills_a_stretch_that_is_too_long(greys: Path):
    frames = read_frames(greys, 24, start=1.75, seconds=0.5)
    assert brightness(frames) == [42, 43, 44, 45, 46, 47, 47, 47, 47, 47, 47, 47]


def test_counts_are_rounded_down_but_never_to_nothing(greys: Path):
    assert [frame_count(4, 9), frame_count(25, 9), frame_count(4, 8.9), frame_count(4, 0.1)] == [36, 225, 35, 1]
    assert len(read_frames(greys, 25, seconds=1.99)) == 49


def test_frames_are_prepared_one_by_one_and_once(greys: Path):
    seen = []

    def prepare(frame: np.ndarray) -> np.ndarray:
        seen.append(frame.shape)
        return cropped_square(frame, 16)

    assert read_frames(greys, 48, seconds=1, prepare=prepare).shape == (48, 16, 16, 3)
    # 48 outputs show frames 0 to 23, each of them twice.
    assert seen == [(64, 64, 3)] * 24


def test_stretches_outside_the_file_are_refused(greys: Path, tmp_path: Path):
    with pytest.raises(OutOfRange, match=r"2\.00 s long.*starts at 3\.00 s"):
        read_frames(greys, 4, start=3, seconds=1)
    with pytest.raises(OutOfRange, match="start must be"):
        read_frames(greys, 4, start=-1)
    with pytest.raises(MissingFile):
        read_frames(tmp_path / "none.mp4", 4)


def test_a_file_cut_short_is_not_filled_up(tmp_path: Path):
    path = tmp_path / "noise.mkv"
    frames = np.random.default_rng(0).integers(0, 256, (75, 64, 64, 3), dtype=np.uint8)
    write_clip(path, frames, 25)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(Truncated):
        read_frames(path, 25, seconds=3)
