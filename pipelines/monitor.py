"""Held-out evaluation inside a run: scores, what watches them, and an alarm when the two part."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.heldout import HeldOut, commonest
from evaluation.monitor import Alarm, Evaluation, alarms, all_alarms, estimates
from foundation.model import FlowModel
from pipelines.heldout import HeldOutSet
from trainer.journal import Journal


@dataclass(frozen=True)
class Monitor:
    """Evaluates the learner's model and compares every scene with all earlier evaluations of the run. Picklable.

    The scenes' scores and measures are lines of heldout.jsonl in `run_dir`. A line is written again when its version
    is evaluated again, and later ones are ignored until then, so a resumed run sees what an undisturbed one does.
    """

    held: HeldOutSet
    run_dir: Path

    def __call__(self, model: FlowModel, version: int) -> dict[str, Any]:
        """Fields of a metrics line, as `LoopConfig.evaluate` wants them."""
        return self.record(self.held.score(model), version)

    def record(self, scored: HeldOut, version: int) -> dict[str, Any]:
        """Add an evaluation to the run's history: {"heldout", "monitor", "alarms"} of a metrics line.

        Raises PrismError when the history is of other clips.
        """
        found = _evaluation(scored, version)
        raised = alarms([*self.history(version), found])
        self._journal.rewind(version - 1)
        self._journal.append(_as_record(found))
        return {
            "heldout": scored.means(),
            "monitor": measured(scored),
            "alarms": _told(raised, scored),
        }

    def history(self, version: int) -> list[Evaluation]:
        """The evaluations of earlier versions, the start being version 0."""
        return [_from_record(r) for r in self._journal.records() if r["version"] < version]

    def summary(self, before: Mapping[str, Any], after: HeldOut, version: int) -> dict[str, Any]:
        """`monitor` of summary.json: means at both ends, every alarm of the run, and what could raise none.

        before: of before.json; a run begun by an older program has nothing there.
        """
        history = [*self.history(version), _evaluation(after, version)]
        return {
            "before": (before.get("monitor") or {}).get("before"),
            "after": measured(after),
            "alarms": _told(all_alarms(history), after),
            "unwatched": self.held.unwatched,
        }

    @property
    def _journal(self) -> Journal:
        return Journal(self.run_dir / "heldout.jsonl")


def measured(scored: HeldOut) -> dict[str, dict[str, Any]]:
    """Mean and standard error of what watches each dimension; absent where nothing does.

    Of a judge that said nothing about some clips also "silent", their number, and "reason", the commonest.
    """
    found: dict[str, dict[str, Any]] = {name: e.as_dict() for name, e in estimates(scored.watched).items()}
    for name, reasons in scored.silent.items():
        nothing = {"mean": None, "stderr": None, "n": 0}
        found[name] = found.get(name, nothing) | {"silent": len(reasons), "reason": commonest(reasons)}
    return found


def _told(raised: Iterable[Alarm], scored: HeldOut) -> list[dict[str, Any]]:
    """Alarms as plain values, with the judge that raised them where it was one."""
    named = {name: {"judge": title} for name, title in scored.judges.items()}
    return [alarm.as_dict() | named.get(alarm.dimension, {}) for alarm in raised]


def _evaluation(scored: HeldOut, version: int) -> Evaluation:
    return Evaluation(version, scored.clip_ids, scored.scenes, scored.watched)


def _as_record(found: Evaluation) -> dict[str, Any]:
    """iteration: as the journal counts, the one that ended in this version."""
    blocks = {"trained": found.trained, "watched": found.watched}
    columns = {key: {name: [float(v) for v in block[name]] for name in block} for key, block in blocks.items()}
    return {"iteration": found.version - 1, "version": found.version, "clips": list(found.clips), **columns}


def _from_record(record: Mapping[str, Any]) -> Evaluation:
    trained, watched = (_columns(record[key]) for key in ("trained", "watched"))
    return Evaluation(record["version"], tuple(record["clips"]), trained, watched)


def _columns(block: Mapping[str, Sequence[float | None]]) -> dict[str, np.ndarray]:
    """{dimension: (B,)}; null is NaN."""
    return {name: np.array(values, dtype=np.float64) for name, values in block.items()}
