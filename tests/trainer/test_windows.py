"""Where the stochastic window lies: pure functions of seed, iteration and checkpointed state."""

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainer.config import AlgorithmConfig
from trainer.errors import ObjectiveError
from trainer.fast_grpo import window_start
from trainer.starts import EXPLORE, WindowPolicy
from trainer.windows import SpreadHistory, observe, window

POLICIES: tuple[WindowPolicy, ...] = ("uniform", "stratified", "fixed", "progressive", "proportional")
seeds, iterations = st.integers(0, 2**31), st.integers(0, 10**6)
spreads = st.dictionaries(st.integers(0, 30), st.floats(0, 10) | st.just(float("nan")), max_size=8)


@pytest.mark.parametrize("policy", POLICIES)
@given(
    seed=seeds,
    iteration=iterations,
    lo=st.integers(0, 5),
    more=st.integers(0, 5),
    width=st.integers(1, 4),
    beyond=st.integers(0, 3),
    period=st.integers(1, 9),
    state=st.none() | spreads,
)
def test_a_start_lies_in_its_range_and_repeats(policy, seed, iteration, lo, more, width, beyond, period, state):
    steps = lo + more + width + beyond
    arguments = seed, iteration, steps, width, policy, state, lo, lo + more, period
    start = window_start(*arguments)
    assert lo <= start <= lo + more
    assert start == window_start(*arguments)
    # Without a last start given, it is the last one at which the window fits.
    assert 0 <= window_start(seed, iteration, steps, width, policy, state) <= steps - width


@given(seed=seeds, cycle=st.integers(0, 1000), lo=st.integers(0, 4), count=st.integers(1, 12))
def test_stratified_visits_every_start_once_per_cycle(seed, cycle, lo, count):
    visited = [
        window_start(seed, cycle * count + k, lo + count, 1, "stratified", lo=lo, hi=lo + count - 1)
        for k in range(count)
    ]
    assert sorted(visited) == list(range(lo, lo + count))


def test_stratified_cycles_are_ordered_anew():
    cycles = {tuple(window_start(3, 8 * cycle + k, 8, 1, "stratified") for k in range(8)) for cycle in range(50)}
    assert len(cycles) > 45
    # A cycle begins with any start equally often: 500 cycles, 62.5 each, five standard deviations of 7.4.
    first = Counter(window_start(3, 8 * cycle, 8, 1, "stratified") for cycle in range(500))
    assert all(abs(first[start] - 62.5) < 37 for start in range(8))


@given(iteration=iterations, period=st.integers(1, 50), lo=st.integers(0, 4), count=st.integers(1, 8))
def test_progressive_moves_on_by_one_every_period_and_round_again(iteration, period, lo, count):
    def at(when: int) -> int:
        return window_start(0, when, lo + count, 1, "progressive", lo=lo, hi=lo + count - 1, period=period)

    assert at(0) == at(period - 1) == lo
    assert at(iteration - iteration % period) == at(iteration)
    assert at(iteration + period) - lo == (at(iteration) - lo + 1) % count


@given(seed=seeds, iteration=iterations, lo=st.integers(0, 9))
def test_fixed_never_moves(seed, iteration, lo):
    assert window_start(seed, iteration, 10, 1, "fixed", lo=lo) == lo


def shares(state: dict[int, float] | list[float] | None, count: int, draws: int = 4000) -> list[float]:
    found = Counter(window_start(0, k, count, 1, "proportional", state) for k in range(draws))
    return [found[start] / draws for start in range(count)]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({0: 1.0, 1: 3.0, 2: 0.0, 3: 4.0}, [1, 3, 0, 4]),
        ([1.0, 3.0, 0.0, 4.0], [1, 3, 0, 4]),
        # Not measured yet: as wide as the widest.
        ({0: 1.0, 2: 3.0}, [1, 3, 3, 3]),
        ({0: 1.0, 1: float("nan"), 2: 3.0, 3: 0.5}, [1, 3, 3, 0.5]),
        ([0.5, 2.0], [0.5, 2, 2, 2]),
        # Nothing known, or nothing that spreads.
        (None, [1, 1, 1, 1]),
        ({}, [1, 1, 1, 1]),
        (dict.fromkeys(range(4), 0.0), [1, 1, 1, 1]),
        # Starts outside the range do not count.
        ({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 99.0}, [1, 1, 1, 1]),
    ],
)
def test_proportional_follows_the_spreads_above_a_floor(state, expected):
    assert EXPLORE == 0.2
    total = sum(expected)
    for found, weight in zip(shares(state, 4), expected, strict=True):
        # 4000 draws: five standard deviations of a share are at most 0.04.
        assert found == pytest.approx(0.8 * weight / total + 0.05, abs=0.04)
    assert min(shares(state, 4)) > 0.03


@given(seed=seeds, iteration=iterations, count=st.integers(1, 12), spread=st.floats(0.01, 10))
def test_equal_spreads_draw_as_uniform_does(seed, iteration, count, spread):
    for k in range(iteration, iteration + 5):
        even = window_start(seed, k, count, 1, "proportional", [spread] * count)
        assert even == window_start(seed, k, count, 1, "uniform")


def test_uniform_starts_are_uniform():
    config = AlgorithmConfig(preset="paper")
    counts = Counter(window(0, iteration, config).start for iteration in range(23 * 200))
    assert set(counts) == set(range(23))
    # 200 expected in each of 23 bins; five standard deviations of a binomial.
    assert all(abs(count - 200) < 5 * 14.2 for count in counts.values())


@pytest.mark.parametrize(
    ("policy", "starts"),
    [
        ("uniform", [2, 6, 4, 13, 19, 9]),
        ("stratified", [12, 3, 10, 4, 13, 6]),
        ("fixed", [0, 0, 0, 0, 0, 0]),
        ("progressive", [0, 0, 1, 1, 2, 2]),
        ("proportional", [2, 7, 4, 14, 19, 10]),
    ],
)
def test_draws_are_pinned(policy, starts):
    """A changed rule would break every resume."""
    found = [window_start(1, k, 24, 2, policy, {0: 1.0, 5: 0.1, 20: 3.0}, period=2) for k in range(6)]
    assert found == starts


def test_a_recipe_sets_the_window():
    config = AlgorithmConfig(steps=10, window_size=3, window_policy="progressive", window_lo=2, window_hi=4)
    assert [window(0, k * config.window_period, config).start for k in range(4)] == [2, 3, 4, 2]
    assert list(window(0, 0, config).steps) == [2, 3, 4]
    whole = window(0, 7, AlgorithmConfig(preset="full_sde"))
    assert (whole.start, whole.size) == (0, 16)
    followed = AlgorithmConfig(window_policy="proportional", window_hi=1)
    assert {window(0, k, followed, {0: 1.0, 1: 0.0}).start for k in range(60)} == {0, 1}
    assert sum(window(0, k, followed, {0: 1.0, 1: 0.0}).start for k in range(60)) < 20


@pytest.mark.parametrize(
    ("steps", "width", "lo", "hi"), [(4, 5, 0, None), (4, 2, 3, None), (4, 2, 2, 1), (4, 2, 0, 3), (4, 1, -1, 2)]
)
def test_a_range_without_a_start_is_refused(steps, width, lo, hi):
    with pytest.raises(ObjectiveError, match=f"do not fit a grid of {steps} steps"):
        window_start(0, 0, steps, width, "uniform", lo=lo, hi=hi)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ObjectiveError, match="Unknown window policy 'often'"):
        window_start(0, 0, 4, 1, "often")  # pyright: ignore[reportArgumentType]


def test_running_means_by_hand():
    once = observe({}, 3, 0.4)
    assert once == {3: 0.4}
    twice = observe(once, 3, 0.6)
    assert twice == pytest.approx({3: 0.9 * 0.4 + 0.1 * 0.6})
    assert observe(twice, 1, 0.2) == pytest.approx({**twice, 1: 0.2})
    assert observe(twice, 1, float("nan")) == twice
    assert once == {3: 0.4}


@given(lag=st.integers(0, 4), versions=st.integers(0, 12))
def test_a_history_answers_what_can_still_be_asked_and_no_more(lag, versions):
    """Coordinator and learner meet the same state, whichever of the iterations in flight is asked for."""
    history = SpreadHistory(lag)
    for version in range(1, versions + 1):
        history.put(version, {0: float(version)})
    for iteration in range(versions, versions + lag + 1):
        version = max(0, iteration - lag)
        assert history.at(iteration) == ({0: float(version)} if version else {})
    assert sorted(history.states) == list(range(max(0, versions - lag), versions + 1))
    restored = SpreadHistory(lag, history.states)
    assert restored.states == history.states
    with pytest.raises(ObjectiveError, match=f"version {versions + 1}, but only"):
        history.at(versions + lag + 1)


@given(lag=st.integers(0, 3), behind=st.integers(1, 5))
def test_forgotten_versions_are_an_error(lag, behind):
    history = SpreadHistory(lag)
    for version in range(1, 11):
        history.put(version, {0: float(version)})
    assume(10 - behind - lag >= 0)
    with pytest.raises(ObjectiveError, match="out of step"):
        history.at(10 - behind)


def test_a_history_keeps_no_reference_to_what_it_was_given():
    state = {0: 1.0}
    history = SpreadHistory(0, {4: state})
    history.put(5, state)
    state[0] = 2.0
    assert history.states == {5: {0: 1.0}}
    assert SpreadHistory(1, {4: {0: 1.0}}).at(5) == {0: 1.0}
