"""A run folder as the report sees it; any piece may be missing: a report is wanted most while a run is unfinished."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cot_service.plan import DIMENSIONS
from evaluation import names
from evaluation.samples import SamplePair, read_samples
from settings import PrismError


@dataclass(frozen=True)
class Point:
    """A held-out score after `version` updates; stderr over scenes where known."""

    version: int
    mean: float
    stderr: float | None = None


@dataclass(frozen=True)
class RunData:
    """Contents of a run folder.

    summary: of summary.json; of an unfinished run, the scores of before.json in the same form.
    problems: what is missing or unreadable, in words for the reader.
    """

    path: Path
    config: str
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    pairs: list[SamplePair]
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def finished(self) -> bool:
        """Whether the run wrote its summary."""
        return "iterations" in self.summary

    @property
    def iterations(self) -> int:
        """Finished iterations."""
        known = [version(line) for line in self.metrics]
        return int(self.summary.get("iterations") or max(known, default=0))

    @cached_property
    def dimensions(self) -> tuple[str, ...]:
        """The rewards this run has: those it scored, else those of its recipe, else the usual four."""
        heldout = self.summary.get("heldout") or {}
        blocks = [heldout.get("before"), heldout.get("after")]
        blocks += [line.get(key) for line in self.metrics for key in ("reward", "heldout")]
        known = [name for block in (*blocks, self.scorers) for name in names.scored(block)]
        return names.ordered(known or DIMENSIONS)

    @property
    def columns(self) -> tuple[str, ...]:
        """The rewards and their total."""
        return (*self.dimensions, "total")

    @cached_property
    def scorers(self) -> dict[str, str]:
        """Scorer of each reward by the recipe; "" for the embedded one."""
        return names.configured(names.recipe_of(self.config), "scorers")

    @cached_property
    def judges(self) -> dict[str, str]:
        """Judge of each dimension that has one by the recipe."""
        return names.configured(names.recipe_of(self.config), "judges")

    @property
    def monitored(self) -> tuple[str, ...]:
        """The rewards, and what else is watched."""
        blocks = [
            self.monitor.get("before"),
            self.monitor.get("after"),
            *(line.get("monitor") for line in self.metrics),
        ]
        return names.ordered([*self.dimensions, *(name for block in blocks for name in names.scored(block))])

    def tone(self, column: str) -> str:
        """Class of a reward or of `total` in the style sheet."""
        return names.tone(column, self.monitored)

    def values(self, column: str) -> list[float]:
        """Every training and held-out score of a column."""
        return [y for _, y in self.training(column)] + [p.mean for p in self.heldout(column)]

    def beside(self, column: str) -> list[str]:
        """The columns drawn on the same scale as this one: those within [0, 1] share theirs, others have their own.

        The total is drawn on the shared scale when all its parts are.
        """
        shared = [name for name in self.dimensions if all(-1e-6 <= y <= 1 + 1e-6 for y in self.values(name))]
        alike = len(shared) == len(self.dimensions) if column == "total" else column in shared
        return shared if alike else [column]

    @property
    def gated(self) -> dict[str, dict[str, Any]]:
        """{dimension: {"clips": held-out clips that it says nothing about, "reason"}} of a finished run."""
        return (self.summary.get("heldout") or {}).get("gated") or {}

    def training(self, column: str) -> list[tuple[int, float]]:
        """(version, mean reward of the iteration's samples) of a dimension or of `total`."""
        return list(self._curve(lambda line: (line.get("reward") or {}).get(column, line.get(column))))

    def metric(self, *keys: str) -> list[tuple[int, float]]:
        """(version, value) of a field of metrics.jsonl, nested by `keys`."""

        def find(line: dict[str, Any]) -> Any:
            value: Any = line
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            return value

        return list(self._curve(find))

    def _curve(self, find: Any) -> Iterator[tuple[int, float]]:
        for line in self.metrics:
            value = find(line)
            if isinstance(value, (int, float)) and value == value:
                yield version(line), float(value)

    def heldout(self, column: str) -> list[Point]:
        """Held-out scores over the run: those of the metrics, with the summary's at both ends."""
        points = {v: Point(v, mean) for v, mean in self._curve(lambda m: (m.get("heldout") or {}).get(column))}
        for key, at in (("before", 0), ("after", self.iterations)):
            score = score_of((self.summary.get("heldout") or {}).get(key), column)
            if score is not None:
                points[at] = Point(at, *score)
        return [points[at] for at in sorted(points)]

    def watched(self, column: str) -> list[Point]:
        """What watches a dimension over the run, like `heldout`; empty where nothing does."""
        points = {}
        for line in self.metrics:
            if (score := score_of(line.get("monitor"), column)) is not None:
                points[version(line)] = Point(version(line), *score)
        for key, at in (("before", 0), ("after", self.iterations)):
            if (score := score_of(self.monitor.get(key), column)) is not None:
                points[at] = Point(at, *score)
        return [points[at] for at in sorted(points)]

    @property
    def monitor(self) -> dict[str, Any]:
        """`monitor` of summary.json; empty for a run without one."""
        return self.summary.get("monitor") or {}

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """Every alarm of the run, by the update it was raised at."""
        found = {}
        for alarm in [a for line in self.metrics for a in line.get("alarms") or ()] + (
            self.monitor.get("alarms") or []
        ):
            found[alarm["dimension"], alarm["iteration"]] = alarm
        return sorted(found.values(), key=lambda alarm: alarm["iteration"])

    def parted(self, column: str) -> tuple[int, int] | None:
        """The updates from the watcher's best to the last alarm of a dimension; None without an alarm."""
        raised = [alarm for alarm in self.alarms if alarm["dimension"] == column]
        return (min(a["since_iteration"] for a in raised), raised[-1]["iteration"]) if raised else None

    def ends(self, column: str) -> tuple[Point | None, Point | None]:
        """First and last held-out score; the last is None until there are two."""
        points = self.heldout(column)
        return (points[0] if points else None), (points[-1] if len(points) > 1 else None)


def version(line: dict[str, Any]) -> int:
    """Updates finished when a metrics line was written."""
    return int(line.get("version", line.get("iteration", -1) + 1))


def score_of(block: dict[str, Any] | None, column: str) -> tuple[float, float | None] | None:
    """(mean, stderr) of a column in a block of held-out scores; None where it was not scored."""
    entry = (block or {}).get(column) or {}
    mean, stderr = entry.get("mean"), entry.get("stderr")
    if mean is None or mean != mean:
        return None
    return float(mean), float(stderr) if stderr is not None and stderr == stderr else None


def load_run(path: str | Path) -> RunData:
    """Read a run folder. Raises PrismError when it is not a folder or holds neither config, metrics nor summary."""
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise PrismError(f"{path} is not a run folder; give the path of one, for example runs/latest.")
    files = {name: folder / name for name in ("config.yaml", "metrics.jsonl", "summary.json")}
    if not any(f.is_file() for f in files.values()):
        raise PrismError(f"{path} holds none of {', '.join(files)}; is it the folder of a run?")
    problems = [f"{name} is not there yet." for name, file in files.items() if not file.is_file()]
    config = files["config.yaml"].read_text(encoding="utf-8") if files["config.yaml"].is_file() else ""
    metrics = _read_metrics(files["metrics.jsonl"], problems)
    summary = _read_json(files["summary.json"], problems)
    if not summary and (early := _read_json(folder / "before.json", problems)):
        scores = {"before": early.get("scores"), "guided": early.get("guided")}
        summary = {"heldout": scores, "monitor": early.get("monitor")}
    return RunData(folder, config, metrics, summary, read_samples(folder, problems), problems)


def _read_metrics(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The lines by version; a line that a resumed run wrote again replaces the earlier one."""
    lines: dict[int, dict[str, Any]] = {}
    broken = 0
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
            lines[version(line)] = line
        except (ValueError, AttributeError, TypeError):
            broken += 1
    if broken:
        problems.append(f"{broken} unreadable line{'s' * (broken > 1)} of metrics.jsonl left out.")
    return [lines[key] for key in sorted(lines)]


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problems.append(f"{path.name} is unreadable: {error}.")
        return {}
    return content if isinstance(content, dict) else {}
