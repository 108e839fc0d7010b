"""Sums over processes, bucket by bucket."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st

from trainer import collective
from trainer.collective import BACKENDS, Ranks, buckets

WORLD = 2
SHAPES = ((3, 5), (40,), (2, 2), (1,), (64, 64), ())


def tensors(rank: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    found = [torch.randn(shape, generator=generator) for shape in SHAPES]
    # Not contiguous, and of another type in between.
    return [*found[:2], found[2].double(), torch.randn(6, 4, generator=generator).T, *found[3:]]


def work(rank: int, store: str) -> None:
    dist.init_process_group(BACKENDS["cpu"], init_method=f"file://{store}", rank=rank, world_size=WORLD)
    ranks = Ranks()
    assert (ranks.rank, ranks.world) == (rank, WORLD)
    expected = [a + b for a, b in zip(tensors(0), tensors(1), strict=True)]
    for limit in (1, 200, 2**20):
        collective.BUCKET_BYTES = limit
        mine = tensors(rank)
        ranks.sum_(mine)
        assert all(torch.equal(a, b) for a, b in zip(mine, expected, strict=True)), limit
    largest = torch.tensor([float(rank), -float(rank)])
    ranks.max_(largest)
    assert largest.tolist() == [1.0, 0.0]
    dist.destroy_process_group()


def test_sums_and_maxima_over_processes(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path / "store"),), nprocs=WORLD)  # type: ignore[attr-defined]


@given(sizes=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12), limit=st.integers(1, 64))
def test_buckets_hold_every_tensor_once_in_order(sizes: list[tuple[int, bool]], limit: int) -> None:
    given_tensors = [torch.zeros(size, dtype=torch.float64 if wide else torch.float32) for size, wide in sizes]
    found = list(buckets(given_tensors, limit))
    assert [id(t) for run in found for t in run] == [id(t) for t in given_tensors]
    assert all(len({t.dtype for t in run}) == 1 for run in found)
    assert all(len(run) == 1 or sum(t.nbytes for t in run) <= limit for run in found)
