from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.schedule import admissible, choose_prompts, split


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
