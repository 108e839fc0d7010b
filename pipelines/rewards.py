"""`prism rewards`: the replicas of a run that is going, another number of them, and the environments they need."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.config import RayConfig
from cluster.session import SessionError, ray_session
from pipelines import run_folder
from pipelines.recipe import TrainRecipe
from pipelines.run_folder import RunFolder
from pipelines.whereabouts import Whereabouts
from rewards_service.build import SCORERS, environment_of
from rewards_service.config import ScorerConfig
from settings import PrismError
from settings.load import load

STATUS_S = 30.0
SCALE_S = 600.0
"""New replicas may have to load a model, and those that go finish what they have."""
SUFFIX = "-coordinator"

Counts = dict[str, dict[str, int]]


class RunNotFoundError(PrismError):
    """There is no run to ask, or more than one."""


def status(run: str | None = None, address: str | None = None) -> Counts:
    """What `RewardClient.status` says of every dimension of a run that is going.

    run: its name or folder; None is the newest one here, or the only one at `address`. address: of its Ray, HOST:PORT
    or "auto"; None is where the run's folder says, else RAY_ADDRESS, else the Ray of this machine.
    Raises RunNotFoundError and SessionError.
    """
    with _coordinator(run, address) as coordinator:
        return {dimension: dict(counts) for dimension, counts in _call(coordinator.rewards_status, STATUS_S).items()}


def scale(dimension: str, replicas: str, run: str | None = None, address: str | None = None) -> dict[str, int]:
    """Give one dimension of a run that is going another number of replicas; returns how many run then.

    replicas: "3", or "1:4" for a range within which Ray Serve decides by load. Raises RewardError for an unknown
    dimension or a number that cannot be, RunNotFoundError and SessionError.
    """
    found = re.fullmatch(r"(\d+)(?::(\d+))?", replicas.strip())
    if found is None:
        raise PrismError(f"{replicas!r} is no number of replicas; expected one as 3, or a range as 1:4.")
    count, most = int(found[1]), int(found[2]) if found[2] else None
    with _coordinator(run, address) as coordinator:
        return dict(_call(coordinator.scale_rewards, SCALE_S, dimension, count, most))


def prepare(recipe: Path | None = None) -> list[Path]:
    """Make the environments of scorers with packages of their own; returns their interpreters.

    recipe: only what its scorers and judges need; None makes all there are. Raises RewardError.
    """
    wanted = load(TrainRecipe, recipe).rewards.deployed if recipe else {n: ScorerConfig(scorer=n) for n in SCORERS}
    found = {environment_of(name, scorer) for name, scorer in wanted.items() if not scorer.image}
    return [environment.prepare() for environment in sorted(filter(None, found), key=lambda e: e.name)]


@contextmanager
def _coordinator(run: str | None, address: str | None) -> Iterator[Any]:
    """The run's coordinator, with Ray joined for the time of the block."""
    place = _whereabouts(run) if address is None else None
    if place is not None:
        _authenticate(place)
    elsewhere = address or os.environ.get("RAY_ADDRESS", "auto")
    try:
        with ray_session(RayConfig(address=place.address if place else elsewhere)):
            yield _found(place) if place else _listed(Path(run).name if run else None, elsewhere)
    except SessionError as error:
        if place is None and address is None:
            raise RunNotFoundError(
                f"No run is going here: {_here(run)} has none, and no Ray answers at {elsewhere!r}. Name the run with "
                "--run, or its Ray with --address."
            ) from error
        raise


def _whereabouts(run: str | None) -> Whereabouts | None:
    """Of a run folder, of a run's name below runs, or of the newest run."""
    runs = run_folder.RunConfig.model_fields["runs_dir"].default
    folders = [Path(run), runs / run] if run else [runs / "latest"]
    return next(filter(None, (Whereabouts.read(RunFolder(folder)) for folder in folders)), None)


def _here(run: str | None) -> str:
    return f"the run {run!r}" if run else "runs/latest"


def _authenticate(place: Whereabouts) -> None:
    """Before Ray is imported, which reads these once."""
    told = {"RAY_AUTH_MODE": place.auth, "RAY_AUTH_TOKEN_PATH": place.token_path}
    os.environ.update({name: value for name, value in told.items() if value})


def _found(place: Whereabouts) -> Any:
    import ray

    try:
        return ray.get_actor(place.coordinator, place.namespace)
    except ValueError:
        name = place.coordinator.removesuffix(SUFFIX)
        raise RunNotFoundError(f"The run {name} is not going any more on the Ray at {place.address}.") from None


def _listed(run: str | None, address: str) -> Any:
    """The coordinator of that name, or the only one."""
    import ray
    from ray.util import list_named_actors

    actors: Any = list_named_actors(all_namespaces=True)
    going = {a["name"].removesuffix(SUFFIX): a for a in actors if a["name"].endswith(SUFFIX)}
    if run is None and len(going) == 1:
        run = next(iter(going))
    if run not in going:
        runs = f"; these are: {', '.join(sorted(going))}" if going else " there"
        what = f"The run {run!r} is not going" if run else ("Several runs are going" if going else "No run is going")
        raise RunNotFoundError(f"{what} on the Ray at {address!r}{runs}. Name one with --run.")
    return ray.get_actor(going[run]["name"], going[run]["namespace"])


def _call(method: Any, limit_s: float, *arguments: Any) -> Any:
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

    try:
        return ray.get(method.remote(*arguments), timeout=limit_s)
    except GetTimeoutError as error:
        raise RunNotFoundError(f"The run's coordinator has not answered for {limit_s:.0f} s; is it stuck?") from error
    except RayTaskError as error:
        if isinstance(error.cause, PrismError):
            raise error.cause from None
        raise
    except RayActorError as error:
        raise RunNotFoundError("The run ended while it was asked.") from error
