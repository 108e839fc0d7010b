"""Prometheus metrics of sampling, as the Ray dashboard and /metrics export them (prefixed `ray_`)."""

from ray.util.metrics import Counter, Gauge

from actors.messages import IterationRecord


class RolloutMetrics:
    """Job totals live here, in the long-lived coordinator: a worker's own series would vanish with it."""

    def __init__(self) -> None:
        self._rollouts = Counter("prism_rollouts_total", "Groups sampled.")
        self._samples = Counter("prism_samples_total", "Waveforms sampled.")
        self._nfe = Counter("prism_nfe_total", "Velocity evaluations of sampling; a guided pair counts two.")
        self._lost = Counter("prism_groups_lost_total", "Groups no rollout actor could produce.", tag_keys=("reason",))
        self._dropped = Counter("prism_groups_dropped_total", "Groups dropped before training.", tag_keys=("reason",))
        self._refilled = Counter("prism_groups_refilled_total", "Flat groups replaced by a group of another prompt.")
        self._resubmitted = Counter("prism_rollouts_resubmitted_total", "Rollout calls sent again after a failure.")
        self._staleness = Gauge("prism_staleness", "Versions between sampling and training of the last iteration.")
        self._version = Gauge("prism_version", "Iterations the learner has finished.")
        self._seconds = Gauge(
            "prism_iteration_seconds", "Wall time of the last iteration's stage.", tag_keys=("stage",)
        )

    def produced(self, groups: int, samples: int, nfe: int) -> None:
        """Count one finished rollout call."""
        self._rollouts.inc(groups)
        self._samples.inc(samples)
        self._nfe.inc(nfe)

    def lost(self, reason: str, groups: int) -> None:
        """Count groups that are given up."""
        self._lost.inc(groups, {"reason": reason[:60]})

    def dropped(self, reason: str, groups: int) -> None:
        """Count groups that are complete but not trained on."""
        self._dropped.inc(groups, {"reason": reason[:60]})

    def refilled(self, groups: int) -> None:
        """Count flat groups that are replaced."""
        self._refilled.inc(groups)

    def version(self, version: int) -> None:
        """Note the learner's version."""
        self._version.set(version)

    def iteration(self, record: IterationRecord) -> None:
        """Note a finished iteration."""
        self._staleness.set(record.staleness)
        if record.resubmitted:
            self._resubmitted.inc(record.resubmitted)
        for stage, seconds in record.seconds.items():
            self._seconds.set(seconds, {"stage": stage})


class BufferMetrics:
    """What the experience buffer holds."""

    def __init__(self) -> None:
        self._items = Gauge("prism_buffer_items", "Groups in the experience buffer.")
        self._bytes = Gauge("prism_buffer_bytes", "Bytes of the groups in the experience buffer.")

    def held(self, items: int, nbytes: int) -> None:
        """Note the current fill."""
        self._items.set(items)
        self._bytes.set(nbytes)
