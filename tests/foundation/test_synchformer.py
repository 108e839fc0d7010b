"""The visual tower against the original's numbers, and its files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from foundation.errors import CheckpointError
from foundation.synchformer import STRIDE, SynchformerVisual, normalise
from tests.foundation.conftest import FIXTURES, read_tensors

WEIGHTS = "synchformer_weights.safetensors"
TOLERANCE = {"atol": 5e-5, "rtol": 0}


@pytest.fixture(scope="module")
def visual() -> SynchformerVisual:
    return SynchformerVisual.load(FIXTURES / WEIGHTS, heads=2)


@pytest.fixture(scope="module")
def golden() -> tuple[np.ndarray, torch.Tensor]:
    """Two segments (2, 16, 224, 224, 3) uint8 and their features (2, 8, 32)."""
    io = read_tensors("synchformer_io.safetensors")
    small = io["frames_28_uint8"][0].to(torch.uint8)
    frames = small.repeat_interleave(8, -1).repeat_interleave(8, -2).permute(0, 1, 3, 4, 2)
    return frames.numpy(), io["visual_features"][0]


def test_the_towers_features_are_the_originals(visual, golden):
    frames, expected = golden
    pixels = normalise(torch.from_numpy(frames).permute(0, 1, 4, 2, 3))
    torch.testing.assert_close(visual(pixels), expected, **TOLERANCE)
    torch.testing.assert_close(visual(pixels[None, 1:]), expected[None, 1:], **TOLERANCE)


def test_a_clip_is_cut_into_segments_of_16_frames_every_8(visual, golden):
    frames, expected = golden
    clip = np.concatenate([frames[0], frames[1]])
    # The rest after the last whole segment does not count.
    features = visual.features(np.concatenate([clip, clip[: STRIDE - 1]]), batch=2)
    assert features.shape == (3 * 8, 32)
    torch.testing.assert_close(features[:8], expected[0], **TOLERANCE)
    torch.testing.assert_close(features[16:], expected[1], **TOLERANCE)
    middle = visual.features(clip[8:24])
    torch.testing.assert_close(features[8:16], middle, **TOLERANCE)


def test_nine_seconds_have_27_segments(visual):
    assert visual.segments(225) == 27
    assert visual.segments(15) == 0


def test_a_clip_shorter_than_a_segment_is_filled_with_its_last_frame(visual, golden):
    frames, _ = golden
    whole = frames[0].copy()
    whole[5:] = whole[4]
    torch.testing.assert_close(visual.features(frames[0][:5]), visual.features(whole))


def test_the_released_dimensions_are_the_defaults():
    with torch.device("meta"):
        model = SynchformerVisual()
    shapes = {name: tuple(t.shape) for name, t in model.official_state().items()}
    assert len(shapes) == 238
    assert shapes["vfeat_extractor.pos_embed"] == (1, 197, 768)
    assert shapes["vfeat_extractor.temp_embed"] == (1, 8, 768)
    assert shapes["vfeat_extractor.patch_embed_3d.proj.weight"] == (768, 3, 2, 16, 16)
    assert sum(t.numel() for t in model.state_dict().values()) == pytest.approx(122.4e6, rel=1e-3)


@pytest.fixture
def small() -> SynchformerVisual:
    torch.manual_seed(0)
    return SynchformerVisual(width=64, depth=1, heads=1, hidden=96, places=4, times=3, patch=4)


@pytest.mark.parametrize("layout", ["flat.pth", "wrapped.pt", "file.safetensors"])
def test_files_of_any_layout_give_the_same_tower(tmp_path: Path, small: SynchformerVisual, layout: str):
    tensors = small.official_state() | {"afeat_extractor.ast.layernorm.weight": torch.ones(64)}
    path = tmp_path / layout
    if layout == "file.safetensors":
        save_file(tensors, path)
    else:
        torch.save({"model": tensors, "epoch": 3} if layout == "wrapped.pt" else tensors, path)
    loaded = SynchformerVisual.load(path)
    assert (loaded.heads, loaded.frames, loaded.size) == (1, 6, 8)
    clip = torch.randn(2, 6, 3, 8, 8)
    torch.testing.assert_close(loaded(clip), small(clip))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_unused_patch_embedding_is_required(small: SynchformerVisual):
    tensors = small.official_state()
    del tensors["vfeat_extractor.patch_embed.proj.bias"]
    with pytest.raises(CheckpointError, match=r"missing \(1\): patch_embed\.proj\.bias"):
        SynchformerVisual.of(tensors)


def test_nan_weights_are_refused(small: SynchformerVisual):
    tensors = small.official_state()
    tensors["vfeat_extractor.norm.weight"] = torch.full((64,), torch.nan)
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in norm\.weight"):
        SynchformerVisual.of(tensors)


def test_files_that_do_not_fit_say_so(tmp_path: Path, small: SynchformerVisual):
    with pytest.raises(CheckpointError, match="No Synchformer file"):
        SynchformerVisual.load(tmp_path / "none.pth")
    torch.save({"decoder.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"nothing under vfeat_extractor.*found decoder\.weight"):
        SynchformerVisual.load(tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CheckpointError, match=r"cut\.pth"):
        SynchformerVisual.load(tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"no vfeat_extractor\.temp_embed"):
        SynchformerVisual.of({k: t for k, t in small.official_state().items() if "temp_embed" not in k})
    with pytest.raises(CheckpointError, match=r"32 wide.*how many heads"):
        SynchformerVisual.load(FIXTURES / WEIGHTS)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path):
    torch.save({"vfeat_extractor.cls_token": torch.nn.Linear(1, 1)}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="more than tensors"):
        SynchformerVisual.load(tmp_path / "code.pth")
