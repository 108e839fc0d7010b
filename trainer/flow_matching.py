"""One step of supervised flow matching (PrismAudio section 3: rectified flow): objective, optimiser and average."""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from foundation.checkpoint import checksum
from foundation.lora import adapted
from foundation.model import FlowModel
from settings import Section
from trainer.collective import Alone, Collective
from trainer.ema import Ema
from trainer.errors import DivergenceError
from trainer.feature_batches import Batch, Pass
from trainer.timesteps import Sampler, ema_decay, inverse_lr


class FlowMatchingConfig(Section):
    """The optimisation; defaults are those of PrismAudio's pre-training.

    batch: examples of one step over all ranks. per_pass: most examples in one forward and backward pass of a rank, to
    bound memory; the gradient is the sum over passes. lr, inv_gamma, power, warmup: see `trainer.timesteps.inverse_lr`.
    grad_clip: largest norm of the gradient. ema_beta, ema_power: see `trainer.timesteps.ema_decay`.
    condition_dropout: chance that an example's cross, add or sync path is nulled, each on its own. conditioners: train
    them along with the DiT; a model with adapters trains those alone.
    """

    batch: PositiveInt = 256
    per_pass: PositiveInt | None = None
    lr: PositiveFloat = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 1e-3
    inv_gamma: PositiveFloat = 1e5
    power: NonNegativeFloat = 0.5
    warmup: float = Field(default=0.99, ge=0, lt=1)
    grad_clip: PositiveFloat = 1.0
    ema_beta: float = Field(default=0.9999, ge=0, lt=1)
    ema_power: PositiveFloat = 0.75
    condition_dropout: float = Field(default=0.1, ge=0, lt=1)
    timesteps: Sampler = "trunc_logit_normal"
    conditioners: bool = True


class FlowMatching:
    """A model under supervised training. `version` counts finished steps.

    The averaged weights include the conditioners (the original averages the DiT alone and exports it with the
    conditioners' last weights).
    """

    def __init__(self, model: FlowModel, config: FlowMatchingConfig, ranks: Collective | None = None):
        self.model = model.eval().requires_grad_(False)
        self.config = config
        self.ranks: Collective = ranks or Alone()
        self.parameters = trained(model, config.conditioners)
        self.device = next(iter(self.parameters.values())).device
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = torch.zeros_like(parameter)
        self.optimiser: torch.optim.Optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            foreach=True,
        )
        self.ema = Ema(self.parameters, config.ema_beta)
        self.checksums: dict[int, str] = {}
        self.version = 0

    def export(self) -> dict[str, np.ndarray]:
        """The trained parameters by state-dict name."""
        return {name: parameter.detach().cpu().numpy() for name, parameter in self.parameters.items()}

    def at_version(self, version: int) -> None:
        """Declare the current parameters to be `version` and take their checksum."""
        self.version = version
        self.checksums = {version: checksum(self.export())}

    def step(self, batch: Batch, stop: bool = False) -> dict[str, float]:
        """Train on this rank's share of one batch and advance the version; returns sums and norms over all ranks.

        The gradient is that of the mean loss over the examples that could be read; without any, nothing moves. stop:
        this rank wants to end; the returned `stop` says how many do. Raises DivergenceError when the gradient is not
        finite (the parameters are then still those before the step).
        """
        config = self.config
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        torch._foreach_zero_(gradients)
        total = torch.zeros((), device=self.device)
        for part in batch.passes:
            losses = flow_matching_loss(self.model, part.to(self.device))
            (losses.sum() / config.batch).backward()
            total += losses.detach().sum()
        sums = torch.stack([total, *torch.tensor([len(batch), len(batch.skipped), stop]).to(total)])
        self.ranks.sum_([*gradients, sums])
        loss, count, skipped, stops = sums.tolist()
        lr = inverse_lr(self.version, config.lr, config.inv_gamma, config.power, config.warmup)
        norm = 0.0
        if count:
            torch._foreach_mul_(gradients, config.batch / count)
            norm = self._move(lr)
        self.version += 1
        mean = loss / count if count else float("nan")
        return {"loss": mean, "examples": count, "skipped": skipped, "stop": stops, "lr": lr, "grad_norm": norm}

    def _move(self, lr: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip)
        if not torch.isfinite(norm):
            raise DivergenceError(
                f"The gradient of step {self.version} is not finite. Resume from the last checkpoint with a lower "
                f"training.lr (now {self.config.lr}) or training.grad_clip."
            )
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        self.ema.decay = ema_decay(self.ema.steps + 1, self.config.ema_beta, self.config.ema_power)
        self.ema.update(self.parameters)
        return float(norm)


def trained(flow: FlowModel, conditioners: bool) -> dict[str, nn.Parameter]:
    """What supervised training moves, by state-dict name: everything that a forward pass reads, or the adapters."""
    if adapted(flow) or not conditioners:
        return flow.trainable()
    own = {f"conditioner.{name}": p for name, p in flow.conditioner.named_parameters() if ".proj_out." not in name}
    return {**flow.trainable(), **own}


def flow_matching_loss(flow: FlowModel, part: Pass, level: float | None = None) -> Tensor:
    """Mean squared error (b,) of the velocity at x_t = (1 - t) x0 + t eps, whose target is eps - x0.

    level: one noise level for all examples, with every condition that there is, instead of what was drawn for them.
    """
    x0, noise, times, drop = part.latents, part.noise, part.times, part.drop
    if level is not None:
        times, drop = torch.full_like(times, level), (torch.zeros_like(part.unseen), part.unseen, part.unseen)
    length = x0.shape[-1]
    prepared = flow.prepare(flow.condition(part.features, length), length, drop=drop)
    velocity = flow.velocity(torch.lerp(x0, noise, times[:, None, None]), times, prepared)
    return (velocity.float() - (noise - x0)).square().mean(dim=(1, 2))


@torch.no_grad()
def validation_sums(flow: FlowModel, parts: Sequence[Pass], levels: Sequence[float]) -> Tensor:
    """Sums of the loss over examples at each level, then their number: (levels + 1,) float64."""
    sums = torch.zeros(len(levels) + 1, dtype=torch.float64)
    for part in parts:
        sums[:-1] += torch.stack([flow_matching_loss(flow, part, level).sum() for level in levels]).double().cpu()
        sums[-1] += len(part)
    return sums
