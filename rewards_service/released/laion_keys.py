"""The released LAION-CLAP checkpoints under the names of transformers' `ClapModel`, and their architecture.

The layout is that of laion-clap 1.1.7 (clap_module/model.py, htsat.py); the names on the other side are those of
transformers 5 (models/clap/modeling_clap.py).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rewards_service.errors import RewardError

ORIGINAL = "audio_branch."
"""Names of the audio tower begin with this in the released layout."""
POSITION_IDS = "text_branch.embeddings.position_ids"
AMODELS = {96: "HTSAT-tiny", 128: "HTSAT-base", 256: "HTSAT-large"}
"""The package's names of its audio towers, by the width of a patch."""
BUFFERS = r"text_model\.embeddings\.(position_ids|token_type_ids)"
"""Constants of `ClapModel` that files need not hold."""
HEAD = 64

_DROPPED = re.compile(
    r"audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\..*"
    r"|audio_branch\.layers\.\d+\.blocks\.\d+\.attn_mask"
    r"|(audio|text)_transform\..*"
    r"|text_branch\.embeddings\.(position_ids|token_type_ids)"
)
_RENAMED = (
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
    (r"\.bn0\.", ".batch_norm."),
    (r"(\.blocks\.\d+)\.attn\.proj\.", r"\1.attention.output.dense."),
    (r"(\.blocks\.\d+)\.attn\.", r"\1.attention.self."),
    (r"(\.blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"(\.blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
_SPLIT = re.compile(r"(.*\.attention\.self)\.qkv\.(weight|bias)")


def converted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the released layout under transformers' names; those that have them already as they are.

    Left out are the package's spectrogram layers, its classification head, the `*_transform` heads that only training
    used, masks and counters.
    """
    if not is_original(tensors):
        return dict(tensors)
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _DROPPED.fullmatch(name):
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if found := _SPLIT.fullmatch(name):
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            out |= {f"{found[1]}.{part}.{found[2]}": piece for part, piece in parts}
        else:
            out[name] = tensor
    return out


def is_original(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of the released layout."""
    return any(name.startswith(ORIGINAL) for name in tensors)


def fused(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the audio tower can fuse several stretches of a long clip, in either layout."""
    return any(".patch_embed.fusion_model." in name for name in tensors)


def patch_width(tensors: Mapping[str, Tensor]) -> int:
    """Width of a patch, by which the audio towers differ, in either layout. Raises RewardError when none is there."""
    for name, tensor in tensors.items():
        if name.endswith(".patch_embed.proj.weight"):
            return tensor.shape[0]
    raise RewardError("These tensors are no LAION-CLAP with an HTSAT audio tower: none ends in patch_embed.proj.weight")


def architecture(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of a `ClapConfig`, read off the shapes under transformers' names.

    Raises RewardError naming the tensor that is missing.
    """
    audio, text = "audio_model.audio_encoder.", "text_model."

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise RewardError(f"These tensors are no LAION-CLAP with HTSAT and RoBERTa: {name} is missing.")
        return tuple(tensors[name].shape)

    width, _, patch, _ = shape(audio + "patch_embed.proj.weight")
    stages = _count(tensors, audio + r"layers\.(\d+)\.")
    tables = [
        shape(f"{audio}layers.{stage}.blocks.0.attention.self.relative_position_bias_table") for stage in range(stages)
    ]
    hidden = width * 2 ** (stages - 1)
    fusion: dict[str, Any] = {}
    if fused(tensors):
        inner = shape(audio + "patch_embed.fusion_model.local_att.0.weight")[0]
        fusion = {"enable_fusion": True, "fusion_type": "aff_2d", "aff_block_r": width // inner}
    vocabulary, text_width = shape(text + "embeddings.word_embeddings.weight")
    return {
        "projection_dim": shape("audio_projection.linear2.weight")[0],
        "audio_config": {
            "patch_embeds_hidden_size": width,
            "patch_size": patch,
            "patch_stride": (patch, patch),
            "hidden_size": hidden,
            "depths": [_count(tensors, rf"{audio}layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)],
            "num_attention_heads": [table[1] for table in tables],
            "window_size": (math.isqrt(tables[0][0]) + 1) // 2,
            "num_mel_bins": shape(audio + "batch_norm.weight")[0],
            "mlp_ratio": shape(audio + "layers.0.blocks.0.intermediate.dense.weight")[0] / width,
            **fusion,
        },
        "text_config": {
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "num_hidden_layers": _count(tensors, text + r"encoder\.layer\.(\d+)\."),
            "num_attention_heads": text_width // HEAD,
            "intermediate_size": shape(text + "encoder.layer.0.intermediate.dense.weight")[0],
            "max_position_embeddings": shape(text + "embeddings.position_embeddings.weight")[0],
            "type_vocab_size": shape(text + "embeddings.token_type_embeddings.weight")[0],
            # RoBERTa's, which the released models were trained with; ClapTextConfig has another default.
            "layer_norm_eps": 1e-5,
        },
    }


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})
