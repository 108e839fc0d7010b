"""The order of a training set: complete, repeatable, and of like lengths where asked for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.shuffle import InOrder, Shuffle

counts, batches, seeds = st.integers(1, 70), st.integers(1, 20), st.integers(0, 2**32)


@given(counts, batches, seeds, st.booleans(), st.integers(1, 4))
def test_every_epoch_holds_each_example_once_over_all_ranks(count, batch, seed, alike, world) -> None:
    lengths = np.random.default_rng(seed).integers(1, 9, count).tolist() if alike else None
    ranks = [Shuffle(count, batch, seed, lengths) for _ in range(world)]
    steps = -(-3 * count // batch)
    # What each rank reads of each batch, put back into its place.
    sequence = np.full(steps * batch, -1)
    for step in range(steps):
        for rank, shuffle in enumerate(ranks):
            mine = shuffle.at(step)[rank::world]
            places = np.arange(step * batch, (step + 1) * batch)[rank::world]
            assert (sequence[places] == -1).all()
            sequence[places] = mine
    for epoch in range(3):
        assert sorted(sequence[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first, again, other = Shuffle(50, 8, 1), Shuffle(50, 8, 1), Shuffle(50, 8, 2)
    again.at(40)
    assert [first.at(s).tolist() for s in range(9)] == [again.at(s).tolist() for s in range(9)]
    assert first.epoch(0).tolist() != other.epoch(0).tolist()
    assert first.epoch(0).tolist() != first.epoch(1).tolist()


def test_texts_of_like_length_come_together() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 1001)
    plain, alike = Shuffle(1001, 16, 0), Shuffle(1001, 16, 0, lengths.tolist())

    def padding(shuffle: Shuffle) -> float:
        taken = [lengths[shuffle.at(step)] for step in range(5 * 1001 // 16)]
        return float(np.mean([batch.max() * len(batch) - batch.sum() for batch in taken]))

    assert padding(alike) < 0.15 * padding(plain)
    means = [lengths[alike.at(step)].mean() for step in range(20)]
    assert means != sorted(means)


def test_in_order_ends_with_what_is_left() -> None:
    order = InOrder(7, 3)
    assert [order.at(step).tolist() for step in range(order.batches)] == [[0, 1, 2], [3, 4, 5], [6]]
