"""Reading and writing: every sample and frame at its time."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.audio import read_audio, resample, write_wav
from media.video import Probe, mux, probe, read_clip, write_clip
from tests.media.conftest import CLICKS, FLASHES, FPS, RATE, clicks, flashes


def lit(frames: np.ndarray) -> list[int]:
    return np.flatnonzero(frames.mean((1, 2, 3)) > 128).tolist()


def loudest(waveform: np.ndarray) -> tuple[int, int]:
    left, right = np.abs(waveform).argmax(1)
    return int(left), int(right)


def test_probe_tells_what_the_file_holds(movie: Path, silent_movie: Path) -> None:
    assert probe(movie) == Probe(2.0, 16.0, 64, 48, True, True, 16_000, 2)
    assert probe(silent_movie) == Probe(2.0, 16.0, 64, 48, True, False, 0, 0)


def test_flac_round_trip_is_exact_to_the_sample(movie: Path) -> None:
    clip = read_clip(movie)
    assert lit(clip.frames) == list(FLASHES)
    assert clip.sample_rate == RATE
    assert clip.waveform is not None
    np.testing.assert_allclose(clip.waveform, clicks(), atol=1e-6)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_aac_round_trip_keeps_times_and_length(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_clip(path, flashes(), FPS, clicks(), RATE)
    clip = read_clip(path)
    assert clip.frames.shape == (32, 48, 64, 3)
    assert lit(clip.frames) == list(FLASHES)
    assert clip.waveform is not None
    assert clip.waveform.shape == (2, 32_000)
    assert np.abs(np.subtract(loudest(clip.waveform), CLICKS)).max() <= 0.003 * RATE


def test_reading_a_stretch_shifts_both_picture_and_sound(movie: Path) -> None:
    clip = read_clip(movie, start=1.25, seconds=0.5)
    assert len(clip.frames) == 8
    assert lit(clip.frames) == [24 - 20]
    assert clip.waveform is not None
    assert clip.waveform.shape == (2, 8_000)
    assert np.abs(clip.waveform[1]).argmax() == CLICKS[1] - 20_000


@pytest.mark.parametrize(("fps", "expected"), [(8.0, [4, 12]), (32.0, [16, 17, 48, 49]), (4.0, [2, 6])])
def test_frame_rate_changes_take_the_nearest_frame_the_earlier_of_two(
    movie: Path, fps: float, expected: list[int]
) -> None:
    clip = read_clip(movie, fps=fps, audio=False)
    assert len(clip.frames) == round(2 * fps)
    assert clip.fps == fps
    assert lit(clip.frames) == expected


def test_short_side_scales_down_but_never_up(movie: Path) -> None:
    assert read_clip(movie, short_side=24, audio=False).frames.shape[1:3] == (24, 32)
    assert read_clip(movie, short_side=400, audio=False).frames.shape[1:3] == (48, 64)


def test_resampled_sound_stays_in_place(movie: Path) -> None:
    waveform = read_clip(movie, sample_rate=44_100).waveform
    assert waveform is not None
    assert waveform.shape == (2, 88_200)
    assert np.abs(np.subtract(loudest(waveform), np.array(CLICKS) * 44_100 / RATE)).max() <= 1


def test_mono_is_duplicated(tmp_path: Path) -> None:
    path = tmp_path / "mono.mp4"
    write_clip(path, flashes(), FPS, clicks()[:1], RATE, audio_codec="flac")
    assert probe(path).channels == 1
    waveform = read_clip(path).waveform
    assert waveform is not None
    np.testing.assert_allclose(waveform, np.repeat(clicks()[:1], 2, axis=0), atol=1e-6)


def test_short_sound_is_padded_and_long_sound_cut_to_the_picture(tmp_path: Path) -> None:
    for samples in (20_000, 50_000):
        path = tmp_path / f"{samples}.mkv"
        write_clip(path, flashes(), FPS, np.full((2, samples), 0.25, np.float32), RATE, audio_codec="flac")
        waveform = read_clip(path).waveform
        assert waveform is not None
        assert waveform.shape == (2, 32_000)
        assert np.flatnonzero(waveform[0] > 0.2).max() == min(samples, 32_000) - 1


def test_sound_that_starts_late_stays_late(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=16)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("flac", rate=RATE, layout="mono", format="s16")
        for index, image in enumerate(flashes()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 16)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        tone = av.AudioFrame.from_ndarray(np.full((1, 8_000), 8_000, np.int16), format="s16", layout="mono")
        tone.sample_rate, tone.pts, tone.time_base = RATE, 8_000, Fraction(1, RATE)
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
    waveform = read_clip(path).waveform
    assert waveform is not None
    heard = np.flatnonzero(waveform[0] > 0.1)
    assert abs(int(heard.min()) - 8_000) <= 0.001 * RATE + 1
    assert abs(int(heard.max()) - 15_999) <= 0.001 * RATE + 1


def test_mux_copies_the_picture_untouched(movie: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.mp4"
    mux(movie, clicks()[::-1], RATE, out, audio_codec="flac")
    with av.open(str(movie)) as before, av.open(str(out)) as after:
        packets = [[bytes(p) for p in c.demux(c.streams.video[0]) if p.size] for c in (before, after)]
    assert packets[0] == packets[1]
    waveform = read_clip(out).waveform
    assert waveform is not None
    np.testing.assert_allclose(waveform, clicks()[::-1], atol=1e-6)


def test_mux_between_containers_keeps_times(tmp_path: Path) -> None:
    source, out = tmp_path / "a.mkv", tmp_path / "b.mkv"
    write_clip(source, flashes(), FPS)
    mux(source, clicks(), RATE, out)
    clip = read_clip(out)
    assert lit(clip.frames) == list(FLASHES)
    assert clip.waveform is not None
    assert np.abs(np.subtract(loudest(clip.waveform), CLICKS)).max() <= 0.003 * RATE


def test_odd_sizes_are_padded_to_even(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    write_clip(path, flashes(4 + 24, 33, 47), FPS)
    assert read_clip(path).frames.shape == (28, 34, 48, 3)


def test_single_frame_video(tmp_path: Path) -> None:
    path = tmp_path / "one.mp4"
    write_clip(path, np.full((1, 32, 32, 3), 99, np.uint8), FPS)
    clip = read_clip(path, audio=False)
    assert clip.frames.shape == (1, 32, 32, 3)
    assert abs(int(clip.frames.mean()) - 99) <= 2


def test_wav_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    write_wav(path, clicks(), RATE)
    waveform, rate = read_audio(path)
    assert rate == RATE
    np.testing.assert_allclose(waveform, clicks(), atol=2**-22)


@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(200, 3000),
    rates=st.tuples(st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000]), st.sampled_from([16_000, 44_100])),
)
def test_resampling_keeps_length_and_level(samples: int, rates: tuple[int, int]) -> None:
    out = resample(np.full((2, samples), 0.5, np.float32), *rates)
    assert out.shape == (2, round(samples * rates[1] / rates[0]))
    assert out.dtype == np.float32
    middle = out[:, out.shape[1] // 3 : 2 * out.shape[1] // 3]
    np.testing.assert_allclose(middle, 0.5, atol=0.02)


IDENTITY = bytes.fromhex("00010000" + "00" * 12 + "00010000" + "00" * 12 + "40000000")
QUARTER_TURN = bytes.fromhex("00000000" + "00010000" + "00" * 4 + "ffff0000" + "00" * 16 + "40000000")


def turned_movie(path: Path) -> None:
    """A picture whose top is white, stored with the instruction to turn it clockwise, as telephones do."""
    frames = np.zeros((8, 48, 64, 3), np.uint8)
    frames[:, :16] = 255
    write_clip(path, frames, FPS)
    whole = path.read_bytes()
    track_header = whole.index(b"tkhd")
    at = whole.index(IDENTITY, track_header)
    path.write_bytes(whole[:at] + QUARTER_TURN + whole[at + 36 :])


def test_rotated_pictures_are_turned_upright_and_stay_so_after_mux(tmp_path: Path) -> None:
    path, out = tmp_path / "phone.mp4", tmp_path / "muxed.mp4"
    turned_movie(path)
    mux(path, np.zeros((2, 8_000), np.float32), RATE, out)
    for file in (path, out):
        found = probe(file)
        assert (found.width, found.height) == (48, 64)
        frames = read_clip(file, audio=False).frames
        assert frames.shape == (8, 64, 48, 3)
        assert frames[:, :, 36:].mean() > 240
        assert frames[:, :, :28].mean() < 15


def test_pixels_are_made_square(tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=16)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for image in flashes():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    assert read_clip(path, audio=False).frames.shape[1:3] == (48, 128)
    assert read_clip(path, audio=False, short_side=24).frames.shape[1:3] == (24, 64)
