"""Every kind of unusable file has its own error, which names the file and says what to do."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from media.audio import read_audio, write_wav
from media.errors import (
    BadSignal,
    EmptyFile,
    IsFolder,
    MediaError,
    MissingFile,
    NoFrames,
    NoPicture,
    NoSound,
    NotMedia,
    NotWritable,
    OutOfRange,
    StillImage,
    Truncated,
)
from media.video import mux, probe, read_clip, write_clip
from tests.media.conftest import FPS, RATE, clicks, flashes


def make_text(path: Path) -> None:
    path.write_text("this is not a video\n" * 50)


def make_noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(20_000))


def make_image(path: Path) -> None:
    import cv2

    cv2.imwrite(str(path), flashes()[8])


def make_song(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(clicks(), format="fltp", layout="stereo")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make_cut_off(path: Path) -> None:
    write_clip(path, flashes(), FPS, clicks(), RATE)
    path.write_bytes(path.read_bytes()[:-400])


def make_empty_stream(path: Path) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=16)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(clicks(), format="fltp", layout="stereo")
        frame.sample_rate = RATE
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


CASES: list[tuple[str, Callable[[Path], object], type[MediaError], str]] = [
    ("nothing.mp4", lambda path: None, MissingFile, "no such file"),
    ("folder.mp4", Path.mkdir, IsFolder, "folder"),
    ("empty.mp4", Path.touch, EmptyFile, "empty"),
    ("text.mp4", make_text, NotMedia, "expected a video"),
    ("text.txt", make_text, NotMedia, "expected a video"),
    ("noise.mp4", make_noise, NotMedia, "expected a video"),
    ("photo.png", make_image, StillImage, "image"),
    ("photo.jpg", make_image, StillImage, "image"),
    ("song.m4a", make_song, NoPicture, "no picture"),
    ("cut.mp4", make_cut_off, Truncated, "ends before"),
    ("frameless.mkv", make_empty_stream, NoFrames, "no frame"),
]


@pytest.mark.parametrize(("name", "make", "error", "words"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("read", [probe, read_clip])
def test_unusable_file(
    tmp_path: Path,
    read: Callable[[Path], object],
    name: str,
    make: Callable[[Path], object],
    error: type[MediaError],
    words: str,
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(error, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_index_first_file_that_stops_early(tmp_path: Path) -> None:
    path = tmp_path / "stops.mp4"
    images = np.random.default_rng(0).integers(0, 255, (64, 48, 64, 3), np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        video = container.add_stream("libx264", rate=16)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for image in images:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Truncated, match="copy it again"):
        read_clip(path)


def test_no_sound_where_sound_is_needed(silent_movie: Path) -> None:
    with pytest.raises(NoSound, match="no audio stream"):
        read_audio(silent_movie)
    assert read_clip(silent_movie).waveform is None


def test_stretch_outside_the_file(movie: Path) -> None:
    with pytest.raises(OutOfRange, match=r"2.00 s long"):
        read_clip(movie, start=5.0)
    with pytest.raises(OutOfRange, match="seconds > 0"):
        read_clip(movie, seconds=0.0)


def test_unwritable_outputs_leave_nothing_behind(movie: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "out.mp4", tmp_path / "out.notaformat"):
        with pytest.raises(NotWritable, match="out"):
            write_clip(path, flashes(), FPS)
        with pytest.raises(NotWritable):
            mux(movie, clicks(), RATE, path)
    with pytest.raises(NotWritable, match="cannot hold"):
        write_clip(tmp_path / "out.webm", flashes(), FPS, clicks(), RATE, audio_codec="flac")
    with pytest.raises(NotWritable):
        write_wav(tmp_path / "missing" / "out.wav", clicks(), RATE)
    assert os.listdir(tmp_path) == []


def test_bad_signals_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    broken = clicks()
    broken[0, 5] = np.nan
    with pytest.raises(BadSignal, match="NaN"):
        write_clip(path, flashes(), FPS, broken, RATE)
    with pytest.raises(BadSignal, match="shape"):
        write_clip(path, flashes(), FPS, clicks().T, RATE)
    with pytest.raises(BadSignal, match="sample rate"):
        write_clip(path, flashes(), FPS, clicks())
    with pytest.raises(BadSignal, match="uint8"):
        write_clip(path, flashes().astype(np.float32), FPS)
    assert os.listdir(tmp_path) == []
