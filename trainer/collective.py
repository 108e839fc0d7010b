"""Sums and maxima over ranks; a single process needs neither torch.distributed nor Ray."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Collective(Protocol):
    """Ranks that train one model on shards of one batch. rank: this one's. world: how many."""

    rank: int
    world: int

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over ranks, in place."""
        ...

    def max_(self, tensor: Tensor) -> None:
        """Replace a tensor by its elementwise maximum over ranks, in place."""
        ...


class Alone:
    """One process: nothing to combine."""

    rank = 0
    world = 1

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Nothing to add."""

    def max_(self, tensor: Tensor) -> None:
        """Nothing to compare."""


class Ranks:
    """The processes of the default torch.distributed group."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        # NCCL moves device memory only.
        self._device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """One all-reduce over all tensors laid end to end."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(self._device)
        dist.all_reduce(flat, op=dist.ReduceOp.SUM)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def max_(self, tensor: Tensor) -> None:
        """One all-reduce."""
        moved = tensor.to(self._device)
        dist.all_reduce(moved, op=dist.ReduceOp.MAX)
        tensor.copy_(moved)


def collective() -> Collective:
    """The collective this process is part of."""
    return Ranks() if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else Alone()
