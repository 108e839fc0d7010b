"""The two layouts in which Audiobox-Aesthetics is published, and whether a file keeps to one.

checkpoint.pt: {"state_dict": names with "model." before them, "model_cfg", "target_transform"}. Folder, as
huggingface_hub's save_pretrained writes it: config.json with "target_transform" in it, and model.safetensors with the
bare names. Source: facebookresearch/audiobox-aesthetics:src/audiobox_aesthetics/infer.py and model/aes.py.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rewards_service.errors import RewardError
from rewards_service.files.headers import Shapes, read_header, read_json

AXES = ("CE", "CU", "PC", "PQ")
CONFIG = (
    "proj_num_layer",
    "proj_ln",
    "proj_act_fn",
    "proj_dropout",
    "nth_layer",
    "use_weighted_layer_sum",
    "precision",
    "normalize_embed",
    "output_dim",
)
"""What the package reads from "model_cfg"; all of them must be there."""
LAYERS, CONVOLUTIONS = 12, 7
PREFIX = "model."
LISTED = 5


def check(path: Path) -> Shapes:
    """Shapes of the tensors by the package's names.

    Raises RewardError: absent, damaged, or of another layout, saying which names are wrong.
    """
    if path.is_dir():
        weights = path / "model.safetensors"
        if not (path / "config.json").is_file() or not weights.is_file():
            raise RewardError(f"{path} needs config.json and model.safetensors, as huggingface_hub saves a model.")
        shapes, config = read_header(weights).named(), read_json(path / "config.json")
    elif not path.exists():
        raise RewardError(
            f"There is no Audiobox-Aesthetics at {path}; it is published as facebook/audiobox-aesthetics, and as "
            "checkpoint.pt by its authors."
        )
    elif path.suffix == ".safetensors":
        raise RewardError(f"{path} lacks the targets' mean and deviation; name its folder, with config.json in it.")
    else:
        weights, header = path, read_header(path)
        shapes, config = header.named("state_dict"), header.others
        if not shapes:
            found = ", ".join([*header.tensors, *header.others][:LISTED]) or "nothing"
            raise RewardError(f"{path} is no checkpoint of Audiobox-Aesthetics: no tensors in 'state_dict' of {found}.")
        absent = [name for name in CONFIG if name not in (config.get("model_cfg") or {})]
        if absent:
            raise RewardError(f"{path} lacks {', '.join(absent)} in 'model_cfg'.")
        shapes = {name.removeprefix(PREFIX): shape for name, shape in shapes.items()}
    _compare(shapes, weights)
    _targets(config.get("target_transform"), path)
    return shapes


def names() -> set[str]:
    """Names of the tensors that every such model has: the WavLM-base encoder, and four heads on it."""
    both = ("weight", "bias")
    encoder = {"mask_emb", "encoder.pos_conv.0.bias", "encoder.pos_conv.0.weight_g", "encoder.pos_conv.0.weight_v"}
    encoder |= {f"feature_extractor.conv_layers.{i}.0.weight" for i in range(CONVOLUTIONS)}
    modules = ["feature_extractor.conv_layers.0.2", "post_extract_proj", "encoder.layer_norm", "layer_norm"]
    for layer in (f"encoder.layers.{i}." for i in range(LAYERS)):
        inner = ("k_proj", "v_proj", "q_proj", "out_proj", "grep_linear")
        modules += [layer + name for name in ("self_attn_layer_norm", "fc1", "fc2", "final_layer_norm")]
        modules += [f"{layer}self_attn.{name}" for name in inner]
        encoder.add(layer + "self_attn.grep_a")
    encoder.add("encoder.layers.0.self_attn.relative_attention_bias.weight")
    encoder |= {f"{module}.{kind}" for module in modules for kind in both}
    heads = {f"proj_layer.{axis}.0.{kind}" for axis in AXES for kind in both} | {f"layer_weights.{a}" for a in AXES}
    return heads | {f"wavlm_model.{name}" for name in encoder}


def _compare(shapes: Shapes, path: Path) -> None:
    expected = names()
    absent, foreign = expected - shapes.keys(), shapes.keys() - expected
    if absent or foreign:
        told = f"missing {_some(absent)}" if absent else ""
        told += " and " if absent and foreign else ""
        told += f"unknown {_some(foreign)}" if foreign else ""
        raise RewardError(f"{path} does not hold Audiobox-Aesthetics 0.0.4: {told}.")


def _targets(targets: Any, path: Path) -> None:
    for axis in AXES:
        try:
            mean, deviation = float(targets[axis]["mean"]), float(targets[axis]["std"])
        except (TypeError, KeyError, ValueError) as error:
            raise RewardError(f"{path} lacks a mean and std for {axis} in 'target_transform'.") from error
        if not (abs(mean) < 1e6 and 0 < deviation < 1e6):
            raise RewardError(f"{path} has mean {mean} and std {deviation} for {axis}; expected usual numbers.")


def _some(found: Iterable[str]) -> str:
    ordered = sorted(found)
    more = f" and {len(ordered) - LISTED} more" if len(ordered) > LISTED else ""
    return ", ".join(ordered[:LISTED]) + more
