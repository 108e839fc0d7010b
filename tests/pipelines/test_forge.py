"""Forged releases have the released layout, at any width."""

from pathlib import Path

import pytest
import torch

from foundation.flat import read_flat
from foundation.release import Release
from foundation.synchronisation import Synchformer
from pipelines.forge import SIZES, forge
from settings import PrismError
from tests.foundation.released import released_names


def test_every_released_key_is_there_and_none_beside(release: Path) -> None:
    assert read_flat(release / "prismaudio.ckpt").keys() == set(released_names())


def test_every_part_of_a_release_is_found(release: Path) -> None:
    found = Release.find(release)
    found.require("vae", "synchformer", "videoprism", "t5gemma")
    # Lightning's layout, as vae.ckpt is published.
    raw = torch.load(release / "vae.ckpt", weights_only=True)
    assert raw.keys() == {"state_dict"}
    assert all(name.startswith("autoencoder.") for name in raw["state_dict"])


def test_synchformer_is_whole(release: Path) -> None:
    raw = torch.load(release / "synchformer_state_dict.pth", weights_only=True)
    prefixes = ("vfeat_extractor.", "afeat_extractor.", "vproj.", "aproj.", "transformer.")
    assert {next(p for p in prefixes if name.startswith(p)) for name in raw} == set(prefixes)
    assert all(tensor.any() for tensor in raw.values() if tensor.dim() > 1)
    model = Synchformer.load(release / "synchformer_state_dict.pth")
    assert (model.tokens, model.window, model.classes) == ((8, 6), 14, 21)


def test_the_full_size_has_the_released_dimensions() -> None:
    assert SIZES["full"].flow.width == 1024
    assert SIZES["full"].flow.depth == SIZES["tiny"].flow.depth == 24


def test_nothing_is_overwritten(release: Path) -> None:
    with pytest.raises(PrismError, match="not empty"):
        forge(release)
