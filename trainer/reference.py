"""The model that a KL distance is measured to: the policy as training found it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from foundation.lora import adapted, disabled
from foundation.model import FlowModel

Place = Literal["device", "offload"]


class Reference:
    """The base of a policy with adapters, which costs nothing, or else a copy of the policy as it is now.

    place: whether that copy stays on the policy's device or spends its time on the CPU.
    """

    def __init__(self, policy: FlowModel, place: Place = "device"):
        self.shared = adapted(policy)
        self.model = policy if self.shared else copy.deepcopy(policy)
        self._device = next(policy.parameters()).device
        self._home = torch.device("cpu") if place == "offload" and not self.shared else self._device
        self.model.to(self._home)

    @contextmanager
    def ready(self) -> Iterator[FlowModel]:
        """Inside the block the model is on the device and computes what it did at the start."""
        if self.shared:
            with disabled(self.model):
                yield self.model
            return
        self.model.to(self._device)
        try:
            yield self.model
        finally:
            self.model.to(self._home)
