"""What the learner shows on the cluster's dashboards, through ray.util.metrics."""

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

GAUGES = {
    "prism_iteration": "Finished iterations",
    "prism_loss": "Loss of the last iteration",
    "prism_grad_norm": "Gradient norm before clipping",
    "prism_ratio_max": "Largest probability ratio",
    "prism_clip_fraction": "Share of samples where the clip was active",
    "prism_kl": "Distance to the reference model",
    "prism_train_seconds": "Seconds of the last optimiser pass",
    "prism_wait_seconds": "Seconds the learner waited for the last batch",
}
COUNTERS = {
    "prism_groups_trained_total": "Groups trained on",
    "prism_nfe_trained_total": "Velocity evaluations with gradient",
}


class LearnerGauges:
    """Gauges and counters fed with one metrics record per iteration."""

    def __init__(self) -> None:
        self._gauges = {name: Gauge(name, description=text) for name, text in GAUGES.items()}
        self._counters = {name: Counter(name, description=text) for name, text in COUNTERS.items()}

    def show(self, record: Mapping[str, Any], groups: int) -> None:
        """Publish the record of one iteration that trained `groups` groups."""
        values = {
            "prism_iteration": record["version"],
            "prism_train_seconds": record["seconds"]["train"],
            "prism_wait_seconds": record["seconds"]["wait"],
        }
        names = ("loss", "grad_norm", "ratio_max", "clip_fraction", "kl")
        for name, value in {**values, **{f"prism_{name}": record[name] for name in names}}.items():
            self._gauges[name].set(float(value))
        for name, value in (
            ("prism_groups_trained_total", groups),
            ("prism_nfe_trained_total", record["nfe"]["trained"]),
        ):
            if value:
                self._counters[name].inc(value)
