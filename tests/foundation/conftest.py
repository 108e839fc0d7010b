"""The golden models, their inputs, and a small embedded model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foundation.conditions import Conditions
from foundation.config import ModelConfig
from foundation.model import FlowModel, initialise_unit_gain

FIXTURES = Path(__file__).parent / "fixtures"


def read_json(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text())


def read_tensors(name: str) -> dict[str, Tensor]:
    return {key: tensor.float() for key, tensor in load_file(FIXTURES / name).items()}


def stack_items(tensors: dict[str, Tensor], items: list[int], video: int | None = None, sync: int | None = None):
    """Features of items as a batch; shorter texts are padded with zeros, as the original does."""

    def one(name: str, length: int | None) -> Tensor:
        return pad_sequence([tensors[f"item{i}.{name}_features"][:length] for i in items], batch_first=True)

    return Conditions(one("video", video), one("text", None), one("sync", sync))


@pytest.fixture(scope="session")
def golden_model() -> Callable[[str], FlowModel]:
    """The golden model of a name, freshly loaded with strict keys."""
    sizes = {"a": {"depth": 2, "heads": 2}, "b": {"depth": 1, "heads": 1}}

    def make(name: str) -> FlowModel:
        config = ModelConfig(latent_channels=64, video_dim=1024, text_dim=1024, sync_dim=768, **sizes[name])
        model = FlowModel(config)
        model.load_state_dict(read_tensors(f"dit_{name}_weights.safetensors"), strict=True)
        return model

    return make


@pytest.fixture
def small_model() -> FlowModel:
    """The embedded model with nothing left at zero, so that every path shows."""
    torch.manual_seed(0)
    model = FlowModel(ModelConfig())
    initialise_unit_gain(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model.eval()


def random_conditions(batch: int, seed: int = 0) -> Conditions:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"video": 8, "text": 16, "sync": 64}
    return Conditions(**{name: torch.randn(batch, tokens, 64, generator=generator) for name, tokens in sizes.items()})
