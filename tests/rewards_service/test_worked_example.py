"""The reward of docs/rewards.md, as it stands there: found, scored, and trained on."""

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.cloudpickle
from rich.console import Console

from pipelines.recipe import ROOT, TrainRecipe
from pipelines.train import train
from rewards_service.build import build_scorer, scorer_class
from rewards_service.config import RewardConfig
from rewards_service.scores import Reference
from settings.load import dump, load
from tests.pipelines.conftest import SMALL
from tests.rewards_service.conftest import RATE

PAGE = ROOT / "docs" / "rewards.md"
REFERENCE = Reference("c", "", 1.0, (), (), 16.0)


def block(language: str) -> str:
    """The only block of a language on the page."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the page's two files."""
    (tmp_path / "brightness.py").write_text(block("python"), encoding="utf-8")
    (tmp_path / "bright.yaml").write_text(block("yaml"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_recipe_finds_the_class_and_its_score_is_right(folder: Path) -> None:
    config = load(TrainRecipe, "bright.yaml").rewards
    assert list(config.scorers) == ["semantic", "temporal", "aesthetic", "spatial", "brightness"]
    assert config.weights["brightness"] == 0.5
    scorer = build_scorer("brightness", config.scorers["brightness"])
    times = np.arange(RATE) / RATE
    low, high = (0.1 * np.sin(2 * np.pi * hz * times) for hz in (500, 3000))
    sounds = np.stack([np.stack([x, x]) for x in (low, high, low + high, 0 * low)])[None].astype(np.float32)
    scores = scorer.score(sounds, RATE, [REFERENCE], detail=True)
    np.testing.assert_allclose(scores.values, [[0, 1, 0.5, 0]], atol=1e-4)
    assert scores.measured is not None
    assert scores.measured[0][2]["bright_share"] == pytest.approx(0.5, abs=1e-4)
    assert scores.measured[0][3]["silent"]


def test_the_file_is_found_from_everywhere_once_the_recipe_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = load(TrainRecipe, "bright.yaml", ["rewards.scorers.spatial=null"])
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    Path("again.yaml").write_text(dump(recipe), encoding="utf-8")
    again = load(TrainRecipe, "again.yaml")
    assert again.rewards == recipe.rewards, "a run that is resumed has the rewards it began with"
    assert "spatial" not in again.rewards.scorers
    found = scorer_class("brightness", again.rewards.scorers["brightness"])
    assert found.__name__ == "Brightness"


def test_the_class_travels_with_its_code(folder: Path) -> None:
    """As in a learner in another process, which cannot import the file by name."""
    config = RewardConfig.model_validate({"scorers": {"brightness": {"scorer": "brightness.py:Brightness"}}})
    packed = ray.cloudpickle.dumps(build_scorer("brightness", config.scorers["brightness"]))
    (folder / "brightness.py").unlink()
    scorer = ray.cloudpickle.loads(packed)
    noise = np.random.default_rng(0).standard_normal((1, 1, 2, RATE)).astype(np.float32)
    assert scorer.score(noise, RATE, [REFERENCE]).values.item() == pytest.approx(1 - 1500 / 8000, abs=0.02)


def test_a_changed_file_is_read_again(folder: Path) -> None:
    config = RewardConfig.model_validate({"scorers": {"brightness": {"scorer": "brightness.py:Brightness"}}})
    text = (folder / "brightness.py").read_text()
    before: Any = build_scorer("brightness", config.scorers["brightness"])
    (folder / "brightness.py").write_text(text.replace("1500.0", "900.0"))
    after: Any = build_scorer("brightness", config.scorers["brightness"])
    assert (before.from_hz, after.from_hz) == (1500.0, 900.0)


@pytest.mark.slow
def test_a_run_trains_on_it_and_shows_it(ray_session: str, folder: Path) -> None:
    told = StringIO()
    overrides = [*SMALL, "learner.iterations=2", "learner.num_workers=0", f"runs_dir={folder}/runs", "name=bright"]
    run = train(folder / "bright.yaml", overrides, console=Console(file=told, width=200))
    metrics = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2
    for line in metrics:
        assert 0 < line["reward"]["brightness"] < 1
        assert line["weights"]["brightness"] == 0.5
        assert line["replicas"]["brightness"] == 1
    assert 0 < metrics[-1]["heldout"]["brightness"] < 1
    heldout = json.loads(run.summary.read_text())["heldout"]
    for when in ("before", "after"):
        block = heldout[when]
        names = ("semantic", "temporal", "aesthetic", "spatial", "brightness")
        assert block["total"]["mean"] == pytest.approx(np.mean([block[name]["mean"] for name in names]))
    assert heldout["gain"]["brightness"]["n"] == 4
    report = (run.path / "report.html").read_text()
    assert "Brightness" in report
    assert "Scored by brightness.py:Brightness." in report
    assert "No alarm can come for brightness: nothing built in watches it" in told.getvalue()
