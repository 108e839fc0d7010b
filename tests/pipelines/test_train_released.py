"""Fast-GRPO on a forged release through the pipeline of the laptop recipe: the debug recipe, run and resumed."""

import json
import os
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from foundation import prismaudio
from foundation.build import load_model
from pipelines.recipe import TrainRecipe
from pipelines.train import train
from settings.load import load
from tests.pipelines.conftest import lines
from trainer.memory import estimate, peak

RECIPES = Path(__file__).parents[2] / "recipes"
DEBUG = RECIPES / "debug" / "prismaudio_1gpu.yaml"
NAMES = ("prismaudio_1gpu", "prismaudio_8gpu", "prismaudio_multinode")


def test_two_iterations_and_one_more(ray_session: str, release: Path, tmp_path: Path) -> None:
    overrides = [f"model={release}", f"runs_dir={tmp_path}", "name=forged"]
    folder = train(DEBUG, overrides, console=Console(file=StringIO()))
    train(DEBUG, [*overrides, "learner.iterations=3"], resume=True, console=Console(file=StringIO()))
    metrics = [json.loads(line) for line in lines(folder.path / "metrics.jsonl")]
    assert [line["version"] for line in metrics] == [1, 2, 3]
    assert all(line["mismatch"] < 2e-3 and line["optimiser_steps"] == 2 for line in metrics)
    # Two members each, one evaluation at the shared first step, twice for guidance; the reference once for two epochs.
    assert {line["nfe"]["trained"] for line in metrics} == {2 * line["nfe"]["reference"] for line in metrics}
    summary = json.loads(folder.summary.read_text())
    assert summary["groups"]["submitted"] == summary["groups"]["trained"] + summary["groups"]["dropped"]
    saved = folder.path / "checkpoints" / "iter-000003"
    assert "model.safetensors" not in os.listdir(saved)

    found, start = load_model(folder.model), prismaudio.load(release).flow.state_dict()
    assert found.extra["release"] == str(release.resolve())
    assert found.extra["training"]["lora"]["rank"] == 4
    assert found.others == {}
    state = found.model.state_dict()
    assert list(state) == list(start)
    changed = {name for name, tensor in state.items() if not torch.equal(tensor, start[name])}
    assert len(changed) == 7 * found.model.config.depth
    assert all(".layers." in name for name in changed)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_of_every_size_are_valid_and_fit(name: str) -> None:
    """One of each kind on a GPU, at most: Ray fills a GPU before it takes the next one."""
    recipe = load(TrainRecipe, RECIPES / f"{name}.yaml")
    learners, rollout = recipe.learner.gpus_per_worker, recipe.rollout.num_gpus
    scorers = sum(scorer.num_gpus * scorer.replicas for scorer in recipe.rewards.scorers.values())
    shared = learners + rollout <= 1
    assert recipe.learner.use_gpu
    if shared:
        assert learners + rollout + scorers <= 1
        assert recipe.learner.num_workers == recipe.rollout.workers
        assert recipe.rollout.workers == 1 or 2 * rollout > 1
        assert recipe.rollout.max_staleness == 0
    else:
        assert recipe.learner.num_workers * learners + recipe.rollout.workers * rollout + scorers <= 32
    assert recipe.learner.take_timeout_s >= recipe.rollout.deadline_s
    groups = (recipe.rollout.max_staleness + 1) * recipe.algorithm.prompts
    latents = (2 * recipe.algorithm.width + 1) * recipe.algorithm.group_size * 64 * 194 * 4
    assert groups * (latents + 2**21) < recipe.buffer.max_bytes
    assert groups <= recipe.buffer.max_items


def test_the_plan_of_a_recipe_fits_a_gpu_of_24_gb() -> None:
    from foundation.config import ModelConfig
    from foundation.lora import inject
    from foundation.model import FlowModel
    from foundation.oobleck import Oobleck

    recipe = load(TrainRecipe, RECIPES / "prismaudio_1gpu.yaml")
    with torch.device("meta"):
        flow, codec = FlowModel(ModelConfig.released()), Oobleck()
    assert recipe.lora is not None
    parts = estimate(
        inject(flow, recipe.lora),
        codec,
        recipe.algorithm,
        execution=recipe.execution,
        reference=recipe.learner.reference,
        prompts_per_task=recipe.rollout.prompts_per_task,
        samples_per_decode=recipe.rollout.samples_per_decode,
    )
    # Three contexts of half a gigabyte beside them: learner, rollout and the driver's evaluation.
    assert peak(parts, "learner") + peak(parts, "rollout") + 1.5 * 2**30 < 20e9
    assert any(part.part.startswith("decoding 4") for part in parts)
