"""A folder of convergence runs as curves, levels reached, speed-ups and paired differences."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import RESAMPLES, Interval, crossing, percentile, student
from benchmarks.variants import VARIANTS
from settings import PrismError

BUDGETS = ("nfe", "wall_s", "cpu_s")
DIMENSIONS = ("semantic", "temporal", "aesthetic", "spatial")
RUNS_FOR_BOUNDS = 2


@dataclass(frozen=True)
class Seed:
    """One run. budgets: {"iteration" | "nfe" | "wall_s" | "cpu_s": (E,)} spent up to each of E evaluations.

    scores: {mode: {dimension or "total": (E, scenes)}}, NaN where missing.
    """

    variant: str
    title: str
    seed: int
    lr: float
    split: str
    clips: tuple[str, ...]
    budgets: dict[str, np.ndarray]
    scores: dict[str, dict[str, np.ndarray]]
    machine: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Seed":
        """From a file of `benchmarks.convergence`."""
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = found["evaluations"]
        budgets = {name: np.array([row[name] for row in rows], float) for name in ("iteration", "wall_s", "cpu_s")}
        budgets["nfe"] = np.array([sum(row["nfe"].values()) for row in rows], float)
        modes = rows[0]["scores"]
        scores = {
            mode: {name: np.array([row["scores"][mode][name] for row in rows], float) for name in modes[mode]}
            for mode in modes
        }
        return cls(
            found["variant"], found["title"], found["seed"], found["optimiser"]["lr"], found["split"],
            tuple(found["clips"]), budgets, scores, found["machine"],
        )  # fmt: skip


@dataclass(frozen=True)
class Method:
    """All seeds of one variant (at one learning rate), over one grid of evaluations."""

    name: str
    title: str
    lr: float
    seeds: tuple[Seed, ...]

    @property
    def mode(self) -> str:
        """How it is judged: as it is best, with its own guidance or without."""
        modes = self.seeds[0].scores
        return max(modes, key=lambda mode: float(np.nanmean([s.scores[mode]["total"][-1] for s in self.seeds])))

    def curve(self, column: str = "total", mode: str | None = None) -> np.ndarray:
        """(seeds, E) mean over scenes."""
        return np.array([np.nanmean(seed.scores[mode or self.mode][column], axis=1) for seed in self.seeds])

    def budget(self, name: str) -> np.ndarray:
        """(seeds, E)."""
        return np.array([seed.budgets[name] for seed in self.seeds])

    def final(self, column: str = "total", mode: str | None = None) -> Interval:
        """Score of the last evaluation, mean over seeds."""
        return student(self.curve(column, mode)[:, -1])

    def gain(self, column: str = "total") -> Interval:
        """Last minus first evaluation on the same scenes and noise, mean over seeds."""
        curve = self.curve(column)
        return student(curve[:, -1] - curve[:, 0])


def read(folder: Path, wall: Mapping[str, float] | None = None) -> list[Method]:
    """The methods of a folder, in the order of `VARIANTS`, then by learning rate.

    wall: {variant: wall seconds of one iteration} where that was measured on a quiet machine; replaces the runs' own,
    which other processes may have stretched.
    Raises PrismError for an empty folder and for runs that did not judge the same scenes at the same iterations.
    """
    found = [_at_pace(Seed.read(path), wall or {}) for path in sorted(folder.glob("*.json"))]
    if not found:
        raise PrismError(f"There are no finished runs in {folder}; start some with `python -m benchmarks.convergence`.")
    first = found[0]
    for seed in found:
        alike = seed.clips == first.clips and seed.split == first.split
        if not alike or not np.array_equal(seed.budgets["iteration"], first.budgets["iteration"]):
            raise PrismError(
                f"{folder} mixes runs: {seed.variant} seed {seed.seed} judged other scenes or iterations than "
                f"{first.variant} seed {first.seed}. Keep one comparison per folder."
            )
    order = {name: place for place, name in enumerate(VARIANTS)}
    keys = sorted({(seed.variant, seed.lr) for seed in found}, key=lambda key: (order.get(key[0], len(order)), *key))
    return [
        Method(name, seeds[0].title, lr, tuple(sorted(seeds, key=lambda seed: seed.seed)))
        for name, lr in keys
        if (seeds := [seed for seed in found if (seed.variant, seed.lr) == (name, lr)])
    ]


def _at_pace(seed: Seed, wall: Mapping[str, float]) -> Seed:
    if seed.variant not in wall:
        return seed
    return replace(seed, budgets={**seed.budgets, "wall_s": seed.budgets["iteration"] * wall[seed.variant]})


def needed(method: Method, level: float, budget: str) -> float:
    """Budget at which the mean curve over seeds first reaches a level; NaN if it never does."""
    return crossing(method.budget(budget).mean(0), method.curve().mean(0), level)


@dataclass(frozen=True)
class SpeedUp:
    """How many times the budget of `base` over that of `method` is, up to `level`, the final reward of `target`.

    bound: the base never got there, so its whole budget counts and the ratio is a lower bound.
    """

    target: str
    level: float
    base: float
    method: float
    ratio: Interval
    bound: bool


def speed_up(method: Method, base: Method, budget: str, target: Method | None = None) -> SpeedUp:
    """To the final reward of `target` (default: the base). Seeds are resampled per method, and the level with them."""
    goal = target or base
    used = {m.name: m for m in (method, base, goal)}
    sizes = {name: len(m.seeds) for name, m in used.items()}
    curves, budgets = {n: m.curve() for n, m in used.items()}, {n: m.budget(budget) for n, m in used.items()}

    def spent(rows: dict[str, np.ndarray]) -> tuple[float, float, float, bool]:
        level = float(curves[goal.name][rows[goal.name], -1].mean())
        theirs, ours = (
            crossing(budgets[m.name][rows[m.name]].mean(0), curves[m.name][rows[m.name]].mean(0), level)
            for m in (base, method)
        )
        bound = not np.isfinite(theirs)
        whole = float(budgets[base.name][rows[base.name], -1].mean())
        return level, whole if bound else theirs, ours, bound

    level, theirs, ours, bound = spent({name: np.arange(size) for name, size in sizes.items()})
    random, ratios = np.random.default_rng(0), []
    for _ in range(RESAMPLES if min(sizes.values()) >= RUNS_FOR_BOUNDS else 0):
        _, other, mine, _ = spent({name: random.integers(size, size=size) for name, size in sizes.items()})
        ratios.append(_ratio(other, mine))
    return SpeedUp(goal.name, level, theirs, ours, percentile(_ratio(theirs, ours), np.array(ratios)), bound)


def _ratio(theirs: float, ours: float) -> float:
    return theirs / ours if ours > 0 else float("nan")


def difference(method: Method, base: Method, at: Callable[[Seed, str], np.ndarray]) -> Interval:
    """Mean over common seeds of the paired difference in total; `at` gives a seed's (scenes,) scores in a mode."""
    ours, theirs = ({seed.seed: seed for seed in m.seeds} for m in (method, base))
    pairs = [
        float(np.nanmean(at(ours[k], method.mode) - at(theirs[k], base.mode))) for k in sorted(ours.keys() & theirs)
    ]
    return student(np.array(pairs))


def at_end(seed: Seed, mode: str) -> np.ndarray:
    """Total per scene at the last evaluation: equal iterations."""
    return seed.scores[mode]["total"][-1]


def at_budget(name: str, amount: float) -> Callable[[Seed, str], np.ndarray]:
    """Total per scene once `amount` of a budget is spent, linearly between evaluations; the end if it is not."""

    def scores(seed: Seed, mode: str) -> np.ndarray:
        x, y = seed.budgets[name], seed.scores[mode]["total"]
        after = int(np.searchsorted(x, amount))
        if after == 0 or after >= len(x):
            return y[min(after, len(x) - 1)]
        share = (amount - x[after - 1]) / (x[after] - x[after - 1])
        return y[after - 1] + share * (y[after] - y[after - 1])

    return scores
