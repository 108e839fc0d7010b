"""How the model's time per iteration grows with N, T, w, clip length and P, for `fast` and `official`.

Run: python -m benchmarks.scaling --out runs/scaling.json
One of them varies, the others stay at the laptop recipe's. The shipped model runs on random conditions of the right
shape, with random rewards: only velocity evaluations and gradients are timed. Cost is linear in the window's start, so
it is measured at the two starts around the policy's mean, in turns.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.messages import Prompt
from benchmarks.intervals import bootstrap
from benchmarks.machine import describe
from benchmarks.meter import model_seconds
from benchmarks.run import Run
from benchmarks.variants import nfe, starts, variant
from benchmarks.world import World, laptop
from foundation.build import Foundation, load_foundation
from foundation.encoders import EncoderConfig
from pipelines.heldout import HeldOutSet
from pipelines.recipe import TrainRecipe, find
from rewards_service.scores import Reference, Scores

METHODS = ("official", "fast")
SECONDS = 2.0


@dataclass(frozen=True)
class Axis:
    """What varies. field: of the algorithm section, or None for the clip's length in seconds."""

    label: str
    field: str | None
    values: tuple[float, ...]


AXES = {
    "N": Axis("members N", "group_size", (4, 8, 16, 32)),
    "T": Axis("steps T", "steps", (8, 16, 24, 32)),
    "w": Axis("window w", "window_size", (1, 2, 4, 8)),
    "L": Axis("clip length, s", None, (1.0, 2.0, 4.0, 8.0)),
    "P": Axis("prompts P", "prompts", (3, 6, 12, 24)),
}


class RandomScorer:
    """Rewards that cost nothing."""

    name = "random"

    def score(
        self, waveforms: np.ndarray, sample_rate: int, references: list[Reference], detail: bool = False
    ) -> Scores:
        """Uniform numbers, the same in every call."""
        return Scores(np.random.default_rng(0).random(waveforms.shape[:2]))


def synthetic(recipe: TrainRecipe, foundation: Foundation, seconds: float, count: int) -> World:
    """Prompts of one length with random features, at the rates of the embedded encoders."""
    config, random = foundation.flow.config, np.random.default_rng(0)
    shapes = {
        "video": (max(1, round(EncoderConfig().video_fps * seconds)), config.video_dim),
        "text": (12, config.text_dim),
        "sync": (foundation.frames(seconds), config.sync_dim),
    }
    prompts = [
        Prompt(
            f"clip{k}",
            {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()},
            Reference(f"clip{k}", "", seconds, (), (), 16.0),
        )
        for k in range(count)
    ]
    scorers: dict[str, Any] = {name: RandomScorer() for name in recipe.rewards.weights}
    return World(recipe, "heldout", foundation, prompts, HeldOutSet(foundation, [], {}, recipe.evaluation), scorers)


def point(place: World, name: str, changes: dict[str, Any], rounds: int) -> tuple[list[float], int]:
    """Wall seconds of the model per round, and evaluations at the window's mean start."""
    chosen = variant(name)
    config = chosen.configure(place.recipe, **changes)
    run = Run(place, config, chosen.optimise(place.recipe), seed=0, released=chosen.released)
    middle = starts(config)[-1] + starts(config)[0]
    pair = (middle // 2, middle - middle // 2)
    run.iterate(start=pair[0])
    found = []
    for turn in range(rounds):
        with run.instrumented():
            done = run.iterate(start=pair[turn % 2])
        found.append(model_seconds(done.seconds["wall"]))
    return found, round(sum(nfe(config, start, chosen.released).total for start in pair) / 2)


def curve(recipe: TrainRecipe, foundation: Foundation, axis: Axis, rounds: int) -> dict[str, Any]:
    """Every value of an axis for both methods, which take turns at each value."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    for value in axis.values:
        changes = {} if axis.field is None else {axis.field: int(value)}
        count = changes.get("prompts", recipe.algorithm.prompts)
        place = synthetic(recipe, foundation, value if axis.field is None else SECONDS, count)
        for name in METHODS:
            seconds, evaluations = point(place, name, changes, rounds)
            values = np.array(seconds)
            interval = bootstrap(lambda rows, v=values: float(v[rows].mean()), len(values))
            bounds = [v if np.isfinite(v) else interval.value for v in (interval.low, interval.high)]
            found[name].append({"value": value, "model_s": [interval.value, *bounds], "nfe": evaluations})
    return {"label": axis.label, "methods": found}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all axes and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/scaling.json"))
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--rounds", type=int, default=4, help="an even number weighs both starts alike")
    parser.add_argument("--values", type=int, default=None, help="only the first so many of each axis")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="overrides of the laptop recipe")
    options = parser.parse_args(arguments)
    recipe = laptop(options.set)
    foundation = load_foundation(find(recipe.model, "model"))
    axes = {}
    for name in options.axes:
        axis = AXES[name]
        axes[name] = curve(
            recipe, foundation, Axis(axis.label, axis.field, axis.values[: options.values]), options.rounds
        )
        print(f"{axis.label} done", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"schema": 1, "machine": describe(), "axes": axes}), encoding="utf-8")


if __name__ == "__main__":
    main()
