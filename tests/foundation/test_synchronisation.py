"""The whole of Synchformer: one file, official names, the original's numbers through every part."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from foundation import synchformer_audio as sound
from foundation.errors import CheckpointError
from foundation.spectrogram_transformer import SpectrogramTransformer
from foundation.synchformer import SynchformerVisual, read
from foundation.synchformer_head import SyncHead
from foundation.synchronisation import Synchformer
from tests.foundation.conftest import FIXTURES, read_tensors

WEIGHTS = FIXTURES / "synchformer_weights.safetensors"
TOLERANCE = {"atol": 5e-5, "rtol": 0}


@pytest.fixture(scope="module")
def model() -> Synchformer:
    return Synchformer.load(WEIGHTS, heads=2, head_heads=2)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read_tensors("synchformer_io.safetensors")


def test_one_file_gives_the_originals_tokens_and_logits(model: Synchformer, golden: dict[str, Tensor]):
    small = golden["frames_28_uint8"][0].to(torch.uint8)
    frames = small.repeat_interleave(8, -1).repeat_interleave(8, -2).permute(0, 1, 3, 4, 2).numpy()
    seen = torch.cat([model.visual_tokens(segment) for segment in frames])
    torch.testing.assert_close(seen, golden["visual_features"][0], **TOLERANCE)
    logits = model(golden["head.visual_in"], golden["head.audio_in"])
    torch.testing.assert_close(logits, golden["head.logits"], **TOLERANCE)
    assert (model.tokens, model.window, model.classes) == ((8, 6), 3, 21)


def test_audio_tokens_are_the_towers_of_the_mel_in_any_batch(model: Synchformer):
    audio = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (2, 20_480)).astype(np.float32))
    cut = sound.segments(audio)
    tokens = model.audio_tokens(cut)
    assert tokens.shape == (2, 3, 6, 32)
    torch.testing.assert_close(tokens, model.afeat_extractor(sound.log_mel(cut)), **TOLERANCE)
    torch.testing.assert_close(model.audio_tokens(cut, batch=1), tokens, **TOLERANCE)


def test_its_state_dict_is_the_released_file(model: Synchformer):
    raw = read(WEIGHTS)
    state = model.state_dict()
    assert state.keys() == raw.keys()
    assert all(torch.equal(state[name], raw[name].float()) for name in raw)
    assert not any(p.requires_grad for p in model.parameters())


def test_the_released_dimensions_are_the_defaults():
    with torch.device("meta"):
        model = Synchformer()
    state = model.state_dict()
    assert len(state) == 513
    assert sum(t.numel() for t in state.values()) == pytest.approx(237.5e6, rel=1e-3)
    assert (model.tokens, model.window, model.classes) == ((8, 6), 14, 21)
    assert state["transformer.pos_emb_cfg.pos_emb"].shape == (1, 198, 768)


def test_every_missing_and_every_unexpected_key_is_named():
    tensors = read(WEIGHTS)
    gone = ("vfeat_extractor.patch_embed.proj.bias", "afeat_extractor.ast.layernorm.bias", "transformer.ln_f.bias")
    changed = {name: t for name, t in tensors.items() if name not in gone} | {"decoder.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        Synchformer.of(changed, heads=2, head_heads=2)
    assert "missing (3)" in str(caught.value)
    assert "unexpected (1): decoder.weight" in str(caught.value)
    assert all(name in str(caught.value) for name in gone)


def test_files_that_do_not_fit_say_so(tmp_path: Path):
    tensors = read(WEIGHTS)
    for prefix in ("vfeat_extractor.", "afeat_extractor.", "transformer."):
        with pytest.raises(CheckpointError, match=f"has no.*{prefix}"):
            Synchformer.of({n: t for n, t in tensors.items() if not n.startswith(prefix)}, heads=2, head_heads=2)
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in aproj\.bias"):
        Synchformer.of(tensors | {"aproj.bias": torch.full((32,), torch.nan)}, heads=2, head_heads=2)
    other = {"transformer.pos_emb_cfg.pos_emb": torch.zeros(1, 45, 32)}
    with pytest.raises(CheckpointError, match=r"45 positions; expected 2 \+ a multiple of 14"):
        Synchformer.of(tensors | other, heads=2, head_heads=2)
    with pytest.raises(CheckpointError, match="No Synchformer file"):
        Synchformer.load(tmp_path / "none.pth")


def test_a_training_checkpoint_holds_the_same_model(tmp_path: Path, model: Synchformer):
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "24-01-04.pt")
    loaded = Synchformer.load(tmp_path / "24-01-04.pt", heads=2, head_heads=2)
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())


def test_parts_of_other_dimensions_make_a_model():
    torch.manual_seed(0)
    made = Synchformer(
        SynchformerVisual(64, 1, 1, places=4, times=3, patch=4),
        SpectrogramTransformer(64, 1, 1),
        SyncHead(64, 1, 8, positions=2 + 5 * (3 + 6)),
    )
    loaded = Synchformer.of(made.state_dict())
    assert (loaded.tokens, loaded.window) == ((3, 6), 5)
    seen, heard = torch.randn(2, 5, 3, 64), torch.randn(2, 5, 6, 64)
    torch.testing.assert_close(loaded(seen, heard), made.eval()(seen, heard))
    # In half precision the answer is still float32, and close.
    rough = Synchformer.of(made.state_dict()).to(torch.bfloat16)(seen, heard)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, loaded(seen, heard), atol=0.05, rtol=0.05)
