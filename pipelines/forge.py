"""`prism forge`: a release folder with random weights, laid out as the released files are.

It makes every recipe for the released model runnable without its weights: tiny in tests, at full size for measuring
memory and time. What such a model generates is noise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from foundation.config import ModelConfig
from foundation.flat import write_flat
from foundation.model import FlowModel, initialise_unit_gain
from foundation.oobleck import Oobleck
from foundation.spectrogram_transformer import SpectrogramTransformer
from foundation.synchformer import HEAD_DIM, SynchformerVisual
from foundation.synchformer_head import SyncHead
from foundation.synchronisation import Synchformer
from settings import PrismError

M = TypeVar("M", bound=nn.Module)
WORDS = (
    "Semantic: a hard wooden ball hits the metal floor and a dog barks in the distance. Temporal: three impacts at 0.4 "
    "s, 1.25 s and 2.75 s, then silence. Aesthetic: clean, close and dry, without hiss or music. Spatial: the source "
    "moves from the left to the right, far away, in a large room."
)


@dataclass(frozen=True)
class Dimensions:
    """Sizes of all parts. flow: the DiT. channels: of the VAE's first layer. The rest are layers and widths."""

    flow: ModelConfig
    channels: int
    sync_depth: int
    video_layers: tuple[int, int, int]
    text_layers: int
    text_hidden: int
    head_dim: int
    vocabulary: int


# The tiny model keeps the depth and the equality of widths on which the released list of 850 keys depends.
SIZES: dict[str, Dimensions] = {
    "tiny": Dimensions(
        ModelConfig(latent_channels=64, width=64, depth=24, heads=2, video_dim=64, text_dim=64, sync_dim=128),
        channels=4, sync_depth=1, video_layers=(1, 1, 1), text_layers=2, text_hidden=128, head_dim=32, vocabulary=400,
    ),
    "full": Dimensions(
        ModelConfig.released(), channels=128, sync_depth=12, video_layers=(24, 4, 2), text_layers=24, text_hidden=2816,
        head_dim=64, vocabulary=256_000,
    ),
}  # fmt: skip


def forge(folder: Path, size: str = "tiny", seed: int = 0) -> Path:
    """Write prismaudio.ckpt, vae.ckpt, synchformer_state_dict.pth, videoprism/ and t5gemma/ with random weights.

    size: "tiny" or "full". Raises PrismError for another, and when the folder already holds something.
    """
    if size not in SIZES:
        raise PrismError(f"size={size} is not known; choose one of {', '.join(SIZES)}.")
    if folder.exists() and any(folder.iterdir()):
        raise PrismError(f"{folder} is not empty; forged files never replace others. Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    dimensions = SIZES[size]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = _random(Oobleck(dimensions.flow.latent_channels, dimensions.channels))
        flow = _flow(dimensions.flow)
        write_flat(folder / "prismaudio.ckpt", {**flow.state_dict(), **codec.official_state("pretransform.model.")})
        torch.save({"state_dict": codec.official_state("autoencoder.")}, folder / "vae.ckpt")
        del flow, codec
        sync = synchformer(dimensions.flow.sync_dim, dimensions.sync_depth)
        torch.save(sync.state_dict(), folder / "synchformer_state_dict.pth")
        del sync
        _videoprism(dimensions, folder / "videoprism")
        _t5gemma(dimensions, folder / "t5gemma")
    return folder


def synchformer(width: int, depth: int) -> Synchformer:
    """The whole synchronisation model with random weights; depth is of its towers, its head has at most 3 layers."""
    heads = max(1, width // HEAD_DIM)
    return _moved(
        Synchformer(
            SynchformerVisual(width, depth, heads),
            SpectrogramTransformer(width, depth, heads),
            SyncHead(width, min(3, depth)),
        )
    ).eval()


def _flow(config: ModelConfig) -> FlowModel:
    """Random weights at unit gain."""
    model = FlowModel(config)
    initialise_unit_gain(model)
    return _moved(model).eval()


def _moved(model: M) -> M:
    """With nothing left at exactly zero that training would have moved."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
    return model


def _random(codec: Oobleck) -> Oobleck:
    """Snake exponents of a fresh autoencoder are zero; trained ones are not."""
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if name.endswith(("alpha", "beta")):
                parameter.normal_(0, 0.1)
    return codec.eval()


def _videoprism(dimensions: Dimensions, folder: Path) -> None:
    from transformers import VideoPrismClipModel, VideoPrismConfig

    width = dimensions.flow.video_dim
    spatial, temporal, auxiliary = dimensions.video_layers
    shared: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": max(1, width // 64),
    }
    vision = {
        **shared, "num_frames": 8, "num_spatial_layers": spatial, "num_temporal_layers": temporal,
        "num_auxiliary_layers": auxiliary,
    }  # fmt: skip
    text = {**shared, "num_hidden_layers": min(12, spatial), "vocab_size": min(32_000, dimensions.vocabulary)}
    VideoPrismClipModel(VideoPrismConfig(vision_config=vision, text_config=text)).save_pretrained(folder)


def _t5gemma(dimensions: Dimensions, folder: Path) -> None:
    from transformers import (
        PreTrainedTokenizerFast,
        T5GemmaConfig,
        T5GemmaForConditionalGeneration,
        T5GemmaModuleConfig,
    )

    width = dimensions.flow.text_dim
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": dimensions.text_hidden,
        "num_hidden_layers": dimensions.text_layers,
        "num_attention_heads": width // dimensions.head_dim,
        "num_key_value_heads": width // dimensions.head_dim,
        "head_dim": dimensions.head_dim,
        "query_pre_attn_scalar": dimensions.head_dim,
        "vocab_size": dimensions.vocabulary,
    }
    config = T5GemmaConfig(
        encoder=T5GemmaModuleConfig(**sizes),
        decoder=T5GemmaModuleConfig(**{**sizes, "num_hidden_layers": 1}),
        vocab_size=dimensions.vocabulary,
    )
    T5GemmaForConditionalGeneration(config).save_pretrained(folder)
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=_tokenizer(list(special.values())), **special).save_pretrained(folder)


def _tokenizer(special: list[str]) -> Any:
    """Byte-level pairs learned from a few sentences; any text can be written with it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [WORDS], trainers.BpeTrainer(vocab_size=380, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", special.index("<bos>"))]
    )
    return tokenizer
