"""One step of fine-tuning the audio autoencoder against a discriminator.

Losses, weights, optimiser and schedule: Stability-AI/stable-audio-tools, training/autoencoders.py and
configs/model_configs/autoencoders/stable_audio_2_0_vae.json.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from foundation.checkpoint import read_tensors, write_tensors
from foundation.errors import CheckpointError
from foundation.execution import Precision
from foundation.oobleck import Oobleck
from settings import Section
from trainer import discriminator, spectral_loss
from trainer.collective import Alone, Collective
from trainer.discriminator import Discriminator
from trainer.ema import Ema
from trainer.errors import DivergenceError
from trainer.spectral_loss import SpectralLoss
from trainer.timesteps import ema_decay, inverse_lr

Turn = Literal["autoencoder", "discriminator"]
FORMAT = 1


class LossWeights(Section):
    """Weights of the autoencoder's losses: spectra, waveform, distance of the latents from a unit normal, adversary."""

    spectral: NonNegativeFloat = 1.0
    waveform: NonNegativeFloat = 0.0
    kl: NonNegativeFloat = 1e-4
    adversarial: NonNegativeFloat = 0.1
    matching: NonNegativeFloat = 5.0


class AutoencoderConfig(Section):
    """The optimisation; defaults are those of the released autoencoder (batch: of PrismAudio's fine-tuning).

    batch: crops of one step over all ranks. per_pass: most crops in one pass of a rank, to bound memory. frames: latent
    frames of a crop (32 = 1.5 s). lr, discriminator_lr, inv_gamma, power, warmup: see `trainer.timesteps.inverse_lr`.
    adversary_from: step at which the discriminator joins; from then on the two take turns. train_encoder: without it
    latents stay what they are, so that a flow model trained on them still fits. resolutions: FFT sizes of the spectral
    loss; discriminator_resolutions, filters: of the discriminator. grad_clip: largest norm of a gradient (None: any).
    """

    batch: PositiveInt = 144
    per_pass: PositiveInt | None = None
    frames: PositiveInt = 32
    lr: PositiveFloat = 1.5e-4
    discriminator_lr: PositiveFloat = 3e-4
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: NonNegativeFloat = 1e-3
    inv_gamma: PositiveFloat = 2e5
    power: NonNegativeFloat = 0.5
    warmup: float = Field(default=0.999, ge=0, lt=1)
    ema_beta: float = Field(default=0.9999, ge=0, lt=1)
    ema_power: PositiveFloat = 0.75
    grad_clip: PositiveFloat | None = None
    adversary_from: NonNegativeInt = 0
    train_encoder: bool = True
    precision: Precision = "fp32"
    weights: LossWeights = LossWeights()
    resolutions: tuple[PositiveInt, ...] = Field(default=spectral_loss.RESOLUTIONS, min_length=1)
    discriminator_resolutions: tuple[PositiveInt, ...] = Field(default=discriminator.RESOLUTIONS, min_length=1)
    filters: PositiveInt = 64


class AutoencoderLearner:
    """An autoencoder and its discriminator under training. `version` counts finished steps of either."""

    def __init__(self, codec: Oobleck, config: AutoencoderConfig, ranks: Collective | None = None):
        self.codec, self.config = codec, config
        self.ranks: Collective = ranks or Alone()
        self.device = next(codec.parameters()).device
        self.spectral = SpectralLoss(codec.sample_rate, config.resolutions).to(self.device)
        self.discriminator = Discriminator(
            codec.audio_channels, config.filters, config.discriminator_resolutions
        ).to(self.device)  # fmt: skip
        codec.requires_grad_(True)
        codec.encoder.requires_grad_(config.train_encoder)
        self.parameters: dict[Turn, dict[str, nn.Parameter]] = {
            "autoencoder": {n: p for n, p in codec.named_parameters() if p.requires_grad},
            "discriminator": dict(self.discriminator.named_parameters()),
        }
        self.optimisers = {
            turn: torch.optim.AdamW(
                named.values(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, foreach=True
            )
            for turn, named in self.parameters.items()
        }
        self.ema = Ema(self.parameters["autoencoder"], config.ema_beta)
        self.version = 0

    @property
    def turn(self) -> Turn:
        """Who learns at the next step."""
        since = self.version - self.config.adversary_from
        return "discriminator" if since > 0 and since % 2 else "autoencoder"

    def updates(self, turn: Turn) -> int:
        """Steps that a side has made by now."""
        turns = max(0, self.version - self.config.adversary_from) // 2
        return turns if turn == "discriminator" else self.version - turns

    def step(self, sounds: Tensor, noise: Tensor, stop: bool = False) -> dict[str, Any]:
        """Train one side on this rank's crops (b, C, S) with unit noise (b, channels, L) for the latents.

        stop: this rank wants to end; the returned `stop` says how many do. Returns losses as means over all ranks,
        unweighted. Raises DivergenceError when the gradient is not finite (the weights are then those before the step).
        """
        turn = self.turn
        named = self.parameters[turn]
        self.discriminator.requires_grad_(turn == "discriminator")
        for parameter in named.values():
            parameter.grad = torch.zeros_like(parameter)
        rows = self.config.per_pass or len(sounds)
        sums: dict[str, Tensor] = {}
        for real, draw in zip(sounds.split(rows), noise.split(rows), strict=True):
            real, draw = real.to(self.device), draw.to(self.device)
            share = len(real) / self.config.batch
            losses = self._autoencoder(real, draw) if turn == "autoencoder" else self._discriminator(real, draw)
            (losses["loss"] * share).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach() * share
        gradients = [parameter.grad for parameter in named.values() if parameter.grad is not None]
        values = torch.stack([*sums.values(), torch.tensor(float(stop), device=self.device)])
        self.ranks.sum_([*gradients, values])
        lr, norm = self._move(turn)
        self.version += 1
        *means, stops = values.tolist()
        return {"turn": turn, **dict(zip(sums, means, strict=True)), "lr": lr, "grad_norm": norm, "stop": stops}

    @torch.no_grad()
    def validate(self, sounds: Tensor) -> dict[str, float]:
        """Distances of (b, C, S) from what the averaged weights make of them, out of the latents' means."""
        with self.ema.applied(self.parameters["autoencoder"]):
            real = sounds.to(self.device)
            made = self.codec.decode(self.codec.encode(real))
        return {"spectral": self.spectral(made, real).item(), "waveform": (made - real).abs().mean().item()}

    def save(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write everything that training goes on from into one file. Raises CheckpointError."""
        tensors = {f"average/{name}": tensor for name, tensor in self.ema.shadow.items()}
        for turn, named in self.parameters.items():
            tensors |= {f"{turn}/{name}": parameter.detach() for name, parameter in named.items()}
            for name, parameter in named.items():
                for kind, value in self.optimisers[turn].state.get(parameter, {}).items():
                    tensors[f"moments/{turn}/{name}/{kind}"] = torch.as_tensor(value)
        books = {"format": FORMAT, "version": self.version, "ema_steps": self.ema.steps}
        write_tensors(path, tensors, {**metadata, **books})

    def restore(self, path: Path) -> dict[str, Any]:
        """Put this learner where it was when `path` was written; returns the metadata.

        Raises CheckpointError: not such a file, cut short, or of another model or configuration.
        """
        tensors, metadata = read_tensors(path, self.device)
        if metadata.get("format") != FORMAT or "version" not in metadata:
            raise CheckpointError(f"{path} is no checkpoint of an autoencoder's training; expected one of this run.")
        for turn, named in self.parameters.items():
            _copy(named.items(), tensors, f"{turn}/", path)
            moments = {
                index: {
                    kind: tensors[key]
                    for kind in ("step", "exp_avg", "exp_avg_sq")
                    if (key := f"moments/{turn}/{name}/{kind}") in tensors
                }
                for index, name in enumerate(named)
            }
            groups = self.optimisers[turn].state_dict()["param_groups"]
            state = {index: kinds for index, kinds in moments.items() if kinds}
            self.optimisers[turn].load_state_dict({"state": state, "param_groups": groups})
        _copy(self.ema.shadow.items(), tensors, "average/", path)
        self.ema.steps = metadata["ema_steps"]
        self.version = metadata["version"]
        return metadata

    def _autoencoder(self, real: Tensor, noise: Tensor) -> dict[str, Tensor]:
        config, weights = self.config, self.config.weights
        with self._autocast():
            with torch.set_grad_enabled(config.train_encoder):
                mean, deviation = self.codec.posterior(real, frames=None)
            made = self.codec.decode(mean + noise * deviation, frames=None)
        mean, deviation = mean.float(), deviation.float()
        losses = {
            "spectral": self.spectral(made, real),
            "waveform": (made.float() - real).abs().mean(),
            "kl": (mean.square() + deviation.square() - 2 * deviation.log() - 1).sum(1).mean(),
        }
        if self.version >= config.adversary_from:
            with self._autocast():
                losses["adversarial"], losses["matching"] = self.discriminator.autoencoder_losses(real, made)
        total = torch.stack([value * getattr(weights, name) for name, value in losses.items()]).sum()
        return {"loss": total, **losses}

    def _discriminator(self, real: Tensor, noise: Tensor) -> dict[str, Tensor]:
        with self._autocast():
            with torch.no_grad():
                mean, deviation = self.codec.posterior(real, frames=None)
                made = self.codec.decode(mean + noise * deviation, frames=None)
            return {"loss": self.discriminator.own_loss(real, made)}

    def _move(self, turn: Turn) -> tuple[float, float]:
        config, named = self.config, self.parameters[turn]
        norm = torch.nn.utils.clip_grad_norm_(named.values(), config.grad_clip or float("inf"))
        if not torch.isfinite(norm):
            raise DivergenceError(
                f"The {turn}'s gradient at step {self.version} is not finite. Resume from the last checkpoint with a "
                f"lower training.lr (now {config.lr}) or a training.grad_clip."
            )
        peak = config.lr if turn == "autoencoder" else config.discriminator_lr
        lr = inverse_lr(self.updates(turn), peak, config.inv_gamma, config.power, config.warmup)
        for group in self.optimisers[turn].param_groups:
            group["lr"] = lr
        self.optimisers[turn].step()
        if turn == "autoencoder":
            self.ema.decay = ema_decay(self.ema.steps + 1, config.ema_beta, config.ema_power)
            self.ema.update(named)
        return lr, float(norm)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")


@torch.no_grad()
def _copy(targets: Iterable[tuple[str, Tensor]], tensors: Mapping[str, Tensor], prefix: str, path: Path) -> None:
    for name, target in targets:
        found = tensors.get(prefix + name)
        if found is None or found.shape != target.shape:
            came = "nothing" if found is None else tuple(found.shape)
            raise CheckpointError(
                f"{path} does not fit: {prefix}{name} should be {tuple(target.shape)}, found {came}. Resume with the "
                "model and the recipe that the run was started with."
            )
        target.copy_(found)
