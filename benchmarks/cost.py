"""Cost of one iteration of each method at equal N, P, T and model, in one run.

Run: python -m benchmarks.cost --out runs/cost.json --steps 16 24
All methods take turns in one process (A B C D B C D A ...), so that the machine's noise hits all alike. Windows go
through every start that a method's policy has, and what the sampled starts miss of their exact mean is taken out by
regression on the evaluations. Peak memory is measured in a child process per method: resident memory of its second
iteration, window at the first start, above that of the loaded world.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import Interval, adjusted_mean, bootstrap
from benchmarks.machine import describe
from benchmarks.memory import forget_peak, peak_mib, resident_mib
from benchmarks.meter import model_seconds
from benchmarks.run import Iteration, Run
from benchmarks.variants import nfe, starts, variant
from benchmarks.world import World, laptop, world

NAMES = ("full_sde", "full_sde_cfg", "official", "official_no_cfg", "paper", "fast")
BASE = "fast"
KINDS = ("wall", "cpu")
# Whole iteration; velocity forward and backward; then its parts, which add up to the iteration.
MEASURES = ("iteration", "model", "rollout", "update", "codec", "rewards", "rest")


def new_run(place: World, name: str, steps: int, seed: int) -> Run:
    """A variant at the start of training, on a grid of `steps` steps."""
    chosen = variant(name)
    config = chosen.configure(place.recipe, steps=steps)
    return Run(place, config, chosen.optimise(place.recipe), seed, released=chosen.released)


def rounds_for(place: World, names: Sequence[str], steps: int) -> int:
    """Rounds in which every method visits each of its window starts at least once."""
    return max(len(starts(variant(name).configure(place.recipe, steps=steps))) for name in names)


def measure(place: World, names: Sequence[str], steps: int, rounds: int, seed: int = 0) -> list[dict[str, Any]]:
    """One row per round and variant: window start, evaluations, and seconds of every measure, wall and CPU."""
    runs = {name: new_run(place, name, steps, seed) for name in names}
    for run in runs.values():
        run.iterate(start=starts(run.algorithm)[0])  # buffers, optimiser state and code paths, once
    random = np.random.default_rng(seed)
    random = np.random.default_rng(seed)
    order = {name: random.permutation(starts(run.algorithm)).tolist() for name, run in runs.items()}
    rows = []
    for turn in range(rounds):
        shift = turn % len(names)
        for name in [*names[shift:], *names[:shift]]:
            start = order[name][turn % len(order[name])]
            with runs[name].instrumented():
                done = runs[name].iterate(start=start)
            rows.append({"round": turn, "variant": name, "start": start, "nfe": done.nfe, **seconds(done)})
    return rows


def seconds(done: Iteration) -> dict[str, dict[str, float]]:
    """An iteration's measures; the sampler's share of `rollout` is without the codec that is called inside it."""
    found = {}
    for kind in KINDS:
        stage = done.seconds[kind]
        parts = {
            "rollout": stage["rollout"] - stage["codec"],
            "update": stage["update"],
            "codec": stage["codec"],
            "rewards": stage["rewards"],
        }
        whole = stage["iteration"]
        rest = whole - sum(parts.values())
        found[kind] = {"iteration": whole, "model": model_seconds(stage), **parts, "rest": rest}
    return found


def summarise(place: World, rows: Sequence[dict[str, Any]], names: Sequence[str], steps: int) -> dict[str, Any]:
    """Per variant: expected evaluations, mean seconds, and how many times `fast`'s they are, with 95 % intervals."""
    rounds = 1 + max(row["round"] for row in rows)
    table = {name: [row for row in rows if row["variant"] == name] for name in names}
    spent = {name: np.array([sum(row["nfe"].values()) for row in found], float) for name, found in table.items()}
    expected = {name: expected_nfe(place, name, steps) for name in names}

    def mean(name: str, kind: str, what: str, chosen: np.ndarray) -> float:
        cost = np.array([row[kind][what] for row in table[name]])[chosen]
        return adjusted_mean(cost, spent[name][chosen], sum(expected[name].values()))

    def ratio(name: str, kind: str, what: str, chosen: np.ndarray) -> float:
        return mean(name, kind, what, chosen) / mean(BASE, kind, what, chosen)

    def entry(name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"title": variant(name).title, "nfe": expected[name]}
        for kind in KINDS:
            found[kind] = {what: _plain(bootstrap(partial(mean, name, kind, what), rounds)) for what in MEASURES}
            ratios = {what: bootstrap(partial(ratio, name, kind, what), rounds) for what in ("iteration", "model")}
            found[f"{kind}_ratio"] = {what: _plain(interval) for what, interval in ratios.items()}
        return found

    return {name: entry(name) for name in names}


def expected_nfe(place: World, name: str, steps: int) -> dict[str, float]:
    """Mean evaluations of an iteration over all window starts."""
    chosen = variant(name)
    config = chosen.configure(place.recipe, steps=steps)
    counts = [nfe(config, start, chosen.released) for start in starts(config)]
    return {kind: float(np.mean([getattr(c, kind) for c in counts])) for kind in ("rollout", "trained", "reference")}


def memory(place: World, name: str, steps: int) -> dict[str, float]:
    """MiB resident with the world loaded, and at the peak of a variant's second iteration; for a process of its own."""
    before = resident_mib()
    run = new_run(place, name, steps, seed=0)
    first = starts(run.algorithm)[0]
    run.iterate(start=first)
    forget_peak()
    run.iterate(start=first)
    return {"world": before, "peak": peak_mib(), "rise": peak_mib() - before}


def _memory_of(options: argparse.Namespace, name: str, steps: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.cost", "--out", str(options.out), "--steps", str(steps)]
    command += ["--memory-of", name, *(["--set", *options.set] if options.set else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _plain(found: Interval) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in (found.value, found.low, found.high)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write one JSON file; `python -m benchmarks.report` makes tables and figures of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/cost.json"))
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 24], help="T")
    parser.add_argument("--variants", nargs="+", default=list(NAMES), help="`fast` must be among them")
    parser.add_argument("--rounds", type=int, default=None, help="default: as many as the most starts of a variant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="overrides of the laptop recipe")
    parser.add_argument("--memory-of", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory_of is None and BASE not in options.variants:
        parser.error(f"ratios are to {BASE!r}, which is not among the variants")
    recipe = laptop(options.set)
    place = world(recipe, options.out.parent)
    if options.memory_of is not None:
        print(json.dumps(memory(place, options.memory_of, options.steps[0])))
        return
    algorithm = recipe.algorithm
    result: dict[str, Any] = {
        "schema": 1, "machine": describe(), "seed": options.seed, "members": algorithm.group_size,
        "prompts": algorithm.prompts, "steps": {}, "rows": {},
    }  # fmt: skip
    for steps in options.steps:
        rounds = options.rounds or rounds_for(place, options.variants, steps)
        rows = measure(place, options.variants, steps, rounds, options.seed)
        found = summarise(place, rows, options.variants, steps)
        for name in options.variants:
            found[name]["memory_mib"] = _memory_of(options, name, steps)
            print(f"T={steps} {name}: {found[name]['wall']['iteration'][0]:.3f} s", flush=True)
        result["steps"][str(steps)] = {"rounds": rounds, "variants": found}
        result["rows"][str(steps)] = rows
    options.out.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
