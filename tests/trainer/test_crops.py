"""Crops of sounds: the same ones for the same key, and what happens to files that cannot be used."""

from pathlib import Path

import numpy as np
import pytest
import torch

from media.audio import write_wav
from media.errors import MediaError
from trainer.crops import Crops, ReaderConfig, crop_batches, read_crop

RATE = 8000


@pytest.fixture
def sounds(tmp_path: Path) -> list[str]:
    """Four ramps of 1 s at 8 kHz: file i rises from i/4 to (i + 1)/4."""
    paths = []
    for number in range(4):
        ramp = np.linspace(number / 4, (number + 1) / 4, RATE, dtype=np.float32)
        path = tmp_path / f"{number}.wav"
        write_wav(path, np.stack([ramp, -ramp]), RATE)
        paths.append(str(path))
    return paths


def test_a_crop_comes_from_its_place(sounds: list[str]) -> None:
    crop = read_crop(sounds[0], 800, RATE, 0.5)
    assert crop.shape == (2, 800)
    start = 0.5 * (RATE - 800)
    assert crop[0, 0] == pytest.approx(start / RATE / 4, abs=1e-3)
    assert crop[0, -1] == pytest.approx((start + 800) / RATE / 4, abs=1e-3)
    assert np.allclose(crop[0], -crop[1], atol=1e-4)


def test_other_rates_and_short_files(sounds: list[str]) -> None:
    crop = read_crop(sounds[3], 44_100, 22_050, 0.9)
    assert crop.shape == (2, 44_100)
    assert abs(crop[0, 22_000]) > 0.7
    assert np.abs(crop[:, 22_500:]).max() < 1e-3


def test_crops_are_a_function_of_their_key(sounds: list[str]) -> None:
    crops = Crops(sounds, 100, RATE, seed=3)
    assert torch.equal(crops[1, 5, 0].sounds, crops[1, 5, 0].sounds)
    assert not torch.equal(crops[1, 5, 0].sounds, crops[1, 6, 0].sounds)
    assert not torch.equal(crops[1, 5, 0].sounds, Crops(sounds, 100, RATE, seed=4)[1, 5, 0].sounds)


def test_batches_resume_and_are_shared_out(sounds: list[str]) -> None:
    crops, config = Crops(sounds, 100, RATE, seed=0), ReaderConfig(workers=0)
    whole = list(crop_batches(crops, 4, 0, 5, config))
    assert [tuple(batch.sounds.shape) for batch in whole] == [(4, 2, 100)] * 5
    for later, expected in zip(crop_batches(crops, 4, 3, 5, config), whole[3:], strict=True):
        assert torch.equal(later.sounds, expected.sounds)
    shares = [list(crop_batches(crops, 4, 0, 5, config, rank, 3)) for rank in range(3)]
    assert [len(share[0].sounds) for share in shares] == [2, 1, 1]
    assert torch.equal(shares[0][1].sounds, whole[1].sounds[[0, 3]])
    levels = sorted(int(4 * level) for level in whole[0].sounds[:, 0, 0])
    assert levels == [0, 1, 2, 3]  # an epoch holds each file once


def test_reader_processes_deliver_the_same(sounds: list[str]) -> None:
    crops = Crops(sounds, 100, RATE, seed=0)
    alone = list(crop_batches(crops, 2, 0, 2, ReaderConfig(workers=0)))
    beside = list(crop_batches(crops, 2, 0, 2, ReaderConfig(workers=1)))
    assert all(torch.equal(a.sounds, b.sounds) for a, b in zip(alone, beside, strict=True))


def test_a_file_that_cannot_be_read_is_replaced_and_named(sounds: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"not a sound")
    part = Crops([str(broken), *sounds], 100, RATE, seed=0)[0, 0, 0]
    assert part.sounds.abs().max() > 0
    assert {name for name, _ in part.skipped} == {str(broken)}
    with pytest.raises(MediaError, match=r"8 sounds in a row cannot be read .*repair the data"):
        Crops([str(broken)], 100, RATE, seed=0)[0, 0, 0]


def test_silence_is_avoided_but_no_error(sounds: list[str], tmp_path: Path) -> None:
    quiet = tmp_path / "quiet.wav"
    write_wav(quiet, np.full((2, RATE), 1e-4, np.float32), RATE)
    loud = Crops([str(quiet), sounds[3]], 100, RATE, seed=1)
    assert all(loud[0, step, 0].sounds.abs().max() > 0.5 for step in range(10))
    alone = Crops([str(quiet)], 100, RATE, seed=1)[0, 0, 0]
    assert alone.sounds.abs().max() < 1e-3
    assert alone.skipped == ()
