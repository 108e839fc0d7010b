from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.config import AlgorithmConfig
from trainer.windows import window


def test_the_paper_preset_is_the_paper():
    paper = AlgorithmConfig(preset="paper")
    assert (paper.group_size, paper.steps, paper.window_size) == (16, 24, 2)
    assert (paper.window_lo, paper.last_start) == (0, 22)
    assert (paper.advantage, paper.std) == ("sum", "group")
    assert (paper.tail, paper.tail_steps, paper.transition, paper.noise_level) == ("euler", None, "flow_sde", 0.7)
    assert (paper.clip_range, paper.kl_beta, paper.epochs) == (1e-4, 0.04, 1)


def test_the_fast_preset_is_the_recommendation():
    fast = AlgorithmConfig()
    assert (fast.group_size, fast.prompts, fast.steps, fast.window_size) == (8, 12, 16, 1)
    assert (fast.window_lo, fast.last_start, fast.tail, fast.tail_steps) == (0, 3, "ab2", 4)
    assert (fast.advantage, fast.std, fast.std_eps, fast.clip_range, fast.kl_beta) == ("gdpo", "group", 1e-3, 1e-3, 0)


def test_a_recipe_overrides_its_preset_and_a_resolved_recipe_reads_back():
    changed = AlgorithmConfig(preset="paper", group_size=4, window_hi=6)
    assert (changed.group_size, changed.last_start, changed.steps) == (4, 6, 24)
    assert AlgorithmConfig.model_validate(changed.model_dump()) == changed


@pytest.mark.parametrize(
    "bad",
    [
        {"preset": "papr"},
        {"window_hi": 16},
        {"window_lo": 3, "window_hi": 2},
        {"steps": 4, "window_size": 5, "window_hi": None},
        {"transition": "cps", "window_hi": None},
        {"minibatches": 13},
        {"group_size": 1},
        {"clip": 1e-3},
    ],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        AlgorithmConfig.model_validate(bad)


@given(seed=st.integers(0, 2**31), iteration=st.integers(0, 10**6), lo=st.integers(0, 5), more=st.integers(0, 5))
def test_a_window_lies_in_its_range_and_repeats(seed, iteration, lo, more):
    config = AlgorithmConfig(window_lo=lo, window_hi=lo + more, window_size=2)
    drawn = window(seed, iteration, config)
    assert lo <= drawn.start <= lo + more
    assert list(drawn.steps) == [drawn.start, drawn.start + 1]
    assert drawn == window(seed, iteration, config)


def test_starts_are_uniform_and_pinned():
    config = AlgorithmConfig(preset="paper")
    counts = Counter(window(0, iteration, config).start for iteration in range(23 * 200))
    assert set(counts) == set(range(23))
    # 200 expected in each of 23 bins; five standard deviations of a binomial.
    assert all(abs(count - 200) < 5 * 14.2 for count in counts.values())
    # A changed rule would break every resume, so a few draws are pinned.
    assert [window(1, iteration, config).start for iteration in range(6)] == [20, 8, 1, 4, 17, 9]
