"""Sums and maxima over ranks; a single process needs neither torch.distributed nor Ray."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

# Of init_process_group: NCCL moves device memory only, but small sums and agreements are made on the CPU.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
BUCKET_BYTES = 32 * 2**20


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
    """The processes of the default torch.distributed group, whose backend must serve every device in use (`BACKENDS`).

    Gradients are summed by an explicit all-reduce, as DDP does it, so every rank holds the whole model. Sharding it
    (FSDP2) would save a rank at most 20 bytes a parameter, 10 GB for the released model, which any GPU that can train
    it has to spare, and would put a gather before every pass, export, average and checkpoint.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """One all-reduce per bucket: large tensors in place, small ones copied together and back."""
        for bucket in buckets(tensors, BUCKET_BYTES):
            if len(bucket) == 1 and bucket[0].is_contiguous():
                dist.all_reduce(bucket[0], op=dist.ReduceOp.SUM)
                continue
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat, op=dist.ReduceOp.SUM)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def max_(self, tensor: Tensor) -> None:
        """One all-reduce."""
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)


def buckets(tensors: Sequence[Tensor], limit: int) -> Iterator[list[Tensor]]:
    """Runs of neighbouring tensors of one type on one device, of at most `limit` bytes together or one tensor."""
    run: list[Tensor] = []
    for tensor in tensors:
        alike = run and (tensor.dtype, tensor.device) == (run[0].dtype, run[0].device)
        if run and not (alike and sum(t.nbytes for t in run) + tensor.nbytes <= limit):
            yield run
            run = []
        run.append(tensor)
    if run:
        yield run


def collective() -> Collective:
    """The collective this process is part of."""
    return Ranks() if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else Alone()
