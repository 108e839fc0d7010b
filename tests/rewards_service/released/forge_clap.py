"""Released checkpoints and Hugging Face caches with random weights, made by the packages' own model classes.

A script for the interpreters of the scorers' own environments (what is imported inside is installed there):
`forge_clap.py ms_clap FOLDER`, `forge_clap.py laion_clap FOLDER AMODEL FUSION`,
`forge_clap.py embed PLACE OPTIONS OUT SOUNDS ...` for what a scorer makes of sounds (B, S) and of some captions, and
`forge_clap.py official OPTIONS OUT` for the released reward by msclap's own methods beside the scorer's. The text
towers have two layers and a small vocabulary; everything else is of full size.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

CAPTIONS = ("A bell rings and fades.", "Dry wood is hit twice", "rain falls on a metal roof", "a dog barks far away")
SENTENCES = (
    "a short wooden knock rings in a small room, then a metal bell fades slowly while the rain falls on the roof.",
    "Semantic: the sound of a glass ball that hits the floor. Temporal: at two seconds. Spatial: from left to right.",
    "A dog barks far away and a car passes; dry wood is hit three times, and water drops into a deep barrel.",
)
REVISION = "0" * 40
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def vocabulary(special: list[str]) -> Any:
    """A byte-level tokenizer with 600 tokens; '!' is the first after the special ones, as in GPT-2."""
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    made.train_from_iterator(SENTENCES, vocab_size=600, special_tokens=special, show_progress=False)
    return made


def snapshot(hub: Path, name: str) -> Path:
    """An empty snapshot folder of a model in a cache."""
    place = hub / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(REVISION)
    (place / "snapshots" / REVISION).mkdir(parents=True)
    return place / "snapshots" / REVISION


def gpt2(hub: Path) -> None:
    """GPT-2 and its tokenizer; the end of text is its last token."""
    from transformers import GPT2Config, GPT2Model

    folder = snapshot(hub, "gpt2")
    vocabulary([]).save_model(str(folder))
    words = json.loads((folder / "vocab.json").read_text())
    assert words["!"] == 0
    words["<|endoftext|>"] = end = len(words)
    (folder / "vocab.json").write_text(json.dumps(words))
    config = GPT2Config(vocab_size=end + 1, n_layer=2, bos_token_id=end, eos_token_id=end)
    GPT2Model(config).save_pretrained(folder)


def roberta(hub: Path) -> None:
    """RoBERTa and its tokenizer, and the two other tokenizers that laion-clap loads."""
    from transformers import RobertaConfig, RobertaModel

    for name, kind in (("roberta-base", "roberta"), ("facebook/bart-base", "bart")):
        folder = snapshot(hub, name)
        vocabulary(SPECIAL).save_model(str(folder))
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    words = json.loads((folder / "vocab.json").read_text())
    config = RobertaConfig(
        vocab_size=len(words), num_hidden_layers=2, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    )
    RobertaModel(config).save_pretrained(hub / "models--roberta-base" / "snapshots" / REVISION)
    folder = snapshot(hub, "bert-base-uncased")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Weights under which different sounds and texts get different embeddings; those of spectra and masks stay."""
    random = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if "_extractor" in name or "attn_mask" in name or not tensor.is_floating_point() or tensor.dim() == 0:
            continue
        noise = torch.randn(tensor.shape, generator=random)
        if name.endswith("running_mean"):
            tensor.copy_(noise - (40 if "bn0" in name else 0))
        elif name.endswith("running_var"):
            tensor.copy_(0.1 * noise.abs() + (400 if "bn0" in name else 1))
        elif tensor.dim() >= 2:
            tensor.copy_(noise / tensor[0].numel() ** 0.5 * 1.5)
        else:
            tensor.copy_(0.1 * noise + (1 if name.endswith("weight") else 0))


@torch.no_grad()
def related(sound: torch.Tensor, text: torch.Tensor) -> None:
    """Give the last biases of both towers a direction in common, so that cosines lie well above 0."""
    shared = torch.randn(sound.shape, generator=torch.Generator().manual_seed(1))
    sound.copy_(shared)
    text.copy_(shared)


def use(hub: Path) -> None:
    """Before anything imports huggingface_hub."""
    from rewards_service.cpu_wheels import tolerate

    os.environ["HF_HUB_CACHE"], os.environ["HF_HUB_OFFLINE"] = str(hub), "1"
    tolerate()


def ms_clap(folder: Path) -> None:
    """CLAP_weights_2023.pth and hub/, with the masks that the released file has and today's transformers has not."""
    use(folder / "hub")
    gpt2(folder / "hub")
    clap: Any = importlib.import_module("msclap.models.clap").CLAP
    wrapper: Any = importlib.import_module("msclap.CLAPWrapper").CLAPWrapper
    told = wrapper.read_config_as_args(
        None, Path(sys.modules["msclap.CLAPWrapper"].__file__ or "").parent / "configs" / "config_2023.yml"
    )
    model = clap(
        audioenc_name=told.audioenc_name,
        sample_rate=told.sampling_rate,
        window_size=told.window_size,
        hop_size=told.hop_size,
        mel_bins=told.mel_bins,
        fmin=told.fmin,
        fmax=told.fmax,
        classes_num=told.num_classes,
        out_emb=told.out_emb,
        text_model=told.text_model,
        transformer_embed_dim=told.transformer_embed_dim,
        d_proj=told.d_proj,
    )
    randomise(model, 0)
    related(model.audio_encoder.projection.layer_norm.bias, model.caption_encoder.projection.layer_norm.bias)
    state = dict(model.state_dict())
    for layer in range(2):
        state[f"caption_encoder.base.h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
        state[f"caption_encoder.base.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save({"model": state}, folder / "CLAP_weights_2023.pth")


def laion_clap(folder: Path, amodel: str, fusion: bool) -> None:
    """laion.pt, with records beside the tensors as training leaves them, and hub/."""
    use(folder / "hub")
    roberta(folder / "hub")
    module: Any = importlib.import_module("laion_clap").CLAP_Module
    model = module(fusion, "cpu", amodel).model
    randomise(model, 0)
    related(model.audio_projection[2].bias, model.text_projection[2].bias)
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    torch.save({"epoch": 15, "name": "forged", "best": np.float64(0.5), "state_dict": state}, folder / "laion.pt")


def embed(place: str, options: dict[str, Any], out: Path, files: list[Path]) -> None:
    """Embeddings of all windows of the sounds (B, S) in each file, and of `CAPTIONS`, as safetensors."""
    from safetensors.torch import save_file

    module, _, name = place.partition(":")
    scorer = getattr(importlib.import_module(module), name)(**options)
    scorer.load()
    found = {file.stem: scorer.embed_sounds(torch.from_numpy(np.load(file))) for file in files}
    save_file({**found, "texts": torch.stack([scorer.embed_caption(caption) for caption in CAPTIONS])}, out)


def official(options: dict[str, Any], out: Path) -> None:
    """Scores of two plans with two clips of 9 s, (2, 2) each: {"scorer": by MsClapScorer, "package": by msclap}."""
    from rewards_service.released.ms_clap import MsClapScorer
    from rewards_service.scores import Reference

    plans = [
        f"Semantic: {caption}! Temporal: at two seconds." * repeats
        for caption, repeats in zip(CAPTIONS[:2], (1, 3), strict=True)
    ]
    random = np.random.default_rng(0)
    sounds = (random.standard_normal((2, 2, 2, 9 * 44100)) * np.array([0.05, 0.5])[:, None, None]).astype(np.float32)
    scorer = MsClapScorer(**options, official=True)
    found = scorer.score(sounds, 44100, [Reference("a", "", 9.0, (), (), 16.0, plan=plan) for plan in plans])
    package, by_hand = scorer.model, np.zeros((2, 2))
    for g, n in np.ndindex(2, 2):
        batch = package.default_collate([torch.from_numpy(sounds[g, n]).mean(0, keepdim=True)])
        both = package._get_audio_embeddings(batch), package.get_text_embeddings([plans[g]])
        by_hand[g, n] = package.compute_similarity(*both)[0][0].item() / 80
    long = scorer.score(sounds[:1], 44100, [Reference("a", "", 9.0, (), (), 16.0, plan=plans[0] * 60)])
    told = {"scorer": found.values.tolist(), "package": by_hand.tolist(), "long": sorted(long.missing.values())}
    out.write_text(json.dumps(told))


if __name__ == "__main__":
    job, where, *rest = sys.argv[1:]
    if job == "embed":
        embed(where, json.loads(rest[0]), Path(rest[1]), [Path(name) for name in rest[2:]])
    elif job == "official":
        official(json.loads(where), Path(rest[0]))
    elif job == "ms_clap":
        ms_clap(Path(where))
    else:
        laion_clap(Path(where), rest[0], rest[1] == "True")
