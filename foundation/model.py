"""The flow model: conditioners and DiT under the names of the released state dict."""

import math

import torch
from torch import Tensor, nn

from foundation.conditioners import EmbeddingMLP, MultiConditioner
from foundation.conditions import Conditions
from foundation.config import ModelConfig
from foundation.dit import DiffusionTransformer, Prepared
from settings import Section

# Largest temporary of one evaluation on a CPU. Beyond it activations leave the cache and the allocator gives pages back
# to the system between layers: 96 embedded samples at once cost a fifth more than three times 32.
CPU_BLOCK_BYTES = 6 * 2**20


class Velocity(nn.Module):
    """Holds the DiT one level down, where the released state dict has it."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.model = DiffusionTransformer(config)


class FlowModel(nn.Module):
    """Rectified-flow velocity v = eps - x0 at noise level t (1 = noise, 0 = data), conditioned on a clip.

    `state_dict()` has exactly the keys of the released flat checkpoint without its VAE.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.adapters: Section | None = None  # the `foundation.lora.LoraConfig` of those that were put in
        self.model = Velocity(config)
        self.conditioner = MultiConditioner(config)

    @property
    def dit(self) -> DiffusionTransformer:
        """The part that reinforcement learning trains."""
        return self.model.model

    def trainable(self) -> dict[str, nn.Parameter]:
        """DiT parameters by state-dict name, without the two that no forward pass reads.

        Of a model with adapters (`foundation.lora`) only theirs: `<layer>.lora_A.weight` and `<layer>.lora_B.weight`.
        """
        named = {
            f"model.model.{name}": parameter
            for name, parameter in self.dit.named_parameters()
            if not name.startswith("empty_")
        }
        adapters = {name.replace(".default.", "."): p for name, p in named.items() if ".lora_" in name}
        return adapters or named

    def condition(self, features: Conditions, length: int) -> Conditions:
        """Encoder features (B, T, dim) to conditioners' outputs (B, T, width), sync at `length` latent frames."""
        return self.conditioner(features, length)

    def prepare(
        self,
        conditioned: Conditions,
        length: int,
        cfg_scale: float = 1.0,
        drop: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Prepared:
        """What the DiT needs of `condition`'s outputs for states of `length` frames; differentiable in its parameters.

        cfg_scale: guidance scale s of v = v_null + s (v_cond - v_null); 1 switches guidance off.
        drop: boolean (B,) masks for the cross, add and sync paths, see `training_dropout`.
        """
        return self.dit.prepare(conditioned, length, cfg_scale, drop)

    def velocity(self, x: Tensor, t: Tensor | float, prepared: Prepared) -> Tensor:
        """State (B, C, L) and noise level, a number or (B,), to the velocity (B, C, L)."""
        time = torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1)
        rows = self._rows(x, prepared)
        if rows >= x.shape[0]:
            return self.dit(x, time, prepared)
        parts = []
        for first in range(0, x.shape[0], rows):
            chosen = slice(first, first + rows)
            parts.append(self.dit(x[chosen], time if len(time) == 1 else time[chosen], prepared[chosen]))
        return torch.cat(parts)

    def _rows(self, x: Tensor, prepared: Prepared) -> int:
        """Samples to evaluate at once; fewer than given only on a CPU without gradients, see CPU_BLOCK_BYTES."""
        batch = x.shape[0]
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return batch
        largest = prepared.nfe * (x.shape[2] + 1) * 2 * self.config.ff_mult * self.config.width * x.element_size()
        blocks = math.ceil(batch * largest / CPU_BLOCK_BYTES)
        return math.ceil(batch / blocks)


def training_dropout(
    batch: int, probability: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (B,) of the samples whose cross, add and sync condition is nulled, each drawn on its own.

    For guidance-free pre-training steps, as PrismAudio training drops them (probability 0.1).
    """
    cross, add, sync = torch.rand(3, batch, generator=generator) < probability
    return cross, add, sync


@torch.no_grad()
def initialise_unit_gain(model: FlowModel, generator: torch.Generator | None = None) -> None:
    """Draw every condition path at unit gain and zero what writes to the residual stream.

    Two bias-free MLPs stand in series on each condition path; the default uniform draw shrinks the condition by orders
    of magnitude, and a text is then learned very slowly. Attention and feed-forward outputs and the two 1x1
    convolutions start at zero; project_out keeps its default draw.
    """
    for module in model.modules():
        if isinstance(module, EmbeddingMLP):
            module.draw_unit_gain(generator)
    dit = model.dit
    silent = [dit.preprocess_conv, dit.postprocess_conv]
    for block in dit.transformer.blocks:
        silent += [block.self_attn.to_out, block.cross_attn.to_out, block.ff.output]
    for module in silent:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
