"""A replica's body, in this process: what it says of itself, and how long a call has been running."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rewards_service.config import ScorerConfig
from rewards_service.errors import RewardConfigError
from rewards_service.scores import Scores
from rewards_service.service.actor import RewardActor
from rewards_service.service.border import pack_request, unpack_scores
from tests.rewards_service.service.load import MARK, RATE, answered, question, references


def body(**options: object) -> RewardActor:
    return RewardActor("mark", ScorerConfig(scorer=MARK, options=dict(options)).model_dump_json())


def test_calls_and_samples_are_counted_and_the_warm_up_is_not() -> None:
    actor = body()
    assert (actor.health()["calls"], actor.health()["samples"], actor.running_s()) == (0, 0, 0.0)
    sounds = question(0.1)
    answered(actor.score(sounds, RATE, references()), sounds)
    assert (actor.health()["calls"], actor.health()["samples"]) == (1, 6)
    assert actor.health()["pid"] == actor.pid()


def test_a_request_that_crossed_the_border_is_scored_alike() -> None:
    sounds = question(0.1)
    told = pack_request(sounds.shape, RATE, references(), True)
    here, there = (
        body().score(sounds, RATE, references(), True),
        unpack_scores(body().score_packed(sounds.tobytes(), told)),
    )
    assert isinstance(there, Scores)
    np.testing.assert_array_equal(there.values, here.values)
    assert there.measured == here.measured


def test_a_running_call_is_seen_from_another_thread_and_ends_with_its_exception(tmp_path: Path) -> None:
    actor = body(trap=str(tmp_path), hang_s=0.4, culprit=0.5)
    (tmp_path / "hang").touch()
    thread = threading.Thread(target=lambda: actor.score(question(0.1), RATE, references()))
    thread.start()
    seen = []
    while thread.is_alive():
        seen.append(actor.running_s())
        time.sleep(0.01)
    assert 0.2 < max(seen) < 5
    assert actor.running_s() == 0.0
    with pytest.raises(ValueError, match="culprit"):
        actor.score(question(0.5), RATE, references())
    assert actor.running_s() == 0.0
    assert actor.health()["calls"] == 1


def test_a_wrong_option_is_an_error() -> None:
    with pytest.raises(RewardConfigError, match="no option speed"):
        body(speed=1)
