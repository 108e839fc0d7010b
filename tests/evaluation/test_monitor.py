"""The alarm rule: numbers by hand, laws for any history, and how often it is wrong on simulated runs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.monitor import ALPHA, MIN_SCENES, Evaluation, alarms, all_alarms, estimates
from settings import PrismError

RUNS, EVALUATIONS, SCENES = 200, 7, 64


def evaluation(version: int, trained: np.ndarray, watched: np.ndarray, name: str = "semantic") -> Evaluation:
    clips = tuple(f"clip-{i}" for i in range(len(trained)))
    return Evaluation(version, clips, {name: np.array(trained)}, {name: np.array(watched)})


def history(rewards: np.ndarray, watchers: np.ndarray) -> list[Evaluation]:
    """(T, B) columns to T evaluations."""
    return [evaluation(25 * k, r, w) for k, (r, w) in enumerate(zip(rewards, watchers, strict=True))]


def test_an_alarm_by_hand() -> None:
    wave = np.tile([0.01, -0.01], 8)
    start, end = evaluation(0, 0.5 + 0 * wave, 0.8 + 0 * wave), evaluation(25, 0.6 + wave, 0.7 - wave)
    (alarm,) = alarms([start, end])
    assert alarm.as_dict() == {
        "dimension": "semantic",
        "iteration": 25,
        "since_iteration": 0,
        "reward_change": pytest.approx(0.1),
        "reward_stderr": pytest.approx(0.01 / np.sqrt(15)),
        "monitor_change": pytest.approx(-0.1),
        "monitor_stderr": pytest.approx(0.01 / np.sqrt(15)),
        "scenes": 16,
        "threshold": pytest.approx(2.1314, abs=1e-4),  # Student, 15 degrees of freedom, one-sided 0.05 / 2
    }


def test_the_threshold_grows_with_every_look_and_every_dimension() -> None:
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.standard_normal((4, 400))
    rewards, watchers = noise + np.linspace(0, 1, 4)[:, None], noise - np.linspace(0, 1, 4)[:, None]
    thresholds = [alarms(history(rewards[:end], watchers[:end]))[0].threshold for end in (2, 3, 4)]
    levels = (ALPHA / 2, ALPHA / 12, ALPHA / 36)
    assert thresholds == pytest.approx([1.9659, 2.6519, 3.0101], abs=1e-3)
    assert sum(t * level for t, level in enumerate(levels, start=1)) == pytest.approx(ALPHA * (1 - 1 / 4))
    both = [
        Evaluation(e.version, e.clips, {**e.trained, "spatial": noise[0]}, {**e.watched, "spatial": noise[0]})
        for e in history(rewards[:2], watchers[:2])
    ]
    assert alarms(both)[0].threshold == pytest.approx(2.2502, abs=1e-3)


@pytest.mark.parametrize(("reward", "watcher"), [(0.1, 0.1), (-0.1, -0.1), (-0.1, 0.1), (0.0, -0.1), (0.1, 0.0)])
def test_only_a_rising_score_with_a_falling_watcher_is_an_alarm(reward: float, watcher: float) -> None:
    rng = np.random.default_rng(1)
    r, w = 0.01 * rng.standard_normal((2, 2, 100))
    r, w = r - r.mean(axis=1, keepdims=True), w - w.mean(axis=1, keepdims=True)
    r[1], w[1] = r[1] + reward, w[1] + watcher
    assert alarms(history(r, w)) == []


def test_an_alarm_counts_from_the_watchers_best() -> None:
    """The watcher peaks in the middle of the run; the score rises all the time."""
    rng = np.random.default_rng(2)
    noise = 0.05 * rng.standard_normal((2, 5, 100))
    rewards = noise[0] + np.array([0.0, 0.2, 0.4, 0.6, 0.8])[:, None]
    watchers = noise[1] + np.array([0.4, 0.6, 0.8, 0.5, 0.3])[:, None]
    raised = list(all_alarms(history(rewards, watchers)))
    assert [(a.since_iteration, a.iteration) for a in raised] == [(50, 75), (50, 100)]


def test_scenes_without_a_measure_are_left_out_and_too_few_say_nothing() -> None:
    wave = np.tile([0.01, -0.01], 8)
    start, end = evaluation(0, 0.5 + 0 * wave, 0.8 + 0 * wave), evaluation(25, 0.6 + wave, 0.7 - wave)
    start.watched["semantic"][:4] = np.nan
    end.trained["semantic"][10:12] = np.nan
    assert alarms([start, end])[0].scenes == 10
    end.trained["semantic"][MIN_SCENES + 3 :] = np.nan
    assert alarms([start, end]) == []
    assert alarms([start, replace(end, watched={})]) == []
    assert alarms([start, replace(end, trained={})]) == []
    assert alarms([start]) == alarms([]) == []


def test_all_scenes_changing_alike_is_evidence_and_none_changing_is_none() -> None:
    ones = np.ones(16)
    assert alarms([evaluation(0, 0 * ones, ones), evaluation(1, ones, 0 * ones)])[0].monitor_stderr == 0.0
    assert alarms([evaluation(0, ones, ones), evaluation(1, ones, ones)]) == []


def test_other_scenes_or_a_wrong_order_are_refused() -> None:
    one, two = evaluation(0, np.ones(9), np.ones(9)), evaluation(25, np.ones(9), np.ones(9))
    with pytest.raises(PrismError, match="in the order of their versions"):
        alarms([two, one])
    with pytest.raises(PrismError, match="in the order of their versions"):
        alarms([one, one])
    with pytest.raises(PrismError, match="held-out clips are not those"):
        alarms([one, replace(two, clips=("other", *two.clips[1:]))])


def test_estimates_leave_out_what_nobody_measured() -> None:
    found = estimates({"semantic": np.array([0.5, np.nan, 0.7]), "spatial": np.full(3, np.nan)})
    assert list(found) == ["semantic"]
    assert (found["semantic"].mean, found["semantic"].n) == (pytest.approx(0.6), 2)


columns = st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).standard_normal((2, 4, 12)))


@settings(max_examples=40)
@given(columns, st.floats(0.1, 100), st.floats(-5, 5), st.integers(0, 1000))
def test_units_scene_effects_and_order_do_not_matter(found: np.ndarray, scale: float, shift: float, seed: int) -> None:
    found[0] += np.arange(4)[:, None]
    found[1] -= np.arange(4)[:, None]
    rng = np.random.default_rng(seed)
    order, effects = rng.permutation(12), rng.standard_normal((2, 1, 12))
    other = (scale * (found + effects) + shift)[:, :, order]

    def said(columns: np.ndarray) -> list[tuple[str, int, int]]:
        return [(a.dimension, a.since_iteration, a.iteration) for a in all_alarms(history(columns[0], columns[1]))]

    assert said(other) == said(found)


@settings(max_examples=40)
@given(columns)
def test_a_watcher_that_never_falls_never_alarms(found: np.ndarray) -> None:
    found[0] += 10 * np.arange(4)[:, None]
    found[1] = np.sort(found[1], axis=0)
    assert list(all_alarms(history(found[0], found[1]))) == []


def rising(rng: np.random.Generator) -> np.ndarray:
    """(T, B) scores that training really raises."""
    return 0.08 * np.arange(EVALUATIONS)[:, None] + rng.normal(0, 0.1, (EVALUATIONS, SCENES))


def steady(rng: np.random.Generator) -> np.ndarray:
    """A probability that differs between scenes and jumps about from evaluation to evaluation."""
    return np.clip(rng.uniform(0, 1, SCENES) + rng.normal(0, 0.3, (EVALUATIONS, SCENES)), 0, 1)


def wandering(rng: np.random.Generator) -> np.ndarray:
    """Every scene drifts on its own, to no side."""
    return np.cumsum(rng.normal(0, 0.1, (EVALUATIONS, SCENES)), axis=0)


def counting(rng: np.random.Generator) -> np.ndarray:
    """An F1 with few values, mostly 1."""
    return rng.choice([0.0, 0.5, 0.67, 1.0], p=[0.05, 0.1, 0.15, 0.7], size=(EVALUATIONS, SCENES))


@pytest.mark.parametrize("noise", [steady, wandering, counting])
def test_false_alarms_are_rarer_than_promised(noise) -> None:
    """Scores rise, watchers only jitter, and every run is looked at six times."""
    false = naive = 0
    for seed in range(RUNS):
        rng = np.random.default_rng([3, seed])
        run = history(rising(rng), noise(rng))
        false += any(True for _ in all_alarms(run))
        naive += any(_naive(run[:end]) for end in range(2, len(run) + 1))
    assert false <= ALPHA * RUNS
    assert naive > 2 * ALPHA * RUNS, "without the correction the same runs alarm far too often"


def _naive(run: Sequence[Evaluation]) -> bool:
    """Two standard errors since the watcher's best evaluation."""
    best = max(run[:-1], key=lambda e: e.watched["semantic"].mean())
    change = run[-1].watched["semantic"] - best.watched["semantic"]
    return change.mean() < -2 * change.std(ddof=1) / np.sqrt(len(change))


def test_a_fall_of_half_a_spread_is_found() -> None:
    found = 0
    for seed in range(50):
        rng = np.random.default_rng([4, seed])
        watchers = steady(rng) - np.array([0, 0, 0, 0, 0.1, 0.2, 0.3])[:, None]
        found += any(True for _ in all_alarms(history(rising(rng), watchers)))
    assert found >= 48
