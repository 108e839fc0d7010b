"""VideoPrism's features against transformers' own modules, called one by one with its own attention."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from foundation import videoprism
from foundation.errors import CheckpointError
from foundation.videoprism import VideoPrism

transformers = pytest.importorskip("transformers")

SIZE, TRAINED = 36, 4
TOLERANCE = {"atol": 2e-6, "rtol": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LvT with no parameter at its neutral start, saved as the released one is."""
    shared = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2}
    vision = {
        **shared,
        "image_size": SIZE,
        "num_frames": TRAINED,
        "num_spatial_layers": 2,
        "num_temporal_layers": 2,
        "num_auxiliary_layers": 2,
    }
    text = {**shared, "num_hidden_layers": 1, "vocab_size": 50}
    torch.manual_seed(0)
    model = transformers.VideoPrismClipModel(transformers.VideoPrismConfig(vision_config=vision, text_config=text))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("videoprism") / "videoprism"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def prism(folder: Path) -> VideoPrism:
    return VideoPrism.load(folder)


def picture(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def stretched(positions: torch.Tensor, count: int) -> torch.Tensor:
    """(N, D) positions at `count` half-pixel centres, linearly; for count >= N."""
    old, new = np.arange(len(positions)) + 0.5, (np.arange(count) + 0.5) * len(positions) / count
    return torch.tensor(
        np.stack([np.interp(new, old, column) for column in positions.numpy().T], axis=1), dtype=torch.float32
    )


@torch.no_grad()
def by_hand(folder: Path, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Frame and clip embeddings: space frame by frame, time place by place, then all tokens, pooled frame by frame."""
    model = transformers.VideoPrismClipModel.from_pretrained(folder, attn_implementation="eager").eval().video_model
    vision = model.vision_model
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    seen = []
    for frame in pixels:
        tokens = vision.spatial_embeddings(frame[None, None])
        for layer in vision.spatial_layers:
            tokens = layer(tokens)
        seen.append(vision.layernorm1(tokens)[0])
    places = torch.stack(seen, dim=1)  # (places, T, D)
    positions = stretched(vision.temporal_embeddings.position_embeddings[0], len(frames))
    moved = []
    for place in places:
        tokens = (place + positions)[None]
        for layer in vision.temporal_layers:
            tokens = layer(tokens)
        moved.append(vision.layernorm2(tokens)[0])
    tokens = torch.stack(moved, dim=1).flatten(0, 1)[None]  # frame-major
    for layer in model.auxiliary_layers:
        tokens = layer(tokens)
    rows = [model.head_layernorm(model.head(part[None])[0])[0, 0] for part in tokens[0].chunk(len(frames))]
    clip = model.head_layernorm(model.head(tokens)[0])[0, 0]
    return F.normalize(torch.stack(rows), dim=-1), F.normalize(clip, dim=-1)


@pytest.mark.parametrize("count", [TRAINED, 7, 12])
def test_features_are_those_of_the_modules_one_by_one(folder: Path, prism: VideoPrism, count: int):
    frames = picture(count)
    features = prism.features(frames)
    expected_frames, expected_clip = by_hand(folder, frames)
    assert features.frames.shape == (count, 32)
    torch.testing.assert_close(features.frames, expected_frames, **TOLERANCE)
    torch.testing.assert_close(features.clip, expected_clip, **TOLERANCE)
    # Not a comparison of constants: frames differ from each other by far more than the tolerance.
    assert (features.frames[0] - features.frames[1]).abs().max() > 0.01


def test_the_clip_vector_is_the_models_own(folder: Path, prism: VideoPrism):
    frames = picture(TRAINED, seed=1)
    model = transformers.VideoPrismClipModel.from_pretrained(folder).eval()
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255
    with torch.no_grad():
        expected = model.get_video_features(pixels).pooler_output[0, 0]
    torch.testing.assert_close(prism.features(frames).clip, expected, **TOLERANCE)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_frames_than_trained_give_unit_vectors(prism: VideoPrism, count: int):
    features = prism.features(picture(count))
    assert features.frames.shape == (count, 32)
    torch.testing.assert_close(features.frames.norm(dim=-1), torch.ones(count))


@pytest.mark.parametrize("logits", [1, 97, 1000])
def test_attention_in_pieces_is_attention(prism: VideoPrism, monkeypatch: pytest.MonkeyPatch, logits: int):
    frames = picture(6)
    whole = prism.features(frames)
    monkeypatch.setattr(videoprism, "LOGITS", logits)
    pieces = prism.features(frames)
    torch.testing.assert_close(pieces.frames, whole.frames, **TOLERANCE)
    torch.testing.assert_close(pieces.clip, whole.clip, **TOLERANCE)


def test_the_cap_on_logits_holds():
    """With logits far beyond the cap, uncapped attention would pick one value alone."""
    query, key = torch.full((1, 1, 1, 1), 100.0), torch.tensor([1.0, 0.5])[None, None, :, None]
    value = torch.tensor([1.0, 0.0])[None, None, :, None]
    capped, _ = videoprism.capped_attention(torch.nn.Identity(), query, key, value, None, softcap=1.0)
    torch.testing.assert_close(capped.flatten(), torch.tensor([0.5]))


def test_the_video_tower_alone_loads_too(folder: Path, prism: VideoPrism, tmp_path: Path):
    transformers.VideoPrismClipModel.from_pretrained(folder).video_model.save_pretrained(tmp_path / "tower")
    frames = picture(TRAINED)
    tower = VideoPrism.load(tmp_path / "tower").features(frames)
    torch.testing.assert_close(tower.frames, prism.features(frames).frames)


def broken(folder: Path, to: Path, change) -> Path:
    """A copy of a folder with other tensors."""
    to.mkdir()
    (to / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    return to


def test_weights_that_do_not_fit_are_named(folder: Path, tmp_path: Path):
    name = "video_model.head.per_dim_scale"
    with pytest.raises(CheckpointError, match=r"missing: head\.per_dim_scale"):
        VideoPrism.load(broken(folder, tmp_path / "missing", lambda t: t.pop(name)))
    with pytest.raises(CheckpointError, match=r"other dimensions: head\.per_dim_scale"):
        VideoPrism.load(broken(folder, tmp_path / "shape", lambda t: t.update({name: torch.ones(3)})))
    with pytest.raises(CheckpointError, match="unexpected: extra"):
        VideoPrism.load(broken(folder, tmp_path / "extra", lambda t: t.update(extra=torch.ones(3))))
    with pytest.raises(CheckpointError, match="NaN"):
        VideoPrism.load(broken(folder, tmp_path / "nan", lambda t: t[name].fill_(torch.nan)))


def test_folders_of_another_kind_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        VideoPrism.load(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"weights in .* cannot be loaded"):
        VideoPrism.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5gemma"}))
    with pytest.raises(CheckpointError, match="'t5gemma'; expected 'videoprism'"):
        VideoPrism.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        VideoPrism.load(tmp_path)
