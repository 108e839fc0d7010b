"""The pool of soundtrack actors: bad jobs, dead and hung actors, models that cannot be loaded."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from actors.pool import PoolError
from actors.soundtrack_config import SoundtrackConfig
from actors.soundtracks import Outcome, SoundtrackPool
from settings import PrismError

pytestmark = pytest.mark.usefixtures("ray_session")


@dataclass(frozen=True)
class Order:
    """What a fake maker does with a job: `kind` the first `times` times, told by files in `folder`; then it works."""

    name: str
    folder: Path
    kind: str = "work"
    times: int = 0


class FakeMaker:
    def make(self, order: Order) -> tuple[str, int]:
        tries = len(list(order.folder.glob(f"{order.name}-*")))
        (order.folder / f"{order.name}-{tries}").touch()
        if tries < order.times:
            if order.kind == "die":
                os._exit(1)
            if order.kind == "hang":
                time.sleep(600)
            if order.kind == "bad":
                raise PrismError(f"{order.name} is no video")
            raise ValueError("something odd")
        return order.name, os.getpid()


def build() -> FakeMaker:
    return FakeMaker()


def refuse() -> FakeMaker:
    raise PrismError("the model has other dimensions")


def die_once(folder: Path) -> FakeMaker:
    """The first actor to start ends with its process."""
    try:
        (folder / "started").touch(exist_ok=False)
    except FileExistsError:
        return FakeMaker()
    os._exit(1)


def run(
    orders: list[Order], make: Callable[[], FakeMaker] = build, workers: int = 2, **options: float
) -> tuple[dict[int, Outcome], int]:
    settings = {"num_cpus": 0.1, "deadline_s": 30.0, "start_deadline_s": 60.0, **options}
    with SoundtrackPool(make, SoundtrackConfig(workers=workers, **settings)) as pool:  # type: ignore[arg-type]
        found = {outcome.place: outcome for outcome in pool.run(orders, [0.0] * len(orders))}
    return found, pool.restarts


def test_every_job_is_done_once_by_several_actors(tmp_path: Path) -> None:
    found, restarts = run([Order(f"job{k}", tmp_path) for k in range(12)])
    assert [found[k].result[0] for k in range(12)] == [f"job{k}" for k in range(12)]
    assert [path.name for path in sorted(tmp_path.iterdir())] == sorted(f"job{k}-0" for k in range(12))
    assert restarts == 0


def test_the_job_of_a_dead_actor_is_done_elsewhere(tmp_path: Path) -> None:
    orders = [Order("deadly", tmp_path, "die", 1), *(Order(f"job{k}", tmp_path) for k in range(3))]
    found, restarts = run(orders)
    assert [found[k].error for k in range(4)] == [None] * 4
    assert (found[0].attempts, restarts) == (2, 1)


def test_a_hung_actor_is_replaced(tmp_path: Path) -> None:
    found, restarts = run([Order("slow", tmp_path, "hang", 1)], workers=1, deadline_s=1.0)
    assert (found[0].result[0], found[0].attempts, restarts) == ("slow", 2, 1)


def test_a_job_that_kills_every_actor_is_given_up(tmp_path: Path) -> None:
    found, _ = run([Order("deadly", tmp_path, "die", 9), Order("job", tmp_path)], max_attempts=2)
    assert "died" in str(found[0].error)
    assert found[0].attempts == 2
    assert found[1].error is None


def test_a_bad_video_is_not_tried_again_and_an_odd_error_is(tmp_path: Path) -> None:
    found, restarts = run([Order("bad", tmp_path, "bad", 9), Order("odd", tmp_path, "odd", 1)])
    assert isinstance(found[0].error, PrismError)
    assert (str(found[0].error), found[0].attempts) == ("bad is no video", 1)
    assert (found[1].result[0], found[1].attempts, restarts) == ("odd", 2, 0)


def test_a_model_that_cannot_be_loaded_ends_it(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="other dimensions"):
        run([Order("job", tmp_path)], refuse)


def test_an_actor_that_dies_while_loading_starts_again(tmp_path: Path) -> None:
    found, _ = run([Order("job", tmp_path)], partial(die_once, tmp_path), workers=1)
    assert (found[0].result[0], found[0].attempts) == ("job", 1)


def test_no_actor_in_time(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="None of the 1 soundtrack actors"):
        run([Order("job", tmp_path)], workers=1, num_cpus=1_000, start_deadline_s=0.5)
