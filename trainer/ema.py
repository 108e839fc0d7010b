"""Exponential moving average of the trained parameters."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Average of named parameters, updated after every `every`-th optimiser step.

    decay: weight of the old average. warmup: start with min(decay, (1 + s) / (10 + s)) at step s, as
    FunAudioLLM/ThinkSound:grpo/fast_grpo/ema.py does (there with every = 8).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float, every: int = 1, warmup: bool = False):
        self.decay = decay
        self.every = every
        self.warmup = warmup
        self.steps = 0
        self.shadow = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Count one optimiser step and, when due, move the average towards `parameters`."""
        step, self.steps = self.steps, self.steps + 1
        if self.steps % self.every:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        current = [parameters[name].detach() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), current, 1 - decay)

    @contextmanager
    def applied(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Inside the block the parameters hold the average; afterwards exactly what they held before."""
        held = {name: parameters[name].detach().clone() for name in self.shadow}
        self._write(parameters, self.shadow)
        try:
            yield
        finally:
            self._write(parameters, held)

    @torch.no_grad()
    def load(self, shadow: Mapping[str, Tensor], steps: int) -> None:
        """Continue from a stored average and its count of optimiser steps."""
        for name, value in self.shadow.items():
            value.copy_(shadow[name])
        self.steps = steps

    @torch.no_grad()
    def _write(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            parameters[name].copy_(value)
