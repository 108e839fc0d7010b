"""A run that is scored by the released reward models, each in its own environment, and watched by another CLAP."""

import json
from pathlib import Path

import pytest
import yaml

from pipelines.recipe import ROOT
from pipelines.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
DEBUG = ROOT / "recipes" / "debug" / "prismaudio_1gpu.yaml"


def test_the_released_rewards_train_together(
    ray_session: str, release: Path, forged_rewards: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    recipe = yaml.safe_load(DEBUG.read_text())
    recipe |= {"model": str(release), "runs_dir": str(tmp_path / "runs"), "name": "four"}
    recipe["rewards"] |= {"sample_rate": 44100, "deadline_s": 300, "start_s": 900}
    recipe["rewards"]["scorers"] |= {
        "semantic": {"scorer": "ms_clap", "options": forged_rewards["ms_clap"]},
        "aesthetic": {"scorer": "audiobox", "options": forged_rewards["audiobox"]},
    }
    recipe["rewards"]["judges"] = {
        "semantic": {"scorer": "laion_clap_original", "options": forged_rewards["laion_clap_original"]}
    }
    path = tmp_path / "four.yaml"
    path.write_text(yaml.safe_dump(recipe))
    folder = train(path, [])
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    told = json.loads(folder.summary.read_text())
    assert len(lines) == 2
    for line in lines:
        assert set(line["reward"]) == {"semantic", "temporal", "aesthetic", "spatial"}
        assert all(0 < line["reward"][name] < 1 for name in ("semantic", "temporal", "spatial"))
        assert -0.25 <= line["reward"]["aesthetic"] <= 1
        assert line["replicas"]["judge_semantic"] == 1
    assert told["groups"]["trained"] == 4
    assert told["groups"]["lost"] == 0
    assert set(told["groups"]["reasons"]["dropped"]) <= {"flat"}
    assert told["monitor"]["after"]["semantic"]["n"] == told["heldout"]["clips"]
