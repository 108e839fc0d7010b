"""Environment variables a driver must have before Ray starts; the processes Ray starts inherit them."""

import os
from collections.abc import Mapping
from pathlib import Path

from cluster.config import RayConfig

ROOT = Path(__file__).resolve().parent.parent


def variables(config: RayConfig, environment: Mapping[str, str]) -> dict[str, str]:
    """What to set, given what is set already.

    One thread per process unless the user says otherwise: Ray runs a process per actor, and they would fight for the
    cores. The uv hook is off, because it would start workers with `uv run`, in an environment without Ray. The checkout
    is on PYTHONPATH, so that workers import the same code whatever their working directory. Workers run at normal
    priority: Ray would nice them below its own dashboard, which slows a loaded machine's rollouts down several times.
    """
    paths = [str(ROOT), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    fixed = {
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
    }
    defaults = {
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_worker_niceness": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_metrics_report_interval_ms": str(round(1000 * config.metrics_interval_s)),
    }
    return fixed | {name: value for name, value in defaults.items() if name not in environment}


def prepare(config: RayConfig) -> None:
    """Set them in this process. Call it before the first `import ray`, since the uv hook is read then."""
    os.environ.update(variables(config, os.environ))
