"""Sound in blocks under a copied picture, and sound kept on disk."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from media.audio import read_audio, write_wav
from media.dubbing import dub
from media.errors import BadSignal, NotWritable
from media.scratch import SoundScratch, write_wav_blocks
from media.writing import mux, write_clip

RATE = 44_100


@pytest.fixture
def sound() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((2, 3 * RATE))).astype(np.float32)


@pytest.fixture(params=[".mp4", ".mkv"])
def video(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    frames = np.random.default_rng(1).integers(0, 255, (75, 36, 64, 3), np.uint8)
    write_clip(tmp_path / f"in{request.param}", frames, 25.0)
    return tmp_path / f"in{request.param}"


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


@pytest.mark.parametrize("block", [1_000, RATE, 10**6])
def test_blocks_make_the_same_file_as_the_whole_sound(
    tmp_path: Path, video: Path, sound: np.ndarray, block: int
) -> None:
    whole, parts = tmp_path / "whole.mp4", tmp_path / "parts.mp4"
    mux(video, sound, RATE, whole)
    dub(video, (sound[:, k : k + block] for k in range(0, sound.shape[1], block)), RATE, parts)
    assert parts.read_bytes() == whole.read_bytes()
    assert packets(parts) == packets(video)


def test_bad_sound_leaves_no_file(tmp_path: Path, video: Path, sound: np.ndarray) -> None:
    broken = sound.copy()
    broken[0, 2 * RATE] = np.nan
    with pytest.raises(BadSignal, match="NaN"):
        dub(video, iter([sound[:, :RATE], broken]), RATE, tmp_path / "out.mp4")
    with pytest.raises(NotWritable, match="cannot hold"):
        dub(video, iter([sound]), RATE, tmp_path / "out.webm")
    assert [path.name for path in tmp_path.iterdir()] == [video.name]


def test_scratch_returns_what_it_was_given_and_leaves_nothing(tmp_path: Path) -> None:
    path, sound = tmp_path / "samples", np.arange(1_200_000, dtype=np.float32).reshape(2, -1) / 1e6
    with SoundScratch(path) as scratch:
        for first in range(0, 600_000, 70_000):
            scratch.append(-sound[:, first : first + 70_000])
        assert (scratch.samples, scratch.peak) == (600_000, pytest.approx(1.199999))
        assert np.array_equal(np.concatenate(list(scratch.blocks(-0.5)), 1), sound * np.float32(0.5))
        assert max(block.shape[1] for block in scratch.blocks()) < 600_000
    assert not list(tmp_path.iterdir())


def test_wav_in_blocks_is_the_wav_of_the_whole(tmp_path: Path, sound: np.ndarray) -> None:
    write_wav(tmp_path / "whole.wav", sound, RATE)
    write_wav_blocks(tmp_path / "parts.wav", iter(np.split(sound, 7, axis=1)), RATE, sound.shape[1])
    assert (tmp_path / "parts.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    # Announced as longer than WAV can count: the same samples in the long form of the format.
    write_wav_blocks(tmp_path / "long.wav", iter([sound]), RATE, 2**31)
    assert soundfile.info(tmp_path / "long.wav").format == "RF64"
    assert np.array_equal(read_audio(tmp_path / "long.wav")[0], read_audio(tmp_path / "whole.wav")[0])


def test_folders_that_cannot_be_written(tmp_path: Path, sound: np.ndarray) -> None:
    with pytest.raises(NotWritable, match="check the folder"):
        write_wav_blocks(tmp_path / "none" / "a.wav", iter([sound]), RATE, sound.shape[1])
    with pytest.raises(NotWritable, match="writable folder"), SoundScratch(tmp_path / "none" / "samples"):
        pass
