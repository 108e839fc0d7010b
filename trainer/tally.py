"""Running sums of one update, added up over ranks at its end."""

from typing import Any

import torch
from torch import Tensor

from trainer.collective import Collective


class Tally:
    """Counts and sums over the samples, window steps and passes of one iteration.

    mismatch: largest |log ratio| before the first optimiser step.
    """

    def __init__(self, window_size: int):
        self.mismatch = 0.0
        self.optimiser_steps = 0
        self.grad_norm = 0.0
        self.loss = torch.zeros(1, dtype=torch.float64)
        # One row per window step; columns as in `window_step`.
        self.sums = torch.zeros(window_size, 6, dtype=torch.float64)
        self.nfe = torch.zeros(2, dtype=torch.float64)
        self.ratio_max = torch.zeros(1, dtype=torch.float64)

    def window_step(
        self, k: int, delta: Tensor, limited: Tensor, divergence: Tensor, distance: Tensor | None, mask: Tensor
    ) -> None:
        """Add window step k of some samples; all (g, N), mask 1 for the trained ones.

        delta: log-density minus the old one. limited: where the trust region was active. divergence: KL to the policy
        that sampled. distance: to the reference.
        """
        ratio = delta.exp()
        far = torch.zeros_like(mask) if distance is None else distance.detach()
        columns = [torch.ones_like(mask), ratio, limited, far, delta.abs(), divergence]
        self.sums[k] += torch.stack([(column * mask).sum().double() for column in columns]).cpu()
        self.ratio_max = torch.maximum(self.ratio_max, (ratio * mask).max().double().cpu().reshape(1))

    def evaluations(self, trained: int, reference: int) -> None:
        """Add velocity evaluations."""
        self.nfe += torch.tensor([trained, reference], dtype=torch.float64)

    def optimiser_step(self, loss: Tensor, grad_norm: float) -> None:
        """Add one optimiser step: this rank's share of the loss, and the whole gradient's norm before clipping."""
        self.optimiser_steps += 1
        self.loss += loss
        self.grad_norm += grad_norm

    def metrics(self, ranks: Collective) -> dict[str, Any]:
        """Means over all ranks."""
        ranks.sum_([self.sums, self.nfe, self.loss])
        ranks.max_(self.ratio_max)
        count = self.sums[:, 0].clamp(min=1)
        mean = (self.sums.sum(0) / self.sums[:, 0].sum().clamp(min=1)).tolist()
        steps = max(self.optimiser_steps, 1)
        return {
            "loss": self.loss.item() / steps,
            "grad_norm": self.grad_norm / steps,
            "ratio_mean": mean[1] if self.optimiser_steps else 1.0,
            "ratio_max": self.ratio_max.item() if self.optimiser_steps else 1.0,
            "clip_fraction": mean[2],
            "kl": mean[3],
            "delta_log_prob": (self.sums[:, 4] / count).tolist(),
            "policy_kl": (self.sums[:, 5] / count).tolist(),
            "mismatch": self.mismatch,
            "optimiser_steps": self.optimiser_steps,
            "nfe_trained": int(self.nfe[0].item()),
            "nfe_reference": int(self.nfe[1].item()),
        }
