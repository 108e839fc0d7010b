"""Synchformer's audio tower and head against the original's numbers."""

import pytest
import torch
from torch import Tensor

from foundation.errors import CheckpointError
from foundation.spectrogram_transformer import SpectrogramTransformer
from foundation.synchformer import read
from foundation.synchformer_head import SyncHead
from tests.foundation.conftest import FIXTURES, read_tensors

TOLERANCE = {"atol": 5e-5, "rtol": 0}


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return read(FIXTURES / "synchformer_weights.safetensors")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read_tensors("synchformer_io.safetensors")


def test_the_audio_towers_features_are_the_originals(tensors: dict[str, Tensor], golden: dict[str, Tensor]):
    tower = SpectrogramTransformer.of(tensors, heads=2)
    expected = golden["audio_features"]
    torch.testing.assert_close(tower(golden["mel_in"]), expected, **TOLERANCE)
    torch.testing.assert_close(tower(golden["mel_in"][0, 1:]), expected[0, 1:], **TOLERANCE)


def test_the_heads_logits_are_the_originals(tensors: dict[str, Tensor], golden: dict[str, Tensor]):
    head = SyncHead.of(tensors, heads=2)
    logits = head(golden["head.visual_in"], golden["head.audio_in"])
    torch.testing.assert_close(logits, golden["head.logits"], **TOLERANCE)


def test_the_released_dimensions_are_the_defaults():
    with torch.device("meta"):
        tower, head = SpectrogramTransformer(), SyncHead()

    def million(module: torch.nn.Module) -> float:
        return sum(p.numel() for p in module.parameters()) / 1e6

    assert million(tower) == pytest.approx(92.4, abs=0.1)
    assert million(head.transformer) == pytest.approx(21.4, abs=0.1)
    assert million(head.vproj) == million(head.aproj) == pytest.approx(0.59, abs=0.01)


def test_files_without_them_say_so(tensors: dict[str, Tensor]):
    visual = {name: t for name, t in tensors.items() if name.startswith("vfeat_extractor.")}
    with pytest.raises(CheckpointError, match="nothing under afeat_extractor"):
        SpectrogramTransformer.of(visual)
    with pytest.raises(CheckpointError, match="no complete audio tower"):
        SpectrogramTransformer.of({name: t for name, t in tensors.items() if "position" not in name})
    with pytest.raises(CheckpointError, match=r"no transformer\.pos_emb_cfg\.pos_emb, transformer\.off_head\.weight"):
        SyncHead.of(visual)
    with pytest.raises(CheckpointError, match=r"missing \(1\): ast\.layernorm\.bias"):
        SpectrogramTransformer.of({n: t for n, t in tensors.items() if "ast.layernorm.bias" not in n}, heads=2)
