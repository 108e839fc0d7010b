"""How trained parameters travel: numpy arrays by name, no wider than what the receiving model reads."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from foundation.model import FlowModel


def export(flow: FlowModel) -> dict[str, np.ndarray]:
    """The trained parameters by name, as views where they live on the CPU in float32.

    Under bf16 the blocks read their linear layers as bfloat16; those are sent as that, bit for bit in int16 arrays
    (numpy has no bfloat16), which halves what travels and what is hashed without changing any result.
    """
    narrow = _narrow(flow)
    return {name: _array(p, id(p) in narrow) for name, p in flow.trainable().items()}


@torch.no_grad()
def load(parameters: Mapping[str, nn.Parameter], arrays: Mapping[str, np.ndarray]) -> None:
    """Copy what `export` made into parameters of the same names and shapes."""
    for name, parameter in parameters.items():
        # numpy views of the object store are read-only, which torch.from_numpy warns about; this copies them.
        tensor = torch.tensor(arrays[name])
        parameter.copy_(tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor)


def _array(parameter: Tensor, narrow: bool) -> np.ndarray:
    held = parameter.detach()
    return (held.bfloat16().view(torch.int16) if narrow else held).cpu().numpy()


def _narrow(flow: FlowModel) -> set[int]:
    """Parameters, by id, that the blocks read only after rounding them to bfloat16."""
    if flow.dit.transformer.precision != "bf16":
        return set()
    linear = [module for module in flow.dit.transformer.layers.modules() if isinstance(module, nn.Linear)]
    return {id(parameter) for module in linear for parameter in module.parameters()}
