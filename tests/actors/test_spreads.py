"""The coordinator's windows follow what the learner measured, as far back as bounded staleness makes certain."""

import asyncio
from collections.abc import Mapping

import pytest

from tests.actors.local import LocalWorker
from tests.actors.rig import Rig, rig
from trainer.config import AlgorithmConfig
from trainer.errors import ObjectiveError
from trainer.group import Window
from trainer.windows import SpreadHistory, window

ITERATIONS = 8
ALGORITHM = {"window_policy": "proportional", "window_lo": 0, "window_hi": 3}
# Nearly all of the weight on one start, another one after each iteration.
SPREADS: dict[int, Mapping[int, float]] = {
    version: {start: 1.0 if start == version % 4 else 0.0 for start in range(4)} for version in range(ITERATIONS + 1)
}


def proportional(*workers: LocalWorker, staleness: int = 0) -> Rig:
    return rig(*workers, iterations=ITERATIONS, algorithm=ALGORITHM, max_staleness=staleness)


def sampled(run: Rig) -> dict[int, set[Window]]:
    """The windows of each iteration's tasks."""
    found: dict[int, set[Window]] = {}
    for worker in run.workers:
        for task in worker.tasks:
            found.setdefault(task.iteration, set()).add(task.window)
    return found


def expected(lag: int) -> dict[int, set[Window]]:
    """The window of each iteration, from the spreads of the version `lag` iterations back."""
    algorithm = AlgorithmConfig.model_validate(ALGORITHM)
    known = {0: {}} | {version: SPREADS[version] for version in range(1, ITERATIONS)}
    return {i: {window(11, i, algorithm, known[max(0, i - lag)])} for i in range(ITERATIONS)}


async def train(run: Rig, first: int = 0) -> None:
    for iteration in range(first, ITERATIONS):
        batch = await run.take(iteration)
        assert await run.buffer.ack(batch.lease)
        await run.coordinator.advance(iteration + 1, SPREADS[iteration + 1])


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_the_window_follows_the_spreads_of_a_version_that_is_known_in_any_case(staleness: int) -> None:
    async def work() -> None:
        run = proportional(LocalWorker(), LocalWorker(), staleness=staleness)
        await run.coordinator.start()
        await run.coordinator.rewind(0, {0: {}})
        await train(run)
        assert sampled(run) == expected(staleness)

    asyncio.run(work())


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_learner_that_starts_over_brings_its_spreads(staleness: int) -> None:
    async def work() -> None:
        history = SpreadHistory(staleness)
        for version in range(1, 6):
            history.put(version, SPREADS[version])
        run = proportional(staleness=staleness)
        await run.coordinator.start()
        await run.coordinator.rewind(5, history.states)
        await train(run, first=5)
        # Another life of the same run, which had got further.
        await run.coordinator.rewind(5, history.states)
        await train(run, first=5)
        assert sampled(run) == {i: windows for i, windows in expected(staleness).items() if i >= 5}

    asyncio.run(work())


@pytest.mark.parametrize("start", [0, 4])
def test_a_learner_that_measures_nothing_leaves_the_windows_to_the_seed(start: int) -> None:
    async def work() -> None:
        run = proportional(staleness=1)
        await run.coordinator.start()
        await run.coordinator.rewind(start)
        for iteration in range(start, ITERATIONS):
            batch = await run.take(iteration)
            assert await run.buffer.ack(batch.lease)
            await run.coordinator.advance(iteration + 1)
            await run.coordinator.advance(iteration + 1)
        algorithm = AlgorithmConfig.model_validate(ALGORITHM)
        assert sampled(run) == {i: {window(11, i, algorithm, {})} for i in range(start, ITERATIONS)}

    asyncio.run(work())


def test_a_version_that_was_left_out_is_an_error() -> None:
    async def work() -> None:
        run = proportional(staleness=1)
        await run.coordinator.start()
        await run.coordinator.rewind(0)
        with pytest.raises(ObjectiveError, match=r"iteration 2 needs the reward spreads of version 1"):
            await run.coordinator.advance(3, SPREADS[3])

    asyncio.run(work())
