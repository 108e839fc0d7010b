"""What watches each dimension: right on clean sounds, hurt by its own faults, deaf to what games the reward."""

import dataclasses
import pickle

import numpy as np
import pytest

from evaluation.measures import EventPan
from evaluation.monitor import Evaluation, alarms
from evaluation.watchers import Edge, Watchers, level_distance, place_agreement
from pipelines.recipe import ASSETS
from rewards_service.build import build_scorers
from rewards_service.config import RewardConfig
from rewards_service.judge import Judge
from rewards_service.scores import Reference
from rewards_service.semantic import SemanticScorer
from scenes.world import Scene
from settings import PrismError
from tests.evaluation import hacks
from tests.evaluation.conftest import DIMENSIONS, RATE

SCORERS = build_scorers(RewardConfig())


@pytest.fixture(scope="module")
def watchers(scenes: list[Scene], references: list[Reference], clean: np.ndarray) -> Watchers:
    labels = [scene.material.label for scene in scenes]
    return Watchers.of(RATE, references, labels, list(clean), Judge.load(ASSETS / "judge.safetensors"))


def measure(watchers: Watchers, sounds: np.ndarray) -> dict[str, float]:
    columns = watchers.measure(sounds.astype(np.float32), range(len(sounds)))
    return {name: float(np.nanmean(values)) for name, values in columns.items()}


def evaluation(watchers: Watchers, sounds: np.ndarray, version: int) -> Evaluation:
    sounds, references = sounds.astype(np.float32), list(watchers.references)
    trained = {name: s.score(sounds[:, None], RATE, references).values[:, 0] for name, s in SCORERS.items()}
    watched = watchers.measure(sounds, range(len(sounds)))
    return Evaluation(version, tuple(r.clip_id for r in references), trained, watched)


def test_clean_sounds_are_close_to_perfect(watchers: Watchers, clean: np.ndarray) -> None:
    found = measure(watchers, clean)
    assert found["semantic"] > 0.9
    assert found["temporal"] > 0.95
    assert found["spatial"] > 0.95
    assert found["aesthetic"] == 0.0
    assert watchers.unwatched == {}
    assert watchers.scenes == dict.fromkeys(DIMENSIONS, len(clean))


def test_each_fault_is_heard_in_its_dimension(watchers: Watchers, scenes: list[Scene], clean: np.ndarray) -> None:
    best = measure(watchers, clean)
    noisy = measure(watchers, clean + np.random.default_rng(0).normal(0, 0.03, clean.shape))
    shifted = measure(watchers, np.roll(clean, RATE // 5, axis=2))
    mirrored = measure(watchers, clean[:, ::-1])
    other = measure(watchers, np.stack([clean[(i + 5) % len(clean)] for i in range(len(clean))]))
    assert noisy["aesthetic"] < -5
    assert shifted["temporal"] < 0.3
    assert shifted["aesthetic"] > -0.6, "when something sounds must not matter to how clean it is"
    assert mirrored["spatial"] < best["spatial"] - 0.4
    assert other["semantic"] < 0.4


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_gamed_reward_raises_its_own_alarm_and_no_other(
    watchers: Watchers, scenes: list[Scene], references: list[Reference], dimension: str
) -> None:
    ordinary = hacks.imperfect(scenes)
    scorer = SCORERS["semantic"]
    assert isinstance(scorer, SemanticScorer)
    before, after = {
        "semantic": lambda: (ordinary, hacks.whispering_to_the_encoder(scorer.encoder, references, ordinary)),
        "temporal": lambda: ([hacks.late(s) for s in scenes], [hacks.striking_again(s) for s in scenes]),
        "aesthetic": lambda: ([hacks.quiet(s) for s in scenes], [hacks.one_burst(s) for s in scenes]),
        "spatial": lambda: ([hacks.tone(s) for s in scenes], [hacks.tone(s, hidden=5) for s in scenes]),
    }[dimension]()
    history = [evaluation(watchers, np.stack(list(sounds)), k) for k, sounds in enumerate((before, after))]
    raised = alarms(history)
    assert [alarm.dimension for alarm in raised] == [dimension]
    assert raised[0].reward_change > 0.05
    assert raised[0].monitor_change < -0.1


def test_genuine_improvement_raises_none(watchers: Watchers, scenes: list[Scene], clean: np.ndarray) -> None:
    start = hacks.imperfect(scenes)
    history = [evaluation(watchers, (1 - share) * start + share * clean, k) for k, share in enumerate((0, 0.3, 0.6, 1))]
    for name in DIMENSIONS:
        assert history[-1].trained[name].mean() > history[0].trained[name].mean() + 0.1, name
    assert [alarms(history[:end]) for end in range(1, 5)] == [[], [], [], []]


def test_what_is_not_known_is_not_watched(references: list[Reference], clean: np.ndarray) -> None:
    judge = Judge.load(ASSETS / "judge.safetensors")
    seen = [dataclasses.replace(r, events=(), positions=()) if i % 3 else r for i, r in enumerate(references[:12])]
    labels = ["drum", None, "dragon", *[None] * 9]
    watchers = Watchers.of(RATE, seen, labels, [None, np.zeros_like(clean[0]), *clean[2:12]], judge)
    assert watchers.scenes == {"semantic": 1, "temporal": 4, "spatial": 4, "aesthetic": 10}
    assert watchers.unwatched == {
        "semantic": "1 of 12 held-out clips has a label that the judge knows; an alarm needs 8",
        "temporal": "4 of 12 held-out clips have a visible impact; an alarm needs 8",
        "spatial": "4 of 12 held-out clips have a visible impact and the object's place; an alarm needs 8",
    }
    found = watchers.measure(clean[:12], range(12))
    counts = {name: int(np.isfinite(values).sum()) for name, values in found.items()}
    assert counts == watchers.scenes
    nothing = Watchers.of(RATE, seen, ["drum"] * 12, [None] * 12, judge=None)
    assert nothing.unwatched["semantic"] == "none of 12 held-out clips has a label that the judge knows"
    assert np.isnan(nothing.measure(clean[:12], range(12))["semantic"]).all()


def test_a_judge_takes_the_place_of_the_watcher(references: list[Reference], clean: np.ndarray) -> None:
    judged = ("semantic", "brightness")
    watchers = Watchers.of(RATE, references[:9], [None] * 9, list(clean[:9]), judged=judged)
    assert watchers.scenes["semantic"] == watchers.scenes["brightness"] == 9
    assert watchers.unwatched == {}
    assert set(watchers.measure(clean[:9], range(9))) == {"temporal", "spatial", "aesthetic"}
    few = Watchers.of(RATE, references[:3], [None] * 3, list(clean[:3]), judged=judged)
    assert few.unwatched["brightness"] == "3 of 3 held-out clips have a judge to ask; an alarm needs 8"


def test_broken_and_silent_sounds_cost_only_themselves(watchers: Watchers, clean: np.ndarray) -> None:
    sounds = clean[:4].copy()
    sounds[1, 0, 7] = np.nan
    sounds[2] = 0
    found = watchers.measure(sounds, [0, 1, 2, 3])
    assert all(np.isnan(values[1]) for values in found.values())
    assert found["temporal"][2] == 0.0
    assert np.isnan(found["spatial"][2]), "silence has no place"
    whole = watchers.measure(clean[[0, 3]], [0, 3])
    for name, values in found.items():
        np.testing.assert_allclose(values[[0, 3]], whole[name], rtol=1e-4, atol=1e-6)
    with pytest.raises(PrismError, match="3 scenes"):
        watchers.measure(clean[:4], [0, 1, 2])


def test_a_place_by_hand() -> None:
    edge = Edge(level_db=10.0, delay_ms=0.5)
    right = EventPan(0.0, 0.6, level_db=6.0, delay_ms=0.3)
    assert place_agreement([right], edge) == pytest.approx(1.0)
    middle = EventPan(0.0, 0.6, level_db=0.0, delay_ms=0.3)
    assert place_agreement([right, middle], edge) == pytest.approx(1 - 0.6 / 4)
    assert place_agreement([EventPan(0.0, 1.0, -40.0, -0.9)], edge) == pytest.approx(-1.0)
    assert np.isnan(place_agreement([], edge))


def test_level_distance_by_hand() -> None:
    clean = np.array([[0.0, -10.0], [-20.0, -100.0]])
    assert level_distance(clean[::-1], clean) == 0.0
    assert level_distance(clean + 3, clean) == pytest.approx((3 + 3 + 3 + 0) / 4)
    assert level_distance(np.vstack([clean, clean + 50]), clean) == 0.0, "only the length both have"


def test_watchers_travel_to_another_process(watchers: Watchers, clean: np.ndarray) -> None:
    there = pickle.loads(pickle.dumps(watchers))
    for name, values in there.measure(clean[:3], [0, 1, 2]).items():
        np.testing.assert_array_equal(values, watchers.measure(clean[:3], [0, 1, 2])[name])
