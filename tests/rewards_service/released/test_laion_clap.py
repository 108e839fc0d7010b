"""LAION-CLAP in transformers: names, shapes, and what every audio-text scorer promises, on a small real ClapModel."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ClapConfig, ClapModel

from rewards_service.errors import RewardConfigError, RewardError
from rewards_service.released.laion_clap import LaionClapScorer
from rewards_service.released.laion_keys import architecture, converted, fused, is_original, patch_width
from rewards_service.scores import Reference
from tests.rewards_service.released.forge_clap import CAPTIONS, SPECIAL, randomise, related, vocabulary

RATE = 16000


def reference(text: str, plan: str = "") -> Reference:
    return Reference("clip", text, 4.0, (), (), 16.0, plan=plan)


def noise(seconds: float, shape: tuple[int, int] = (1, 1), seed: int = 0) -> np.ndarray:
    """Steps of noise of different colours and levels, so that every stretch sounds different."""
    random = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    made = random.standard_normal((*shape, 2, samples))
    made = np.where(np.arange(samples) // 4000 % 2, made, np.cumsum(made, -1) * 0.02)
    return (0.05 * made).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder with its tokenizer: 16 channels a patch, five blocks, one text layer."""
    folder = tmp_path_factory.mktemp("clap")
    vocabulary(SPECIAL).save_model(str(folder))
    audio = {"patch_embeds_hidden_size": 16, "hidden_size": 128, "depths": [2, 1, 1, 1], "num_attention_heads": [2] * 4}
    text = {
        "vocab_size": len(vocabulary(SPECIAL).get_vocab()),
        "hidden_size": 64,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-5,
    }
    model: Any = ClapModel(ClapConfig.from_dict({"audio_config": audio, "text_config": text, "projection_dim": 32}))
    randomise(model, 0)
    model.audio_model.audio_encoder.batch_norm.running_mean.sub_(40)
    model.audio_model.audio_encoder.batch_norm.running_var.fill_(400)
    related(model.audio_projection.linear2.bias, model.text_projection.linear2.bias)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(files: Path) -> LaionClapScorer:
    made = LaionClapScorer(weights=files)
    made.load()
    return made


def test_a_file_of_the_same_tensors_is_the_same_model(files: Path, scorer: LaionClapScorer, tmp_path: Path) -> None:
    tensors = load_file(files / "model.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "a.pt")
    save_file(tensors, tmp_path / "b.safetensors")
    sounds, references = noise(4), [reference(CAPTIONS[0])]
    expected = scorer.score(sounds, RATE, references).values
    assert 0.05 < expected[0, 0] < 0.999
    for name in ("a.pt", "b.safetensors"):
        found = LaionClapScorer(weights=tmp_path / name, tokenizer=files).score(sounds, RATE, references)
        np.testing.assert_array_equal(found.values, expected)


@pytest.mark.parametrize("seconds", [3.0, 10.0, 20.0, 25.0])
def test_every_second_counts_and_nothing_is_drawn(scorer: LaionClapScorer, seconds: float) -> None:
    sounds, references = noise(seconds), [reference(CAPTIONS[0])]
    first, second = (scorer.score(sounds, RATE, references).values for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for at in np.arange(0, seconds - 0.9, 1.0):
        changed = sounds.copy()
        changed[..., int(at * RATE) : int((at + 1) * RATE)] = noise(1.0, seed=7) * np.float32(4)
        assert abs(scorer.score(changed, RATE, references).values - first) > 1e-6


def test_details_say_where_the_windows_are_and_what_they_give(scorer: LaionClapScorer) -> None:
    measured = scorer.score(noise(25), RATE, [reference(CAPTIONS[0])], detail=True).measured
    assert measured is not None
    told = measured[0][0]
    assert [window["start_s"] for window in told["windows"]] == [0.0, 7.5, 15.0]
    assert told["basis"] == "cosine of the mean of 3 windows of 10 s with the text"
    assert told["text"] == CAPTIONS[0]
    single = scorer.score(noise(25)[..., -10 * RATE :], RATE, [reference(CAPTIONS[0])]).values
    assert told["windows"][2]["similarity"] == pytest.approx(single[0, 0], abs=0.02)


def test_level_and_sides_earn_nothing(scorer: LaionClapScorer) -> None:
    sounds, references = noise(4), [reference(CAPTIONS[1])]
    score = scorer.score(sounds, RATE, references).values
    for other in (sounds * np.float32(0.1), sounds * np.float32(8), np.ascontiguousarray(sounds[:, :, ::-1])):
        np.testing.assert_allclose(scorer.score(other, RATE, references).values, score, atol=2e-4)
    mono = sounds.mean(2, keepdims=True).repeat(2, axis=2)
    np.testing.assert_allclose(scorer.score(mono, RATE, references).values, score, atol=2e-4)


def test_a_sample_does_not_depend_on_its_neighbours(scorer: LaionClapScorer) -> None:
    sounds = noise(12, (2, 3))
    references = [reference(CAPTIONS[2]), reference(CAPTIONS[3])]
    together = replace(scorer, per_pass=5).score(sounds, RATE, references).values
    assert np.ptp(together) > 1e-4
    for g in range(2):
        for n in range(3):
            alone = scorer.score(sounds[g : g + 1, n : n + 1], RATE, references[g : g + 1]).values
            np.testing.assert_allclose(alone[0, 0], together[g, n], atol=1e-5)


def test_silence_cancelled_and_broken_sounds(scorer: LaionClapScorer) -> None:
    sounds = np.repeat(noise(4), 4, axis=1)
    sounds[0, 1] = 0.0
    sounds[0, 2, 1] = -sounds[0, 2, 0]
    sounds[0, 3, 0, 5] = np.nan
    scores = scorer.score(sounds, RATE, [reference(CAPTIONS[0])], detail=True)
    assert scores.values[0, 0] > 0.05
    assert scores.values[0, 1:3].tolist() == [0.0, 0.0]
    assert list(scores.missing) == [(0, 3)]
    assert scores.measured is not None
    assert [sample["silent"] for sample in scores.measured[0]] == [False, True, True, False]


def test_prompts_without_a_text_are_gated(scorer: LaionClapScorer) -> None:
    sounds = np.repeat(noise(2), 2, axis=0)
    references = [reference(" ** ", "Semantic: a dog barks."), reference(CAPTIONS[0])]
    scores = scorer.score(sounds, RATE, references)
    assert scores.gated == {0: "there is no semantic text to compare with"}
    assert not scores.missing
    assert np.isnan(scores.values[0, 0])
    plan = replace(scorer, text="plan").score(sounds, RATE, references)
    assert list(plan.gated) == [1]
    same = scorer.score(sounds[:1], RATE, [reference("a dog barks.")])
    np.testing.assert_allclose(plan.values[0], same.values[0], atol=1e-6)


def test_captions_are_cleaned_cut_and_embedded_once(scorer: LaionClapScorer) -> None:
    long = "the rain falls on the roof and " * 40
    assert scorer.count(long) > 77
    caption = scorer.caption(long)
    assert scorer.count(caption) <= 77 < scorer.count(f"{caption} falls")
    assert long.startswith(caption)
    assert scorer.caption("**Semantic**: a dog barks!") == "a dog barks."
    fresh = replace(scorer)
    for _ in range(3):
        fresh.score(noise(1, (2, 1)), RATE, [reference("a dog barks!"), reference("a dog barks.")])
    found: Any = fresh.text_embedding
    assert found.cache_info().misses == 1
    assert found.cache_info().hits == 5
    assert fresh.embed_caption(CAPTIONS[0]).norm().item() == pytest.approx(1.0, abs=1e-5)


def test_wrong_files_and_options_are_named(files: Path, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"There is no LAION-CLAP checkpoint .*absent\.pt"):
        LaionClapScorer(weights=tmp_path / "absent.pt").load()
    tensors = load_file(files / "model.safetensors")
    tensors["text_projection.linear3.weight"] = tensors.pop("text_projection.linear1.weight")
    save_file(tensors, tmp_path / "typo.safetensors")
    with pytest.raises(RewardError, match=r"missing \(1\): .*linear1\.weight.*unexpected \(1\): .*linear3"):
        LaionClapScorer(weights=tmp_path / "typo.safetensors").load()
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(RewardError, match="no LAION-CLAP"):
        LaionClapScorer(weights=tmp_path / "other.safetensors").load()
    with pytest.raises(RewardError, match=r"config\.json is missing"):
        LaionClapScorer(weights=tmp_path).load()
    with pytest.raises(RewardError, match="no roberta-base tokenizer in"):
        LaionClapScorer(weights=files, tokenizer=tmp_path / "nowhere").load()
    for options in ({"text": "caption"}, {"device": "tpu"}, {"per_pass": 0}):
        with pytest.raises(RewardConfigError):
            LaionClapScorer(**options)  # pyright: ignore[reportArgumentType]


def test_released_names_become_those_of_transformers() -> None:
    block, layer = "audio_branch.layers.2.blocks.1", "text_branch.encoder.layer.0"
    qkv = torch.arange(18.0).view(6, 3)
    given = {
        f"{block}.attn.qkv.weight": qkv,
        f"{block}.attn.qkv.bias": torch.arange(6.0),
        f"{block}.attn.relative_position_bias_table": torch.ones(225, 4),
        f"{block}.attn.relative_position_index": torch.ones(64, 64),
        f"{block}.attn_mask": torch.ones(1),
        **{
            name: torch.full((1,), float(i))
            for i, name in enumerate(
                (
                    f"{block}.attn.proj.bias",
                    f"{block}.norm1.weight",
                    f"{block}.norm2.bias",
                    f"{block}.mlp.fc1.weight",
                    f"{block}.mlp.fc2.bias",
                    "audio_branch.bn0.running_var",
                    "audio_branch.layers.0.downsample.reduction.weight",
                    "audio_branch.patch_embed.mel_conv2d.weight",
                    "audio_branch.norm.weight",
                    "audio_projection.0.weight",
                    "text_projection.2.bias",
                    f"{layer}.attention.output.dense.weight",
                    "text_branch.pooler.dense.bias",
                    "logit_scale_a",
                )
            )
        },
        **{
            name: torch.ones(1)
            for name in (
                "audio_branch.spectrogram_extractor.stft.conv_real.weight",
                "audio_branch.logmel_extractor.melW",
                "audio_branch.tscam_conv.weight",
                "audio_branch.head.bias",
                "audio_transform.sequential.0.weight",
                "text_transform.sequential.3.bias",
                "text_branch.embeddings.position_ids",
            )
        },
    }
    assert is_original(given)
    found = converted(given)
    ours = "audio_model.audio_encoder.layers.2.blocks.1"
    for i, part in enumerate(("query", "key", "value")):
        torch.testing.assert_close(found.pop(f"{ours}.attention.self.{part}.weight"), qkv[2 * i : 2 * i + 2])
        assert found.pop(f"{ours}.attention.self.{part}.bias").tolist() == [2 * i, 2 * i + 1]
    assert found.pop(f"{ours}.attention.self.relative_position_bias_table").shape == (225, 4)
    assert found.pop(f"{ours}.attention.self.relative_position_index").shape == (64, 64)
    assert {name: tensor.item() for name, tensor in found.items()} == {
        f"{ours}.attention.output.dense.bias": 0,
        f"{ours}.layernorm_before.weight": 1,
        f"{ours}.layernorm_after.bias": 2,
        f"{ours}.intermediate.dense.weight": 3,
        f"{ours}.output.dense.bias": 4,
        "audio_model.audio_encoder.batch_norm.running_var": 5,
        "audio_model.audio_encoder.layers.0.downsample.reduction.weight": 6,
        "audio_model.audio_encoder.patch_embed.mel_conv2d.weight": 7,
        "audio_model.audio_encoder.norm.weight": 8,
        "audio_projection.linear1.weight": 9,
        "text_projection.linear2.bias": 10,
        "text_model.encoder.layer.0.attention.output.dense.weight": 11,
        "text_model.pooler.dense.bias": 12,
        "logit_scale_a": 13,
    }
    assert converted(found) == found


@pytest.mark.parametrize(
    ("width", "depths", "fusion"), [(96, [2, 2, 6, 2], False), (96, [2, 2, 6, 2], True), (128, [2, 2, 12, 2], False)]
)
def test_sizes_of_the_released_models_are_read_off_the_shapes(width: int, depths: list[int], fusion: bool) -> None:
    audio = {"patch_embeds_hidden_size": width, "hidden_size": 8 * width, "depths": depths}
    audio |= {"enable_fusion": True, "fusion_type": "aff_2d"} if fusion else {}
    config = ClapConfig.from_dict({"audio_config": audio})
    with torch.device("meta"):
        model: Any = ClapModel(config)
    tensors = model.state_dict()
    found = architecture(tensors)
    assert found["audio_config"]["depths"] == depths
    assert found["audio_config"]["num_attention_heads"] == [4, 8, 16, 32]
    assert found["audio_config"]["window_size"] == 8
    assert found["text_config"]["num_hidden_layers"] == 12
    assert found["text_config"]["num_attention_heads"] == 12
    assert (patch_width(tensors), fused(tensors)) == (width, fusion)
    with torch.device("meta"):
        again: Any = ClapModel(ClapConfig.from_dict(found))
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in tensors.items()}
    del tensors["text_model.embeddings.word_embeddings.weight"]
    with pytest.raises(RewardError, match=r"word_embeddings\.weight is missing"):
        architecture(tensors)
