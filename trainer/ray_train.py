"""A training loop under Ray Train: in this process, or in workers that are restarted when they die."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from settings import PrismError
from trainer.collective import BACKENDS
from trainer.config import LearnerConfig
from trainer.errors import LearnerError

_POLL_S = 0.2
_STORAGE = "ray_train"


def run(loop: Callable[[], Any], learner: LearnerConfig, run_dir: str, poll: Callable[[], None] = lambda: None) -> Any:
    """What `loop` returned (on rank 0).

    With num_workers = 0 it runs in this process, without Ray. Otherwise it is pickled to Ray Train's workers, restarted
    up to max_failures times, and `poll` is called here all along. Raises the PrismError that ended the loop, or
    LearnerError with the reason of the last failure.
    """
    # Each ray.train.report waits for one poll of the controller, every 2 s unless told otherwise.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # It announces local mode and every report at INFO, in the middle of the live view.
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    trainer = TorchTrainer(
        loop,
        torch_config=TorchConfig(
            backend=BACKENDS["cuda" if learner.use_gpu else "cpu"],
            timeout_s=int(learner.take_timeout_s + learner.deadline_s),
        ),
        scaling_config=ScalingConfig(
            num_workers=learner.num_workers, use_gpu=learner.use_gpu, resources_per_worker=learner.resources
        ),
        run_config=RunConfig(
            name=_STORAGE,
            storage_path=str(Path(run_dir).resolve()),
            failure_config=FailureConfig(max_failures=learner.max_failures),
        ),
    )
    result = trainer.fit() if learner.num_workers == 0 else _apart(trainer, poll)
    if result.return_value is None:
        raise LearnerError("The learner ended without a result.")
    return result.return_value


def _apart(trainer: TorchTrainer, poll: Callable[[], None]) -> Any:
    """Fit in a thread, so that this one stays free for signals, metrics and the stop request."""
    ended: dict[str, Any] = {}

    def fit() -> None:
        try:
            ended["result"] = trainer.fit()
        except BaseException as error:
            ended["error"] = error

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        poll()
    poll()
    if "error" in ended:
        raise explain(ended["error"]) from ended["error"]
    return ended["result"]


def explain(error: BaseException) -> BaseException:
    """The user's error inside Ray Train's, if there is one."""
    failures = getattr(error, "worker_failures", None) or {}
    causes = [getattr(failure, "cause", failure) for failure in failures.values()]
    for cause in causes:
        if isinstance(cause, PrismError):
            return cause
    if isinstance(error, TrainingFailedError):
        reasons = "; ".join(f"{type(cause).__name__}: {cause}" for cause in causes) or str(error)
        return LearnerError(f"The learner failed for good: {reasons}. Resume the run from its last checkpoint.")
    return error
