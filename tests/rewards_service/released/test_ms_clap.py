"""MS-CLAP without its package: the released formula, options and files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rewards_service.build import bounds_of, build_scorer, environment_of
from rewards_service.config import ScorerConfig
from rewards_service.errors import RewardError
from rewards_service.released.laion_clap_original import OriginalLaionClapScorer
from rewards_service.released.ms_clap import MsClapScorer, official_reward

FIXTURES = Path(__file__).parent / "fixtures"


def test_the_released_reward() -> None:
    golden = json.loads((FIXTURES / "clap.json").read_text())["ms_clap"]
    tensors = load_file(FIXTURES / "clap.safetensors")
    found = official_reward(tensors["ms_clap.audio"], tensors["ms_clap.text"], golden["logit_scale"])
    np.testing.assert_allclose(found.numpy(), golden["reward"], atol=1e-6)


def test_recipes_know_the_scorer_without_its_packages() -> None:
    config = ScorerConfig(scorer="ms_clap", options={"weights": "w.pth", "official": True})
    scorer = build_scorer("semantic", config)
    assert isinstance(scorer, MsClapScorer)
    assert bounds_of("semantic", config) == (-4.2, 4.2)
    environment = environment_of("semantic", config)
    assert environment is not None
    assert {"numpy<2", "pyarrow<22", "pandas<3", "msclap==1.3.4"} <= set(environment.packages)
    other = environment_of("semantic", ScorerConfig(scorer="laion_clap_original"))
    assert other is not None
    assert "laion-clap==1.1.7" in other.packages
    assert environment_of("semantic", ScorerConfig(scorer="laion_clap")) is None


def test_missing_and_strange_files_are_named_before_any_package_is_asked(tmp_path: Path) -> None:
    for made, name in ((MsClapScorer, "MS-CLAP 2023"), (OriginalLaionClapScorer, "LAION-CLAP")):
        with pytest.raises(RewardError, match=rf"There is no {name} checkpoint.* at '.*absent\.pt'"):
            made(weights=tmp_path / "absent.pt").load()
    torch.save({"state_dict": {"audio_branch.bn0.weight": torch.ones(2)}}, tmp_path / "resaved.pt")
    with pytest.raises(RewardError, match=r"position_ids\. The scorer laion_clap reads other layouts"):
        OriginalLaionClapScorer(weights=tmp_path / "resaved.pt").load()
    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "any.pth")
    with pytest.raises(RewardError, match="has no gpt2"):
        MsClapScorer(weights=tmp_path / "any.pth", hub=tmp_path).load()
