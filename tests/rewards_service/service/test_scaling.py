"""One dimension gets more replicas and fewer again while requests keep coming; none is lost."""

import asyncio
from typing import Any

import pytest

from rewards_service.errors import RewardError
from rewards_service.service.client import RewardClient
from rewards_service.service.deploy import ActorFleet
from tests.rewards_service.service.load import (
    MARK,
    RATE,
    Load,
    answered,
    deployed,
    marking,
    question,
    references,
    replica_pids,
    rewards,
)

TWO = {"mark": {"scorer": MARK, "num_cpus": 0.01, "options": {"delay_s": 0.02}},
       "other": {"scorer": MARK, "num_cpus": 0.01}}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["actors", "serve"])
def test_one_dimension_scales_under_load_and_loses_nothing(ray_session: str, backend: str) -> None:
    with deployed(rewards(backend, TWO, deadline_s=40.0)) as (client, namespace):
        (first,) = replica_pids(backend, namespace, "mark")

        async def scale(load: Load) -> list[dict[str, int]]:
            await load.more(20)
            up = await client.scale("mark", 3)
            await load.more(60)
            during = await asyncio.to_thread(replica_pids, backend, namespace, "mark")
            assert first in during  # the one that ran goes on
            assert len(during) == 3
            down = await client.scale("mark", 1)
            await load.more(20)
            return [up, down]

        load = Load(client, callers=6)
        up, down = asyncio.run(load.during(scale))
        status = asyncio.run(client.status())
    assert (up, down) == ({"running": 3, "wanted": 3}, {"running": 1, "wanted": 1})
    assert load.lost == []
    assert (status["mark"]["missing"], status["mark"]["failures"]) == (0, 0)
    assert status["other"]["running"] == 1


@pytest.mark.slow
def test_serve_adds_replicas_under_load_and_takes_them_away_again(ray_session: str) -> None:
    service = {"target_ongoing_requests": 1.5, "upscale_delay_s": 1.0, "downscale_delay_s": 3.0}
    scorer: dict[str, Any] = {"max_replicas": 3}
    config = marking("serve", 1, scorer, options={"delay_s": 0.2}, service=service, deadline_s=40.0)
    with deployed(config) as (client, _):

        async def grow(load: Load) -> None:
            await load.until(lambda found: found["mark"]["running"] == 3)

        crowd = Load(client, callers=8)
        asyncio.run(crowd.during(grow))

        async def shrink(load: Load) -> None:
            await load.until(lambda found: found["mark"] == {"running": 1, "wanted": 1})

        trickle = Load(client, callers=1)  # 1 ongoing request: one replica is enough
        asyncio.run(trickle.during(shrink))
        assert min(crowd.answers, trickle.answers) > 0
        assert crowd.lost + trickle.lost == []


@pytest.mark.slow
def test_a_range_may_be_given_while_it_runs(ray_session: str) -> None:
    service = {"target_ongoing_requests": 1.5, "upscale_delay_s": 1.0, "downscale_delay_s": 2.0}
    with deployed(marking("serve", options={"delay_s": 0.2}, service=service, deadline_s=40.0)) as (client, _):

        async def widen(load: Load) -> None:
            assert await client.replicas() == {"mark": {"running": 1, "wanted": 1}}
            await client.scale("mark", 1, 2)
            await load.until(lambda found: found["mark"]["running"] == 2)
            assert await client.scale("mark", 1) == {"running": 1, "wanted": 1}
            await load.more(4)

        load = Load(client, callers=6)
        asyncio.run(load.during(widen))
        assert load.lost == []


def test_actors_scale_and_their_names_are_used_again(ray_session: str) -> None:
    with deployed(marking("actors")) as (client, namespace):

        async def there_and_back() -> list[int]:
            return [(await client.scale("mark", count))["running"] for count in (2, 1, 2)]

        assert asyncio.run(there_and_back()) == [2, 1, 2]
        assert len(set(replica_pids("actors", namespace, "mark"))) == 2
        sounds = question(0.2)
        answered(client.score_all_blocking(sounds, RATE, references())["mark"], sounds)


def test_what_cannot_be_scaled_is_said(ray_session: str) -> None:
    with deployed(marking("actors", start_s=8.0)) as (client, _):

        def scale(*arguments: Any) -> None:
            asyncio.run(client.scale(*arguments))

        with pytest.raises(RewardError, match="no smell reward to scale; there are mark"):
            scale("smell", 2)
        with pytest.raises(RewardError, match="at least 1 replica"):
            scale("mark", 0)
        with pytest.raises(RewardError, match="no smaller maximum"):
            scale("mark", 2, 1)
        with pytest.raises(RewardError, match=r"do not scale with load; .* rewards\.backend: serve"):
            scale("mark", 1, 3)
        assert asyncio.run(client.replicas()) == {"mark": {"running": 1, "wanted": 1}}


def test_two_who_scale_at_once_take_turns(ray_session: str) -> None:
    with deployed(marking("actors")) as (client, namespace):

        async def both() -> list[dict[str, int]]:
            return list(await asyncio.gather(client.scale("mark", 2), client.scale("mark", 1)))

        assert asyncio.run(both()) == [{"running": 2, "wanted": 2}, {"running": 1, "wanted": 1}]
        assert len(replica_pids("actors", namespace, "mark")) == 1


def test_a_new_replica_that_does_not_start_leaves_the_others(ray_session: str) -> None:
    config = rewards("actors", {"mark": {"scorer": MARK, "num_cpus": 5}})
    with deployed(config) as (_, namespace):
        client = RewardClient.of(ActorFleet(config.model_copy(update={"start_s": 3.0}), namespace))
        with pytest.raises(RewardError, match="reward-mark-1 could not start"):
            asyncio.run(client.scale("mark", 2))  # 10 CPUs of 8
        assert asyncio.run(client.replicas()) == {"mark": {"running": 1, "wanted": 1}}
        answered(client.score_all_blocking(question(0.1), RATE, references())["mark"], question(0.1))


def test_a_client_without_a_fleet_does_not_scale() -> None:
    client = RewardClient({"mark": [object()]})
    with pytest.raises(RewardError, match="no mark reward to scale"):
        asyncio.run(client.scale("mark", 2))
