"""Quality against velocity evaluations of every solver: distance to the exact path and held-out rewards.

Run: OMP_NUM_THREADS=1 python -m benchmarks.solvers --out runs/solvers.json
     python -m benchmarks.report --solvers runs/solvers.json
The distance is that of the latents to a fine Heun solution from the same noise, RMS over the solution's RMS, averaged
over scenes. Rewards are those of the recipe on scenes that nothing was trained on. The transformer in the released
shape (194 frames, guidance 5) has random weights at a reduced width: it tells how solvers order on such a field, not
what a trained one needs.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.tables import solvers as table
from benchmarks.world import World, laptop, world
from evaluation.heldout import evaluate
from foundation.build import load_model
from foundation.conditions import Conditions
from foundation.config import ModelConfig
from foundation.generate import SamplerConfig, sample_latents
from foundation.model import FlowModel, initialise_unit_gain
from foundation.output import limit_peak
from foundation.sampling import group_noise
from foundation.solvers import SOLVERS, TWO_STAGE
from pipelines.recipe import ASSETS, find

SCHEMA = 1
NFE = (4, 6, 8, 12, 16, 24, 32, 48)
FINE = SamplerConfig(solver="heun", steps=128)
# Where guidance acts, beside everywhere: noise levels (low, high].
INTERVALS = ((0.0, 0.6), (0.2, 0.8), (0.4, 1.0))
Judge = Callable[[Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Field:
    """A model with conditions and noise. judge: rewards of latents, where there are any."""

    title: str
    flow: FlowModel
    conditions: Conditions
    noise: Tensor
    judge: Judge | None = None

    def solve(self, config: SamplerConfig) -> Tensor:
        """Latents (B, C, L)."""
        return sample_latents(self.flow, self.conditions, self.noise, config)


def settings(guidance: float, budgets: Sequence[int]) -> Iterator[SamplerConfig]:
    """Every solver at every number of evaluations that its steps add up to."""
    for name in SOLVERS:
        for nfe in budgets:
            per = (2 if name in TWO_STAGE else 1) * (1 if guidance == 1 else 2)
            if nfe % per == 0:
                yield SamplerConfig(solver=name, steps=nfe // per, guidance=guidance)


def measure(field: Field, guidance: float, budgets: Sequence[int], intervals: bool = True) -> dict[str, Any]:
    """A panel: the fine solution's rewards, every setting's, and those of guidance in intervals."""
    exact = field.solve(FINE.model_copy(update={"guidance": guidance}))
    points = [_point(field, config, exact) for config in settings(guidance, budgets)]
    narrow = []
    if guidance != 1 and intervals:
        steps = max(budgets) // 4
        for interval in INTERVALS:
            config = SamplerConfig(solver="dpmpp2m", steps=steps, guidance=guidance, guidance_interval=interval)
            narrow.append({"interval": interval, **_point(field, config)})
        narrow.append({"interval": (0.0, 1.0), **_point(field, SamplerConfig(**_like(config, guidance)))})
    return {
        "title": field.title,
        "guidance": guidance,
        "exact": field.judge(exact) if field.judge else None,
        "points": points,
        "intervals": narrow,
    }


def distance(found: Tensor, exact: Tensor) -> float:
    """RMS of the difference over the RMS of the exact latents, averaged over clips."""
    both = (-2, -1)
    return float(((found - exact).square().mean(both) / exact.square().mean(both)).sqrt().mean())


def _like(config: SamplerConfig, guidance: float) -> dict[str, Any]:
    return {"solver": config.solver, "steps": config.steps, "guidance": guidance}


def _point(field: Field, config: SamplerConfig, exact: Tensor | None = None) -> dict[str, Any]:
    found = field.solve(config)
    return {
        "solver": config.solver,
        "steps": config.steps,
        "nfe": config.nfe,
        "distance": None if exact is None else distance(found, exact),
        "rewards": field.judge(found) if field.judge else None,
    }


def embedded(place: World, title: str, flow: FlowModel, scenes: int) -> Field:
    """The embedded model's held-out scenes, judged by the recipe's scorers."""
    held, codec = place.held, place.foundation.codec
    group = held.groups[0]
    chosen = group.places[:scenes]
    shape = (codec.channels, group.frames)
    noise = torch.stack([group_noise(held.config.seed, 0, index, shape) for index in chosen])
    references = [held.references[index] for index in chosen]

    @torch.inference_mode()
    def judge(latents: Tensor) -> dict[str, Any]:
        waveforms = limit_peak(codec.decode(latents)).numpy()
        scored = evaluate(
            lambda rows: waveforms[list(rows)],
            range(len(chosen)),
            references,
            place.scorers,
            codec.sample_rate,
            batch=64,
        )
        return {**scored.means(), "scenes": [round(float(value), 5) for value in scored.total]}

    return Field(title, flow, group.conditions[slice(0, len(chosen))], noise, judge)


def random_field(width: int, depth: int, frames: int, clips: int = 2) -> Field:
    """The released architecture with random weights, none of them zero."""
    dims = {"video_dim": width, "text_dim": width, "sync_dim": width}
    config = ModelConfig(latent_channels=64, width=width, depth=depth, heads=max(1, width // 64), **dims)
    torch.manual_seed(0)
    flow = FlowModel(config)
    initialise_unit_gain(flow)
    with torch.no_grad():
        for parameter in flow.trainable().values():
            if not parameter.any():
                parameter.normal_(0, 0.3 / width**0.5)
    tokens = {"video": round(frames * 36 / 194), "text": 64, "sync": round(frames * 216 / 194)}
    conditions = Conditions(**{name: torch.randn(clips, count, width) for name, count in tokens.items()})
    noise = torch.stack([group_noise(0, 0, index, (64, frames)) for index in range(clips)])
    return Field(f"random, {width} wide", flow.eval().requires_grad_(False), conditions, noise)


def run(place: World, scenes: int, budgets: Sequence[int], width: int, depth: int, frames: int) -> dict[str, Any]:
    """Everything that the report shows."""
    trained = load_model(find(ASSETS / "posttrained.safetensors", "model")).model.requires_grad_(False)
    fields = [
        embedded(place, "pre-trained", place.foundation.flow, scenes),
        embedded(place, "post-trained", trained, scenes),
    ]
    panels = [measure(field, guidance, budgets) for field in fields for guidance in (1.0, 2.0)]
    guided = [nfe for nfe in budgets if nfe >= 8]
    panels.append(measure(random_field(width, depth, frames), 5.0, guided or budgets, intervals=False))
    return {
        "schema": SCHEMA,
        "machine": describe(),
        "scenes": len(fields[0].noise),
        "fine": FINE.steps,
        "panels": panels,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/solvers.json"))
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--nfe", type=int, nargs="+", default=list(NFE))
    parser.add_argument("--width", type=int, default=192, help="of the random transformer")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--frames", type=int, default=194)
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="overrides of the laptop recipe")
    options = parser.parse_args(arguments)
    place = world(laptop(options.set), options.out.parent)
    found = run(place, options.scenes, options.nfe, options.width, options.depth, options.frames)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
