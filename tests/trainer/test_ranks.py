"""Several learners on shares of one batch train as one does on the whole."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.builders import WEIGHTS, algorithm, sample_groups, tiny_model
from trainer.batch import IterationBatch
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.update import Learner


def learner(config: AlgorithmConfig, **changes) -> Learner:
    return Learner(tiny_model(), config, OptimiserConfig(lr=1e-3), WEIGHTS, **changes)


class Threads:
    """Ranks that are threads of this process."""

    def __init__(self, world: int):
        self.world = world
        self.barrier = threading.Barrier(world, timeout=30)
        self.slots: list = [None] * world

    def at(self, rank: int) -> "ThreadRank":
        return ThreadRank(self, rank)


class ThreadRank:
    def __init__(self, together: Threads, rank: int):
        self.together, self.rank, self.world = together, rank, together.world

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        for tensor, parts in zip(tensors, zip(*self._exchange(tensors), strict=True), strict=True):
            tensor.copy_(torch.stack(parts).sum(0))
        self.together.barrier.wait()

    def max_(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack([parts[0] for parts in self._exchange([tensor])]).amax(0))
        self.together.barrier.wait()

    def _exchange(self, tensors: Sequence[Tensor]) -> list:
        self.together.slots[self.rank] = [tensor.clone() for tensor in tensors]
        self.together.barrier.wait()
        return list(self.together.slots)


@pytest.mark.parametrize("prompts", [4, 3, 1])
def test_ranks_train_as_one(prompts):
    """Uneven shares, and a rank without any group."""
    config = algorithm(prompts=prompts, window_size=2, minibatches=min(2, prompts))
    alone = learner(config)
    groups = sample_groups(alone.model, config, 0, 0)
    groups[0].rewards["spatial"][1] = np.nan
    everyone = {group.id: group.rewards for group in groups}
    together = Threads(2)
    ranks = [learner(config, ranks=together.at(rank)) for rank in range(2)]
    results: list[dict] = [{}, {}]

    def work(rank: int) -> None:
        results[rank] = ranks[rank].update(IterationBatch.of(0, groups[rank::2], everyone))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = alone.update(IterationBatch.of(0, groups))
    assert ranks[0].checksums[1] == ranks[1].checksums[1]
    assert results[0] == results[1]
    for key, value in expected.items():
        assert results[0][key] == pytest.approx(value, rel=1e-3, abs=1e-6), key
    for name, parameter in alone.parameters.items():
        torch.testing.assert_close(ranks[0].parameters[name], parameter, atol=2e-5, rtol=0)
