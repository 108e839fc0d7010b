"""The shipped models are what the README says: small, and the post-trained one better in every dimension."""

from pathlib import Path

import pytest

from pipelines.evaluate import evaluate
from pipelines.recipe import ASSETS
from tests.pipelines.conftest import LAPTOP

SCENES = ["scenes.heldout=24", "scenes.prompts=1", "scenes.seed=77", "evaluation.guidance=[]"]


@pytest.mark.parametrize("path", sorted(ASSETS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_assets_stay_small(path: Path) -> None:
    assert path.stat().st_size <= 2 * 2**20


def test_post_training_gained_in_all_four_dimensions(tmp_path: Path) -> None:
    before, after = (
        evaluate(LAPTOP, [*SCENES, f"runs_dir={tmp_path}"], ASSETS / f"{name}.safetensors")["heldout"]
        for name in ("embedded", "posttrained")
    )
    assert before["total"]["mean"] > 0.42
    for name in ("semantic", "temporal", "aesthetic", "spatial"):
        assert after[name]["mean"] > before[name]["mean"] + 0.1
