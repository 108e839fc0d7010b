"""What the supervised stages share: Ray where there are workers, and a progress bar of steps."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.config import RayConfig
from cluster.session import ray_session
from trainer.config import LearnerConfig


@contextmanager
def ray_for(learner: LearnerConfig, config: RayConfig) -> Iterator[None]:
    """Ray for the workers; training in this process needs none. Raises PrismError when they do not fit."""
    with ray_session(config) if learner.num_workers else nullcontext() as session:
        if session is not None:
            session.require(*(learner.num_workers * learner.resources.get(kind, 0.0) for kind in ("CPU", "GPU")))
        yield


class StepsView:
    """A bar of finished steps with a line of what was found; use as a context."""

    def __init__(self, title: str, steps: int, console: Console):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[found]}"), console=console)
        self._task = self._progress.add_task(title, total=steps, found="")

    def __enter__(self) -> "StepsView":
        self._progress.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._progress.stop()

    def show(self, done: int, found: str) -> None:
        """Steps done so far and the line beside them."""
        self._progress.update(self._task, completed=done, found=found)
