"""Runs the training loop of Fast-GRPO under Ray Train and relays its metrics and the stop request."""

from dataclasses import replace
from functools import partial

from trainer import checkpoints, ray_train
from trainer.errors import LearnerError
from trainer.experience import Experience
from trainer.journal import Follower
from trainer.loop import LoopConfig, Outcome, train_loop


def fit(config: LoopConfig) -> Outcome:
    """Train as config.learner says and return how it ended.

    With num_workers = 0 the loop runs in this process. Otherwise Ray Train runs it in workers, restarts them from the
    newest checkpoint up to max_failures times, and this process relays metrics and the stop request. Raises the
    PrismError that ended the loop, or LearnerError with the reason of the last failure.
    """
    if config.learner.num_workers == 0:
        return _outcome(ray_train.run(partial(train_loop, config), config.learner, config.run_dir))
    start = _start(config)
    config.journal.rewind(start)
    follower = Follower(config.journal, start)
    experience = Experience(config.names, config.learner.deadline_s, config.learner.take_timeout_s)
    asked = False

    def poll() -> None:
        nonlocal asked
        for record in follower.new():
            if config.on_iteration is not None:
                config.on_iteration(record)
        if config.stop is not None and not asked and config.stop():
            experience.request_stop()
            asked = True

    loop = partial(train_loop, replace(config, on_iteration=None, stop=None))
    return _outcome(ray_train.run(loop, config.learner, config.run_dir, poll))


def _start(config: LoopConfig) -> int:
    """The iteration training (re)starts at."""
    saved = checkpoints.latest(config.checkpoints)
    return checkpoints.read_state(saved).version if saved else 0


def _outcome(value: object) -> Outcome:
    if not isinstance(value, Outcome):
        raise LearnerError(f"The learner ended without a result, only {value!r}.")
    return value
