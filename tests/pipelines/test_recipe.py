"""The composed recipe: defaults, the recipes shipped, mistakes in them, and finding a model."""

from pathlib import Path

import pytest

from pipelines.features import FeaturesRecipe
from pipelines.finetune_vae import VaeRecipe
from pipelines.generate_recipe import GenerateRecipe
from pipelines.recipe import ROOT, PretrainRecipe, TrainRecipe, find, find_model
from pipelines.supervise import SuperviseRecipe
from settings import PrismError, Section
from settings.load import ConfigError, check, dump, load

RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
SCHEMAS: dict[str, type[Section]] = {
    "laptop": TrainRecipe,
    "pretrain": PretrainRecipe,
    "prismaudio": GenerateRecipe,
    "prismaudio_features": FeaturesRecipe,
    "prismaudio_foundation": SuperviseRecipe,
    "prismaudio_cot": SuperviseRecipe,
    "prismaudio_vae": VaeRecipe,
    "prismaudio_1gpu": TrainRecipe,
    "prismaudio_8gpu": TrainRecipe,
    "prismaudio_multinode": TrainRecipe,
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_recipe_is_valid(path: Path) -> None:
    load(SCHEMAS[path.stem], path)


def test_every_stage_of_the_released_model_has_a_small_twin() -> None:
    stages = {name for name in SCHEMAS if name.startswith("prismaudio")}
    small = {path.stem for path in (ROOT / "recipes" / "debug").glob("*.yaml")}
    # The three sizes of Fast-GRPO differ in numbers of processes alone and share a twin.
    assert small == stages - {"prismaudio_8gpu", "prismaudio_multinode"}


@pytest.mark.parametrize("schema", [TrainRecipe, PretrainRecipe])
def test_the_resolved_recipe_reads_back_equal(schema: type[Section], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump(check(schema, {})), encoding="utf-8")
    assert load(schema, path) == check(schema, {})


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("algoritm.steps=4", "did you mean 'algorithm'?"),
        ("algorithm.group_sise=4", "did you mean 'algorithm.group_size'?"),
        ("rewards.scorers.semantic.replica=2", "did you mean 'rewards.scorers.semantic.replicas'?"),
        ("optimiser.learning_rate=1", "known keys here: betas, ema, eps, grad_clip, lr, weight_decay"),
        ("rollout.workers=none", "'rollout.workers': should be a valid integer"),
        ("algorithm.preset=papr", "'algorithm.preset'"),
        ("algorithm.window_size=99", "window_size 99 is longer than the grid of 16 steps"),
        ("ray.dashboard_host=0.0.0.0", "set auth to token"),
    ],
)
def test_a_mistake_is_explained(override: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("# A recipe.\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(TrainRecipe, path, [override])
    assert hint in str(caught.value)


def test_a_preset_fills_what_the_recipe_leaves_out() -> None:
    recipe = check(TrainRecipe, {"algorithm": {"preset": "paper", "group_size": 4}})
    assert recipe.algorithm.steps == 24
    assert recipe.algorithm.group_size == 4
    assert recipe.algorithm.kl_beta == 0.04


def test_find_looks_in_the_checkout_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(Path("pyproject.toml"), "file") == ROOT / "pyproject.toml"
    with pytest.raises(PrismError, match="There is no manifest at nowhere"):
        find(Path("nowhere"), "manifest")


def test_find_model_prefers_the_result_of_a_run(tmp_path: Path) -> None:
    for version in (5, 10):
        folder = tmp_path / "checkpoints" / f"iter-{version:06d}"
        folder.mkdir(parents=True)
        (folder / "ema.safetensors").touch()
    assert find_model(tmp_path) == tmp_path / "checkpoints" / "iter-000010" / "ema.safetensors"
    assert find_model(tmp_path / "checkpoints" / "iter-000005").name == "ema.safetensors"
    (tmp_path / "model.safetensors").touch()
    assert find_model(tmp_path) == tmp_path / "model.safetensors"


def test_a_folder_without_a_model_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="expected a run folder"):
        find_model(tmp_path)
