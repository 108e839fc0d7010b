"""Low-rank adapters of the DiT (arXiv 2106.09685), put in by peft; whole models keep the released names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from foundation.checkpoint import load_state
from foundation.errors import CheckpointError
from foundation.model import FlowModel
from settings import Section

Target = Literal[
    "self_attn.to_qkv",
    "self_attn.to_out",
    "cross_attn.to_q",
    "cross_attn.to_kv",
    "cross_attn.to_out",
    "ff.in",
    "ff.out",
]
TARGETS: dict[Target, str] = {
    "self_attn.to_qkv": "self_attn.to_qkv",
    "self_attn.to_out": "self_attn.to_out",
    "cross_attn.to_q": "cross_attn.to_q",
    "cross_attn.to_kv": "cross_attn.to_kv",
    "cross_attn.to_out": "cross_attn.to_out",
    "ff.in": "ff.ff.0.proj",
    "ff.out": "ff.ff.2",
}
ADAPTER = "default"


class LoraConfig(Section):
    """Adapters W + (alpha / rank) B A on linear layers of every block.

    rank: of the product. alpha: its scale times the rank. targets: which layers; the two ff ones are the feed-forward's
    projections in and out. seed: of the draw of A; B starts at zero, so that a model with new adapters is the base.
    """

    rank: PositiveInt = 32
    alpha: PositiveFloat = 64.0
    targets: tuple[Target, ...] = Field(default=tuple(TARGETS), min_length=1)
    seed: int = 0


def inject(flow: FlowModel, config: LoraConfig) -> FlowModel:
    """Put adapters into a flow model, in place; `flow.trainable()` is then only theirs. Returns the model.

    Two models with one config hold the same adapters. The layers that get one hide their weight behind `base_layer` in
    `state_dict()`; `base` and `merged` give the released names. Raises CheckpointError for a model that has adapters.
    """
    import peft  # four seconds, and needed by nobody who trains whole models

    if adapted(flow):
        raise CheckpointError("The flow model has adapters already; merge them before new ones are put in.")
    options: Any = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": 0.0, "bias": "none"}
    layers = [TARGETS[target] for target in config.targets]
    with torch.random.fork_rng(devices=[]):
        peft.inject_adapter_in_model(peft.LoraConfig(target_modules=layers, **options), flow.dit, ADAPTER)
    generator = torch.Generator().manual_seed(config.seed)
    for layer in _layers(flow).values():
        drawn = torch.empty(layer.lora_A[ADAPTER].weight.shape)
        nn.init.kaiming_uniform_(drawn, a=5**0.5, generator=generator)
        with torch.no_grad():
            layer.lora_A[ADAPTER].weight.copy_(drawn)
            layer.lora_B[ADAPTER].weight.zero_()
    flow.adapters = config
    return flow


def adapted(flow: FlowModel) -> bool:
    """Whether a model has adapters."""
    return flow.adapters is not None


def base(flow: FlowModel) -> dict[str, Tensor]:
    """The state dict without the adapters, under the released names; tensors are the model's own."""
    return {name.replace(".base_layer.", "."): t for name, t in flow.state_dict().items() if ".lora_" not in name}


@torch.no_grad()
def merged(flow: FlowModel) -> dict[str, Tensor]:
    """The state dict with the adapters' products added in, under the released names; works without adapters too.

    Only what an adapter changes is a copy.
    """
    state = base(flow)
    for name, layer in _layers(flow).items():
        state[f"{name}.weight"] = layer.get_base_layer().weight + layer.get_delta_weight(ADAPTER)
    return state


def whole(flow: FlowModel) -> FlowModel:
    """A model without adapters that computes what this one does; shares the tensors that no adapter changes."""
    with torch.device("meta"):
        model = FlowModel(flow.config)
    load_state(model, merged(flow), source="The model with its adapters", assign=True)
    return model.eval()


@contextmanager
def disabled(flow: FlowModel) -> Iterator[FlowModel]:
    """Inside the block the model is its base: the reference of a KL distance, without a second copy of it."""
    layers = _layers(flow).values()
    trained = {parameter: parameter.requires_grad for parameter in flow.parameters()}
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield flow
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        # peft's switch also decides who gets gradients.
        for parameter, flag in trained.items():
            parameter.requires_grad_(flag)


def _layers(flow: FlowModel) -> dict[str, Any]:
    """peft's layers by the released name of the linear layer they stand for."""
    return {name: module for name, module in flow.named_modules() if hasattr(module, "lora_A")}
