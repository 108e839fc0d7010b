"""The StereoCRW rewards with a forged file of the released layout: a network without training, which hears weakly."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.errors import CheckpointError
from foundation.stereo_crw import GROUP
from rewards_service.build import bounds_of, build_scorer
from rewards_service.config import ScorerConfig
from rewards_service.errors import RewardError
from rewards_service.released.stereo_crw import OfficialStereoCrwScorer, StereoCrwScorer, network_delays, read_network
from tests.foundation.test_stereo_crw import untrained
from tests.rewards_service.released.stereo_sounds import RATE, mono, moving, panned, reference


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As the authors' trainer writes it: a dict with the epoch, and the names of a wrapped model."""
    path = tmp_path_factory.mktemp("stereo_crw") / "FreeMusic-StereoCRW-1024.pth.tar"
    state = {f"module.{name}": tensor for name, tensor in untrained(0).state_dict().items()}
    torch.save({"epoch": 100, "state_dict": state}, path)
    return str(path)


def dry(seconds: float = 0.5) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def test_a_still_source_is_told_from_its_mirror_image_and_from_mono(tmp_path: Path, weights: str) -> None:
    original = panned(dry(), 0.5, 6.0)
    about = reference(tmp_path, "still", original)
    scorer = build_scorer("spatial", ScorerConfig(scorer="stereo_crw", options={"weights": weights}))
    assert isinstance(scorer, StereoCrwScorer)
    scorer.load()
    sounds = np.stack([original, original[::-1], mono(original), 0 * original])[None]
    found = scorer.score(sounds, RATE, [about], detail=True)
    itself, swapped, flat, silent = found.values[0]
    assert itself == pytest.approx(1.0, abs=1e-3)
    assert max(swapped, flat) < 0.6
    assert silent == 0.0
    assert found.measured is not None
    told = [row["windows"][0] for row in found.measured[0]]
    assert told[0]["delay_ms"] > 0.08 > abs(told[2]["delay_ms"])
    assert told[1]["delay_ms"] < -0.08
    mse = (told[1]["delay_ms"] - told[0]["delay_ms"]) ** 2
    assert found.measured[0][1]["mse_ms2"] == pytest.approx(mse, abs=2e-3)
    assert found.measured[0][1]["delay"] == pytest.approx(1 / (1 + mse / 0.2**2), abs=0.02)


def test_mono_references_are_gated_and_nan_is_refused(tmp_path: Path, weights: str) -> None:
    flat = reference(tmp_path, "mono", mono(panned(dry(), 0.5, 6.0)))
    still = reference(tmp_path, "still", panned(dry(), 0.5, 6.0))
    sounds = np.stack([panned(dry(), 0.5, 6.0)] * 2)[:, None]
    sounds[1, 0, 1, 5] = np.inf
    found = StereoCrwScorer(weights=weights).score(sounds, RATE, [flat, still])
    assert list(found.gated) == [0]
    assert list(found.missing) == [(1, 0)]
    assert np.isnan(found.values).all()


def test_the_network_hears_the_loudest_moment_of_a_window(weights: str) -> None:
    """A burst at 0.3 s in half a second of nothing, 0.5 ms later on the right: the delay is the burst's own."""
    network = read_network(weights)
    burst = panned(dry()[:GROUP], 0.5, 0.0)
    sound = np.zeros((2, RATE // 2), np.float32)
    sound[:, 4800 : 4800 + GROUP] = burst
    even = burst * 0.1 / np.sqrt((burst**2).mean(-1, keepdims=True))
    alone = network.delay_ms(torch.from_numpy(even)[None]).item()
    sound *= np.array([[0.3], [2.0]], np.float32)
    found = network_delays(network, torch.from_numpy(sound)[None], torch.tensor([0.25]), RATE // 2)
    assert found.shape == (1, 1)
    assert found.item() == pytest.approx(alone, abs=1e-4)
    assert network_delays(network, torch.zeros(1, 2, RATE), torch.tensor([0.25, 0.75]), RATE // 2).tolist() == [[0, 0]]


@pytest.mark.slow
def test_a_moving_source_is_followed(tmp_path: Path, weights: str) -> None:
    original = moving(seconds=1.5, later_ms=0.5)
    about = reference(tmp_path, "moving", original)
    still = panned(original.mean(0), 0.5, -6.0)
    sounds = np.stack([original, moving(5, 1.5, 0.5), still, original[::-1], mono(original)])[None]
    found = StereoCrwScorer(weights=weights).score(sounds, RATE, [about], detail=True)
    itself, other, constant, swapped, flat = found.values[0]
    assert itself > 0.99
    assert other > max(constant, swapped, flat) + 0.2
    assert found.measured is not None
    delays = [window["delay_ms"] for window in found.measured[0][0]["windows"]]
    assert delays[0] > 0.03 > 0 > -0.03 > delays[-1]


def test_the_official_formula_with_weights(tmp_path: Path, weights: str) -> None:
    original = panned(dry(), 0.25, 6.0)
    about = reference(tmp_path, "still", original)
    scorer = OfficialStereoCrwScorer(weights=weights)
    sounds = np.stack([original, panned(dry(), 0.5, 0.0), 0 * original])[None]
    found = scorer.score(sounds, RATE, [about], detail=True)
    assert found.measured is not None
    told = found.measured[0][1]
    wanted = -1.25 * (told["crw_ms"] - told["reference_crw_ms"]) ** 2
    wanted -= 2.5 * (told["gcc_ms"] - told["reference_gcc_ms"]) ** 2
    assert told["gcc_ms"] == pytest.approx(0.5, abs=1e-3)
    assert told["crw_ms"] > told["reference_crw_ms"] + 0.03
    np.testing.assert_allclose(found.values[0], [0.0, wanted, -33.75], atol=1e-3)
    assert bounds_of("spatial", ScorerConfig(scorer="stereo_crw_official")) == (-33.75, 0.0)


def test_without_a_file_or_with_a_wrong_one_the_start_fails(tmp_path: Path, weights: str) -> None:
    with pytest.raises(RewardError, match="option weights"):
        StereoCrwScorer().load()
    with pytest.raises(RewardError, match=r"nowhere\.pth\.tar"):
        StereoCrwScorer(weights=str(tmp_path / "nowhere.pth.tar")).load()
    state = torch.load(weights, weights_only=True)["state_dict"]
    del state["module.net.fc.weight"]
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "cut.pth.tar")
    with pytest.raises(CheckpointError, match=r"missing \(1\): net.fc.weight"):
        StereoCrwScorer(weights=str(tmp_path / "cut.pth.tar")).load()
