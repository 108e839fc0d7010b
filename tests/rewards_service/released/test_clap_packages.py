"""The real packages in their own environments: model classes, loaders and replicas, with random weights as released."""

import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from rewards_service.config import RewardConfig
from rewards_service.environments import Environment
from rewards_service.errors import RewardError
from rewards_service.released.laion_clap import LaionClapScorer
from rewards_service.released.laion_clap_original import OriginalLaionClapScorer
from rewards_service.released.ms_clap import MsClapScorer
from rewards_service.scores import Reference
from rewards_service.service.client import RewardClient
from rewards_service.service.deploy import ActorFleet, launch
from tests.rewards_service.conftest import RATE, World
from tests.rewards_service.released.forge_clap import CAPTIONS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SCRIPT = Path(__file__).with_name("forge_clap.py")
MS, LAION = MsClapScorer.environment, OriginalLaionClapScorer.environment


def run(environment: Environment, *words: object) -> None:
    """The forging script under the interpreter of a scorer's own environment."""
    command = [str(environment.prepare()), str(SCRIPT), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


def embedded(made: type, options: dict[str, Any], folder: Path, **sounds: torch.Tensor) -> dict[str, torch.Tensor]:
    """(B, n, D) embeddings of each of some sounds (B, S) and the (T, D) "texts" by a scorer in its own environment."""
    paths = [folder / f"{name}.npy" for name in sounds]
    for path, sound in zip(paths, sounds.values(), strict=True):
        np.save(path, sound.numpy())
    place, out = f"{made.__module__}:{made.__name__}", folder / "embedded.safetensors"
    run(LAION, "embed", place, json.dumps(options), out, *paths)
    return load_file(out)


def files(folder: Path, name: str) -> dict[str, Any]:
    return {"weights": str(folder / name), "hub": str(folder / "hub")}


@pytest.fixture(scope="module")
def ms_clap(forged_rewards: dict[str, dict[str, str]]) -> dict[str, Any]:
    return dict(forged_rewards["ms_clap"])


@pytest.fixture(scope="module")
def htsat_base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("laion")
    run(LAION, "laion_clap", folder, "HTSAT-base", False)
    return files(folder, "laion.pt")


def different_sounds(rate: int, seconds: float) -> torch.Tensor:
    """(4, S): a decaying tone, knocks, a square wave that stops, a rumble."""
    random = np.random.default_rng(0)
    t = np.arange(round(rate * seconds)) / rate
    made = [
        np.sin(2 * np.pi * 440 * t) * np.exp(-t),
        random.standard_normal(len(t)) * np.exp(-(3 * t % 1) * 8) * 0.2,
        np.sign(np.sin(2 * np.pi * 110 * t)) * 0.1 * (t % 2 < 1),
        np.cumsum(random.standard_normal(len(t))) * 1e-3,
    ]
    return torch.from_numpy(np.stack(made).astype(np.float32))


def assert_same_directions(found: torch.Tensor, expected: torch.Tensor, least: float = 0.999) -> None:
    """(B, D) embeddings agree as a whole, and in what sets them apart from each other."""
    assert found.shape == expected.shape
    assert (normalize(found, dim=-1) * normalize(expected, dim=-1)).sum(-1).min() >= least
    centred = [normalize(x - x.mean(0), dim=-1) for x in (found, expected)]
    assert (centred[0] * centred[1]).sum(-1).min() >= least


def agree(made: dict[str, Any], folder: Path) -> None:
    """Transformers' ClapModel here and the package there give the same embeddings of sounds and texts."""
    whole = different_sounds(48000, 12)
    sounds = {"short": whole[:, : 4 * 48000], "long": whole}
    theirs = embedded(OriginalLaionClapScorer, made, folder, **sounds)
    here = LaionClapScorer(**made)
    for (name, sound), windows in zip(sounds.items(), (1, 2), strict=True):
        ours = here.embed_sounds(sound)
        assert ours.shape[1] == windows
        assert_same_directions(ours.flatten(0, 1), theirs[name].flatten(0, 1))
    assert_same_directions(torch.stack([here.embed_caption(caption) for caption in CAPTIONS]), theirs["texts"])


def test_base_in_transformers_is_base_in_its_package(htsat_base: dict[str, Any], tmp_path: Path) -> None:
    agree(htsat_base, tmp_path)


@pytest.mark.parametrize("fusion", [False, True])
def test_tiny_in_transformers_is_tiny_in_its_package(fusion: bool, tmp_path: Path) -> None:
    run(LAION, "laion_clap", tmp_path, "HTSAT-tiny", fusion)
    agree(files(tmp_path, "laion.pt"), tmp_path)


def deployed(config: dict[str, Any], waveforms: np.ndarray, rate: int, references: list[Reference]) -> dict[str, Any]:
    """Scores by real replicas, each in its own environment, which are stopped again."""
    namespace = f"rewards-{uuid.uuid4().hex}"
    absent = dict.fromkeys(("semantic", "temporal", "aesthetic", "spatial"))
    scorers = {name: {"num_cpus": 0.01, **told} for name, told in config.items()}
    section = RewardConfig.model_validate({"scorers": {**absent, **scorers}, "start_s": 900.0, "deadline_s": 300.0})
    deployment = launch(section, namespace)
    try:
        deployment.await_ready()
        client = RewardClient.of(ActorFleet(section, namespace), section.deadline_s)
        return client.score_all_blocking(waveforms, rate, references, detail=True)
    finally:
        deployment.stop()


def test_replicas_score_scenes(
    ray_session: str, world: World, ms_clap: dict[str, Any], htsat_base: dict[str, Any]
) -> None:
    references = [
        Reference(**{**vars(r), "plan": f"Semantic: {r.text} Temporal: at once!"}) for r in world.references[:3]
    ]
    sounds = np.concatenate([world.sounds[:3], np.roll(world.sounds, 1, axis=0)[:3], 0 * world.sounds[:3]], axis=1)
    config = {
        "ms": {"scorer": "ms_clap", "options": ms_clap},
        "ms_official": {"scorer": "ms_clap", "options": {**ms_clap, "official": True}},
        "laion": {"scorer": "laion_clap", "options": htsat_base},
        "laion_package": {"scorer": "laion_clap_original", "options": htsat_base},
    }
    found = deployed(config, sounds, RATE, references)
    for name, scores in found.items():
        assert not scores.missing, (name, scores.missing)
        assert scores.values.shape == (3, 3)
        assert (scores.values[:, 2] == 0).all()  # silence
        assert (scores.values[:, :2] > 0.01).all()
        assert (scores.values[:, :2] < 0.999).all()
        assert np.ptp(scores.values[:, :2]) > 1e-4
        assert scores.measured[0][2]["silent"]
    np.testing.assert_allclose(found["laion"].values, found["laion_package"].values, atol=1e-3)
    assert found["laion"].measured[0][0]["text"] == found["laion_package"].measured[0][0]["text"]
    assert found["ms_official"].measured[1][0]["text"] == references[1].plan
    assert np.abs(found["ms"].values - found["ms_official"].values)[:, :2].min() > 1e-4


def test_official_is_what_the_package_says(ms_clap: dict[str, Any], tmp_path: Path) -> None:
    run(MS, "official", json.dumps(ms_clap), tmp_path / "scores.json")
    found = json.loads((tmp_path / "scores.json").read_text())
    np.testing.assert_allclose(found["scorer"], found["package"], atol=1e-6)
    assert np.ptp(found["package"]) > 1e-4
    assert len(found["long"]) == 2
    assert "GPT-2 reads 1024" in found["long"][0]


def test_ms_clap_hears_the_end_of_a_clip_and_the_released_reward_does_not(
    ray_session: str, ms_clap: dict[str, Any]
) -> None:
    sounds = different_sounds(44100, 9)[:2].numpy()[None, :, None].repeat(2, axis=2)
    changed = sounds.copy()
    changed[..., int(7.6 * 44100) :] *= np.float32(0.05)
    both = np.concatenate([sounds, changed], axis=1)
    references = [Reference("a", CAPTIONS[0], 9.0, (), (), 16.0, plan=CAPTIONS[1])]
    config = {
        "ours": {"scorer": "ms_clap", "options": ms_clap},
        "official": {"scorer": "ms_clap", "options": {**ms_clap, "official": True}},
    }
    found = deployed(config, both, 44100, references)
    ours, official = (found[name].values[0] for name in config)
    np.testing.assert_allclose(official[:2], official[2:], atol=1e-7)
    assert (np.abs(ours[:2] - ours[2:]) > 1e-5).all()
    assert [w["start_s"] for w in found["ours"].measured[0][0]["windows"]] == [0.0, 2.0]


def test_a_misspelt_tensor_is_found_although_the_package_would_not_say(
    ray_session: str, ms_clap: dict[str, Any], htsat_base: dict[str, Any], tmp_path: Path
) -> None:
    content = torch.load(ms_clap["weights"], weights_only=True)
    content["model"]["caption_encoder.projection.linear9.weight"] = content["model"].pop(
        "caption_encoder.projection.linear2.weight"
    )
    torch.save(content, tmp_path / "CLAP_weights_2023.pth")
    options = {**ms_clap, "weights": str(tmp_path / "CLAP_weights_2023.pth")}
    references = [Reference("a", CAPTIONS[0], 1.0, (), (), 16.0)]
    with pytest.raises(RewardError, match=r"missing \(1\): .*linear2\.weight; unexpected \(1\): .*linear9\.weight"):
        deployed({"ms": {"scorer": "ms_clap", "options": options}}, np.zeros((1, 1, 2, 16000), "f4"), 16000, references)
    swapped = {**htsat_base, "weights": ms_clap["weights"]}
    with pytest.raises(RewardError, match=r"not as released.*position_ids"):
        deployed(
            {"clap": {"scorer": "laion_clap_original", "options": swapped}},
            np.zeros((1, 1, 2, 16000), "f4"),
            16000,
            references,
        )
