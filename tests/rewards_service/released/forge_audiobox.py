"""Audiobox-Aesthetics with random weights in both published layouts. Run inside its environment: FOLDER [SEED].

The network is the package's own class at its full size. Heads are scaled up so that sounds get different ratings.
"""

import sys
from pathlib import Path

import torch

from rewards_service.cpu_wheels import tolerate

TARGETS = {
    "CE": {"mean": 4.9, "std": 1.3},
    "CU": {"mean": 5.7, "std": 1.6},
    "PC": {"mean": 3.2, "std": 1.1},
    "PQ": {"mean": 6.1, "std": 1.0},
}
CONFIG = {
    "proj_num_layer": 1,
    "proj_ln": False,
    "proj_act_fn": "gelu",
    "proj_dropout": 0,
    "nth_layer": 13,
    "use_weighted_layer_sum": True,
    "precision": "32",
    "normalize_embed": True,
    "output_dim": 1,
}


def forge(folder: Path, seed: int = 0) -> None:
    """Write FOLDER/checkpoint.pt and FOLDER/saved/{config.json, model.safetensors} of the same weights."""
    tolerate()
    from audiobox_aesthetics.model.aes import AesMultiOutput  # pyright: ignore[reportMissingImports]

    torch.manual_seed(seed)
    model = AesMultiOutput(**CONFIG, target_transform=TARGETS)
    with torch.no_grad():
        for head in model.proj_layer.values():
            head[0].weight.mul_(40)
        for weights in model.layer_weights.values():
            weights.normal_()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder / "saved")
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    content = {"state_dict": state, "model_cfg": CONFIG, "target_transform": TARGETS}
    torch.save(content, folder / "checkpoint.pt")


if __name__ == "__main__":
    forge(Path(sys.argv[1]), *map(int, sys.argv[2:]))
