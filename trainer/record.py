"""One line of metrics.jsonl out of what buffer, learner and coordinator know about an iteration."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def describe(
    taken: Any, metrics: Mapping[str, Any], seconds: Mapping[str, float], record: Any, status: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of a metrics line that hold for one iteration.

    taken: `actors.messages.Batch`. metrics: of `Learner.update`. seconds: of the learner. record: the coordinator's
    `IterationRecord`, or None. status: the coordinator's. `nfe.rollout` is of the trained groups, `nfe.sampled` of all.
    """
    rewards = [info.rewards for info in taken.groups]
    names = list(rewards[0]) if rewards else []
    means = {name: _mean([group[name] for group in rewards]) for name in names}
    spreads = {name: _mean([_std(group[name]) for group in rewards]) for name in names}
    sampling = record.seconds if record is not None else {}
    buffer = status.get("buffer", {})
    learned = {name: value for name, value in metrics.items() if not name.startswith("nfe_")}
    return {
        "iteration": taken.iteration,
        "time": time.time(),
        "reward": means,
        "reward_std": spreads,
        "total": _mean(list(means.values())),
        **learned,
        "nfe": {
            "rollout": sum(info.nfe for info in taken.groups),
            "sampled": record.nfe if record is not None else None,
            "trained": metrics["nfe_trained"],
            "reference": metrics["nfe_reference"],
        },
        "seconds": {"rollout": sampling.get("rollout"), "reward": sampling.get("reward"), **seconds},
        "staleness": max((taken.iteration - info.version for info in taken.groups), default=0),
        "buffer": {"items": buffer.get("items"), "bytes": buffer.get("bytes")},
        "rollouts_per_s": status.get("rollouts_per_s"),
        "dropped": dict(taken.dropped),
        "lost": dict(taken.lost),
        "resubmitted": record.resubmitted if record is not None else None,
        "refilled": record.refilled if record is not None else None,
        "missing": dict(record.missing) if record is not None else None,
        "replicas": dict(record.replicas) if record is not None else None,
    }


def _mean(values: Sequence[Any]) -> float:
    """Mean of all numbers that are there; NaN when none is."""
    flat = np.concatenate([np.ravel(value) for value in values]) if values else np.array([])
    present = flat[~np.isnan(flat)]
    return float(present.mean()) if present.size else float("nan")


def _std(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.std()) if present.size else float("nan")
