"""Runs the training loop under Ray Train: in the driver process, or in workers that are restarted when they die."""

import logging
import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from settings import PrismError
from trainer import checkpoints
from trainer.collective import BACKENDS
from trainer.errors import LearnerError
from trainer.experience import Experience
from trainer.journal import Follower
from trainer.loop import LoopConfig, Outcome, train_loop

_POLL_S = 0.2
_STORAGE = "ray_train"


def fit(config: LoopConfig) -> Outcome:
    """Train as config.learner says and return how it ended.

    With num_workers = 0 the loop runs in this process. Otherwise Ray Train runs it in workers, restarts them from the
    newest checkpoint up to max_failures times, and this process relays metrics and the stop request. Raises the
    PrismError that ended the loop, or LearnerError with the reason of the last failure.
    """
    # Each ray.train.report waits for one poll of the controller, every 2 s unless told otherwise.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # It announces local mode and every report at INFO, in the middle of the live view.
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    if config.learner.num_workers == 0:
        return _outcome(_trainer(config).fit())
    return _outcome(_supervise(config))


def _trainer(config: LoopConfig) -> TorchTrainer:
    learner = config.learner
    backend = BACKENDS["cuda" if learner.use_gpu else "cpu"]
    return TorchTrainer(
        partial(train_loop, config),
        torch_config=TorchConfig(backend=backend, timeout_s=int(learner.take_timeout_s + learner.deadline_s)),
        scaling_config=ScalingConfig(
            num_workers=learner.num_workers, use_gpu=learner.use_gpu, resources_per_worker=learner.resources
        ),
        run_config=RunConfig(
            name=_STORAGE,
            storage_path=str(Path(config.run_dir).resolve()),
            failure_config=FailureConfig(max_failures=learner.max_failures),
        ),
    )


def _supervise(config: LoopConfig) -> Result:
    """Fit in a thread, so that this one stays free for signals, metrics and the stop request."""
    start = _start(config)
    config.journal.rewind(start)
    trainer = _trainer(replace(config, on_iteration=None, stop=None))
    experience = Experience(config.names, config.learner.deadline_s, config.learner.take_timeout_s)
    ended: dict[str, Any] = {}

    def run() -> None:
        try:
            ended["result"] = trainer.fit()
        except BaseException as error:
            ended["error"] = error

    thread = threading.Thread(target=run, name="ray-train", daemon=True)
    thread.start()
    follower = Follower(config.journal, start)
    asked = False
    while thread.is_alive():
        thread.join(_POLL_S)
        _relay(config, follower)
        if config.stop is not None and not asked and config.stop():
            experience.request_stop()
            asked = True
    _relay(config, follower)
    if "error" in ended:
        raise _explain(ended["error"]) from ended["error"]
    return ended["result"]


def _start(config: LoopConfig) -> int:
    """The iteration training (re)starts at."""
    saved = checkpoints.latest(config.checkpoints)
    return checkpoints.read_state(saved).version if saved else 0


def _relay(config: LoopConfig, follower: Follower) -> None:
    for record in follower.new():
        if config.on_iteration is not None:
            config.on_iteration(record)


def _outcome(result: Result) -> Outcome:
    if not isinstance(result.return_value, Outcome):
        raise LearnerError(f"The learner ended without a result, only {result.return_value!r}.")
    return result.return_value


def _explain(error: BaseException) -> BaseException:
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
