from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.schedule import admissible, choose_prompts, prompts_of, split


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 30), st.integers(0, 5))
def test_each_epoch_shows_every_prompt_once(seed: int, count: int, total: int, epochs: int) -> None:
    iterations = -(-total * (epochs + 1) // count)
    walk = [p for i in range(iterations) for p in choose_prompts(seed, i, count, total)]
    for epoch in range(epochs + 1):
        assert sorted(walk[epoch * total : (epoch + 1) * total]) == list(range(total))


def test_the_choice_depends_on_seed_and_iteration_alone() -> None:
    assert choose_prompts(3, 7, 12, 100) == choose_prompts(3, 7, 12, 100)
    assert choose_prompts(3, 7, 12, 100) != choose_prompts(4, 7, 12, 100)
    assert choose_prompts(3, 7, 12, 100) != choose_prompts(3, 8, 12, 100)


def test_epochs_differ_in_order() -> None:
    assert choose_prompts(0, 0, 50, 50) != choose_prompts(0, 1, 50, 50)


COUNTS = st.integers(1, 6)


@given(st.integers(0, 2**31), st.integers(0, 40), COUNTS, st.integers(1, 30), st.integers(0, 3))
def test_replacements_come_from_outside_the_iteration_and_differ_while_they_can(
    seed: int, iteration: int, count: int, total: int, refills: int
) -> None:
    found = prompts_of(seed, iteration, range(count * (refills + 1)), count, total)
    chosen, others = found[:count], found[count:]
    assert chosen == choose_prompts(seed, iteration, count, total)
    assert all(0 <= prompt < total for prompt in found)
    outside = set(range(total)) - set(chosen)
    if outside:
        assert set(others) <= outside
    assert len(set(others)) == len(others) or len(others) > len(outside)
    for slot in range(count):
        attempts = found[slot::count]
        available = len(outside) + 1 if outside else total
        assert len(set(attempts)) >= min(len(attempts), available)


@given(st.integers(0, 99), st.integers(0, 9), COUNTS, st.integers(1, 20), st.lists(st.integers(0, 17), max_size=8))
def test_a_replacement_does_not_depend_on_the_others(
    seed: int, iteration: int, count: int, total: int, indices: list[int]
) -> None:
    alone = [prompts_of(seed, iteration, [index], count, total)[0] for index in indices]
    assert prompts_of(seed, iteration, indices, count, total) == alone


def test_replacements_differ_between_iterations_and_seeds() -> None:
    found = [tuple(prompts_of(seed, it, range(4, 12), 4, 1000)) for seed, it in ((0, 0), (0, 1), (1, 0))]
    assert len(set(found)) == 3


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 9))
def test_tasks_hold_one_shape_each_and_every_prompt_once(shapes: list[str], per_task: int) -> None:
    tasks = split(shapes, per_task)
    assert sorted(index for task in tasks for index in task) == list(range(len(shapes)))
    for task in tasks:
        assert 1 <= len(task) <= per_task
        assert len({shapes[index] for index in task}) == 1
        assert list(task) == sorted(task)


def test_tasks_of_one_shape_are_of_near_equal_length() -> None:
    sizes = Counter(len(task) for task in split(["a"] * 10, 4))
    assert sizes == {3: 2, 4: 1}


@pytest.mark.parametrize(("iteration", "admitted"), [(4, True), (5, True), (6, True), (7, False)])
def test_an_iteration_may_lead_the_learner_by_the_staleness(iteration: int, admitted: bool) -> None:
    assert admissible(iteration, version=4, max_staleness=2) is admitted
