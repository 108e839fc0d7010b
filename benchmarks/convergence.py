"""Held-out reward against evaluations, wall and CPU seconds, for every variant and seed.

Run: python -m benchmarks.convergence --out runs/convergence --variants fast official --seeds 0 1 2 3 4 --jobs 2
     python -m benchmarks.convergence --out runs/tuning --tuning --variants official --lr 3e-4 6e-4 1.2e-3
One process and one JSON file per (variant, seed); a run whose file exists is skipped. Every iteration takes the laptop
recipe's prompts and rewards; after every few of them the averaged weights are judged with the clock stopped.
`--tuning` judges on scenes of their own, so that nothing is ever chosen on the held-out ones.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.run import Iteration, Run
from benchmarks.variants import METHODS, VARIANTS, distinct, variant
from benchmarks.world import World, laptop, world
from evaluation.heldout import HeldOut
from settings import PrismError

SCHEMA = 1


@dataclass(frozen=True)
class Job:
    """One run: its file's name says which."""

    variant: str
    seed: int
    lr: float | None = None

    @property
    def name(self) -> str:
        """Unique in a folder."""
        return self.variant + (f"@{self.lr:g}" if self.lr is not None else "") + f".seed{self.seed}"


def train(place: World, job: Job, iterations: int, every: int) -> dict[str, Any]:
    """Run a job to its end; returns the contents of its file.

    `evaluations` hold, cumulated up to each: iteration, nfe, wall_s, cpu_s, and per mode ("plain", and "guided" at the
    variant's own scale if it samples with guidance) the scores of every scene in every dimension.
    """
    chosen, recipe = variant(job.variant), place.recipe
    algorithm, optimiser = chosen.configure(recipe), chosen.optimise(recipe, job.lr)
    run = Run(place, algorithm, optimiser, job.seed, released=chosen.released)
    totals: dict[str, float] = dict.fromkeys(("rollout", "trained", "reference", "wall_s", "cpu_s"), 0)
    evaluations, steps = [_evaluate(run, totals)], []
    while run.learner.version < iterations:
        done = run.iterate()
        steps.append(_line(done))
        for name, count in done.nfe.items():
            totals[name] += count
        totals["wall_s"] += done.seconds["wall"]["iteration"]
        totals["cpu_s"] += done.seconds["cpu"]["iteration"]
        if run.learner.version % every == 0 or run.learner.version == iterations:
            evaluations.append(_evaluate(run, totals))
    return {
        "schema": SCHEMA,
        **asdict(job),
        "title": chosen.title,
        "split": place.split,
        "clips": [reference.clip_id for reference in place.held.references],
        "algorithm": algorithm.model_dump(mode="json"),
        "optimiser": optimiser.model_dump(mode="json"),
        "released": chosen.released,
        "machine": describe(),
        "evaluations": evaluations,
        "iterations": steps,
    }


def _evaluate(run: Run, totals: dict[str, float]) -> dict[str, Any]:
    """The averaged weights on the judged scenes, as the training loop judges them."""
    learner, held, guidance = run.learner, run.world.held, run.algorithm.cfg_scale
    with learner.ema.applied(learner.parameters), torch.no_grad():
        scores = {"plain": _columns(held.score(learner.model))}
        if guidance != 1:
            scores["guided"] = _columns(held.score(learner.model, guidance))
    nfe = {name: int(totals[name]) for name in ("rollout", "trained", "reference")}
    return {
        "iteration": learner.version,
        "nfe": nfe,
        "wall_s": round(totals["wall_s"], 4),
        "cpu_s": round(totals["cpu_s"], 4),
        "scores": scores,
    }


def _columns(scored: HeldOut) -> dict[str, list[float | None]]:
    return {name: [_plain(v) for v in values] for name, values in {**scored.scenes, "total": scored.total}.items()}


def _plain(value: Any) -> Any:
    return round(float(value), 5) if np.isfinite(value) else None


def _line(done: Iteration) -> dict[str, Any]:
    wanted = ("grad_norm", "clip_fraction", "ratio_max", "kl", "mismatch", "conflict", "policy_kl")
    return {
        "iteration": done.index,
        "start": done.start,
        "nfe": done.nfe,
        "groups": done.groups,
        "refilled": done.refilled,
        "wall_s": {name: round(value, 5) for name, value in done.seconds["wall"].items()},
        "reward": done.reward,
        "spread": done.spread,
        "learner": {name: done.learner[name] for name in wanted if name in done.learner},
    }


def path_of(out: Path, job: Job) -> Path:
    """Where a job's result lies."""
    return out / f"{job.name}.json"


def finished(out: Path, job: Job, iterations: int) -> bool:
    """Whether the job ran to its end. Raises PrismError when its file is of a run of another length."""
    path = path_of(out, job)
    if not path.exists():
        return False
    last = json.loads(path.read_text(encoding="utf-8"))["evaluations"][-1]["iteration"]
    if last != iterations:
        raise PrismError(f"{path} holds {last} iterations, {iterations} were asked for; choose another --out folder.")
    return True


def _work(job: Job, options: argparse.Namespace) -> None:
    """A job in this process; its file appears whole or not at all."""
    place = world(laptop(options.set), options.out, _split(options))
    result = train(place, job, options.iterations, options.every)
    partial = options.out / f".{job.name}.tmp"
    partial.write_text(json.dumps(result), encoding="utf-8")
    os.replace(partial, path_of(options.out, job))


def _spawn(job: Job, options: argparse.Namespace) -> str | None:
    """A job in a process of its own; returns what went wrong."""
    command = [
        sys.executable, "-m", "benchmarks.convergence", "--out", str(options.out), "--variants", job.variant,
        "--seeds", str(job.seed), "--iterations", str(options.iterations), "--every", str(options.every), "--here",
    ]  # fmt: skip
    command += ["--lr", str(job.lr)] if job.lr is not None else []
    command += ["--tuning"] if options.tuning else []
    command += ["--set", *options.set] if options.set else []
    found = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if found.returncode:
        return f"{job.name} ended with {found.returncode}:\n{found.stderr[-2000:]}"
    print(f"{job.name} done", flush=True)
    return None


def _split(options: argparse.Namespace) -> Any:
    return "tuning" if options.tuning else "heldout"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line. Raises PrismError for an unknown variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/convergence"))
    parser.add_argument("--variants", nargs="+", default=list(METHODS), help="names, or `all`, or `ablations`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--iterations", type=int, default=laptop().learner.iterations)
    parser.add_argument("--every", type=int, default=5, help="iterations between evaluations")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--lr", type=float, nargs="+", default=None, help="learning rates instead of the variants' own")
    parser.add_argument("--tuning", action="store_true", help="judge on the tuning scenes, to choose settings")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="overrides of the laptop recipe")
    parser.add_argument("--here", action="store_true", help="run in this process instead of one per job")
    options = parser.parse_args(arguments)
    if options.variants in (["all"], ["ablations"]):
        options.variants = [n for n in VARIANTS if options.variants == ["all"] or n.startswith("fast")]
    if options.lr is not None and not options.tuning and not options.here:
        raise PrismError("--lr chooses a setting, so it needs --tuning; held-out scenes are for the chosen one only.")
    for name in options.variants:
        variant(name)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing; exits with 1 when a run failed."""
    options = parse(arguments)
    options.out = options.out.resolve()
    names, same = distinct(options.variants, laptop(options.set))
    if same:
        print(f"Left out, since `fast` is the same: {', '.join(same)}")
    jobs = [Job(name, seed, lr) for seed, name, lr in product(options.seeds, names, options.lr or [None])]
    jobs = [job for job in jobs if not finished(options.out, job, options.iterations)]
    if options.here:
        for job in jobs:
            _work(job, options)
        return
    if jobs:
        world(laptop(options.set), options.out, _split(options))  # once, before several processes want it
    with ThreadPoolExecutor(options.jobs) as pool:
        failures = [text for text in pool.map(lambda job: _spawn(job, options), jobs) if text]
    for text in failures:
        print(text, file=sys.stderr)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
