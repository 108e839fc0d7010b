"""Rewards under Ray Serve: joined requests, replicas that refuse, applications found by name and ended together."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards_service.config import ScorerConfig
from rewards_service.errors import ReplicaStuckError, RewardConfigError, RewardError
from rewards_service.scores import Scores
from rewards_service.service.joined import Ask, alike, split, together
from rewards_service.service.served import ServedReward
from tests.rewards_service.conftest import World
from tests.rewards_service.service.load import (
    MARK,
    RATE,
    answered,
    deployed,
    marking,
    question,
    references,
    rewards,
)


def ask(mark: float, groups: int = 1, samples: int = 1600, rate: int = RATE, detail: bool = False) -> Ask:
    return question(mark, groups, samples=samples), rate, references(groups), detail


def body(deadline_s: float = 30.0, **options: Any) -> ServedReward:
    """What Serve runs, in this process."""
    return ServedReward("mark", ScorerConfig(scorer=MARK, options=options).model_dump_json(), deadline_s)


async def all_of(served: ServedReward, asks: list[Ask]) -> list[Any]:
    """Answers to requests that come at once; exceptions in their places."""
    return await asyncio.gather(*(served.score(*each) for each in asks), return_exceptions=True)


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([800, 1600]), st.booleans()), min_size=1, max_size=6))
def test_what_is_joined_comes_apart_again(kinds: list[tuple[int, int, bool]]) -> None:
    asks = [ask(k / 10, g, samples=s, detail=d) for k, (g, s, d) in enumerate(kinds)]
    parts = alike(asks)
    assert sorted(place for places in parts for place in places) == list(range(len(asks)))
    for places in parts:
        assert len({kinds[place][1:] for place in places}) == 1
        mine = [asks[place] for place in places]
        waveforms, _, told, _ = together(mine)
        assert len(waveforms) == len(told) == sum(kinds[place][0] for place in places)
        values = waveforms[:, :, 0, 0].astype(np.float64)
        last = len(values) - 1
        joint = Scores(values, {(last, 0): "gap"}, [[{"v": v} for v in row] for row in values], {0: "mono"})
        apart = split(joint, mine)
        for place, scores in zip(places, apart, strict=True):
            np.testing.assert_array_equal(scores.values, asks[place][0][:, :, 0, 0].astype(np.float64))
            assert scores.measured == [[{"v": v} for v in row] for row in scores.values]
        assert apart[0].gated == {0: "mono"}
        assert apart[-1].missing == {(kinds[places[-1]][0] - 1, 0): "gap"}
        assert sum(len(scores.gated) + len(scores.missing) for scores in apart) == 2


def test_an_answer_that_does_not_fit_is_not_taken_apart() -> None:
    with pytest.raises(RewardError, match=r"not Scores of \(2, 3\)"):
        split(Scores(np.zeros((3, 2))), [ask(0.1), ask(0.2)])
    with pytest.raises(RewardError, match="with str, not Scores"):
        split("0.5", [ask(0.1)])


def test_requests_that_come_together_share_a_call_and_the_culprit_fails_alone() -> None:
    culprit = 0.5
    served = body(culprit=culprit)
    good, bad = [ask(0.1), ask(0.2, samples=800), ask(0.3)], ask(culprit)
    found = asyncio.run(served._joined([good[0], bad, good[1], good[2]]))
    for answer, (sounds, *_) in zip([found[0], *found[2:]], good, strict=True):
        answered(answer, sounds)
    assert isinstance(found[1], ValueError)


def test_fewer_calls_when_joined() -> None:
    served, asks = body(), [ask(k / 10) for k in range(4)]

    async def calls(come: Any) -> int:
        before = (await served.health())["calls"]
        for answer, (sounds, *_) in zip(await come, asks, strict=True):
            answered(answer, sounds)
        return (await served.health())["calls"] - before

    async def both() -> list[int]:
        return [await calls(served._joined(asks)), await calls(all_of(served, asks))]

    assert asyncio.run(both()) == [1, 4]


def test_a_stuck_replica_turns_everybody_away_until_it_is_free(tmp_path: Path) -> None:
    served = body(deadline_s=0.3, trap=str(tmp_path), hang_s=1.5)
    (tmp_path / "hang").touch()

    async def visit() -> None:
        first = await all_of(served, [ask(0.1), ask(0.2)])
        assert [type(answer) for answer in first] == [ReplicaStuckError, ReplicaStuckError]
        with pytest.raises(ReplicaStuckError, match="stuck in another call"):
            await served.score(*ask(0.3))
        with pytest.raises(ReplicaStuckError, match="has been running for"):
            served.check_health()
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not served._stuck:
                break
        served.check_health()
        answered(await served.score(*ask(0.3)), ask(0.3)[0])

    asyncio.run(visit())


def test_a_scorer_that_keeps_failing_is_replaced() -> None:
    served = body(culprit=0.5)

    async def fail(times: int) -> None:
        for _ in range(times):
            with pytest.raises(ValueError, match="culprit"):
                await served.score(*ask(0.5))

    asyncio.run(fail(7))
    served.check_health()
    answered(asyncio.run(served.score(*ask(0.1))), ask(0.1)[0])
    asyncio.run(fail(8))
    with pytest.raises(ReplicaStuckError, match="last 8 calls failed"):
        served.check_health()


@pytest.mark.slow
def test_applications_are_found_by_name_and_leave_others_alone(ray_session: str, world: World) -> None:
    from rewards_service import backends
    from rewards_service.service.serving import app_name, applications
    from rewards_service.temporal import TemporalScorer

    config = rewards("serve", {"temporal": {"num_cpus": 0.01, "options": {"tolerance_s": 0.05}}})
    with pytest.raises(RewardError, match="No temporal reward is served"):
        backends.connect(config, f"none-{uuid.uuid4().hex}")
    with deployed(config) as (client, namespace), deployed(marking("serve")) as (other, elsewhere):
        assert applications() == {app_name(namespace, "temporal"), app_name(elsewhere, "mark")}
        here = TemporalScorer(tolerance_s=0.05).score(world.sounds, RATE, world.references, detail=True)
        found = client.score_all_blocking(world.sounds, RATE, world.references, detail=True)["temporal"]
        np.testing.assert_allclose(found.values, here.values, atol=1e-5)
        assert found.measured == here.measured
        again = backends.connect(config, namespace)
        assert not again.score_all_blocking(world.sounds, RATE, world.references)["temporal"].missing
        with deployed(marking("serve")) as (third, _):
            answered(third.score_all_blocking(question(0.4), RATE, references())["mark"], question(0.4))
        answered(other.score_all_blocking(question(0.2), RATE, references())["mark"], question(0.2))
        assert len(applications()) == 2
    assert applications() == set()


@pytest.mark.slow
def test_what_cannot_start_says_why_and_leaves_nothing(ray_session: str, tmp_path: Path) -> None:
    from rewards_service.service.serving import applications

    absent = str(tmp_path / "absent.safetensors")
    config = rewards("serve", {"semantic": {"num_cpus": 0.01, "options": {"weights": absent}}})
    with pytest.raises(RewardError, match=r"semantic reward could not start: .*absent\.safetensors"), deployed(config):
        pass
    config = rewards("serve", {"mark": {"scorer": MARK, "num_cpus": 1000}}, start_s=3.0, deadline_s=2.0)
    with pytest.raises(RewardError, match=r"did not start 1 replicas in time; Ray has .* free"), deployed(config):
        pass
    assert applications() == set()
    with pytest.raises(RewardConfigError, match="no option speed"), deployed(marking("serve", options={"speed": 1})):
        pass


@pytest.mark.slow
def test_a_joint_call_over_serve(ray_session: str) -> None:
    service = {"batch_requests": 8, "batch_wait_s": 0.2}

    async def crowd(client: Any) -> list[dict[str, Scores]]:
        return await asyncio.gather(*(client.score_all(question(k / 10), RATE, references()) for k in range(8)))

    with deployed(marking("serve", options={"delay_s": 0.01}, service=service)) as (client, namespace):
        for k, scores in enumerate(asyncio.run(crowd(client))):
            answered(scores["mark"], question(k / 10))
        from ray import serve

        from rewards_service.service.serving import app_name

        handle: Any = serve.get_app_handle(app_name(namespace, "mark"))
        health = handle.health.remote(route={}).result(timeout_s=30)
    assert health["samples"] == 8 * 2 * 3
    assert health["calls"] < 8


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_replica_with_packages_of_its_own_answers_over_serve(
    ray_session: str, world: World, forged_rewards: dict[str, dict[str, str]]
) -> None:
    """MS-CLAP's own package, with numpy < 2: bytes and JSON cross the border, and the scores come back."""
    scorer = {"scorer": "ms_clap", "num_cpus": 0.01, "options": forged_rewards["ms_clap"]}
    config = rewards("serve", {"semantic": scorer}, start_s=600.0, deadline_s=120.0)
    with deployed(config) as (client, _):
        scores = client.score_all_blocking(world.sounds[:3], RATE, world.references[:3], detail=True)["semantic"]
    assert not scores.missing, scores.missing
    assert np.isfinite(scores.values).all()
    assert scores.measured is not None
    assert len(scores.measured) == 3
