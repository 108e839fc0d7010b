"""Audiobox-Aesthetics: its files, what is made of its axes, and the real package with forged weights as a Ray actor."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rewards_service import backends
from rewards_service.batch import prepare
from rewards_service.build import build_scorer
from rewards_service.config import RewardConfig, ScorerConfig
from rewards_service.errors import RewardConfigError, RewardError
from rewards_service.released.audiobox import AudioboxScorer, _guards
from rewards_service.released.audiobox_files import AXES, check, names
from rewards_service.scores import Reference
from rewards_service.service import deploy
from tests.rewards_service.conftest import RATE, World
from tests.rewards_service.released.forge_audiobox import CONFIG, TARGETS

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def small(**changes: Any) -> dict[str, Any]:
    """A checkpoint with the right names and tensors of one value."""
    state = {f"model.{name}": torch.zeros(1) for name in names()}
    return {"state_dict": state, "model_cfg": CONFIG, "target_transform": TARGETS} | changes


def saved(folder: Path, tensors: dict[str, torch.Tensor], config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# --- Files ------------------------------------------------------------------------------------------------------------


def test_both_layouts_are_recognised(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "checkpoint.pt")
    bare = {name: torch.zeros(2) for name in names()}
    folder = saved(tmp_path / "saved", bare, {"target_transform": TARGETS})
    assert check(tmp_path / "checkpoint.pt") == dict.fromkeys(names(), (1,))
    assert check(folder) == dict.fromkeys(names(), (2,))
    assert len(names()) == 260  # as many as the package's class has


def test_wrong_names_are_named(tmp_path: Path) -> None:
    state = small()["state_dict"]
    state["model.proj_layer.XX.0.bias"] = state.pop("model.proj_layer.PQ.0.bias")
    torch.save(small(state_dict=state), tmp_path / "c.pt")
    with pytest.raises(RewardError, match=r"missing proj_layer\.PQ\.0\.bias and unknown proj_layer\.XX\.0\.bias"):
        check(tmp_path / "c.pt")
    folder = saved(tmp_path / "saved", {"layer_weights.CE": torch.zeros(1)}, {"target_transform": TARGETS})
    with pytest.raises(RewardError, match=r"missing layer_weights\.CU, .* and 254 more"):
        check(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state_dict": {}}, "no tensors in 'state_dict' of state_dict, model_cfg, target_transform"),
        ({"model_cfg": {k: v for k, v in CONFIG.items() if k != "nth_layer"}}, "lacks nth_layer in 'model_cfg'"),
        ({"target_transform": {"CE": TARGETS["CE"]}}, "lacks a mean and std for CU"),
        ({"target_transform": TARGETS | {"PQ": {"mean": 1.0, "std": 0.0}}}, "std 0.0 for PQ"),
        ({"target_transform": TARGETS | {"PC": {"mean": float("nan"), "std": 1.0}}}, "mean nan"),
        ({"model_cfg": os.system}, "refused: it asks for .*system"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(small(**changes), path)
    with pytest.raises(RewardError, match=reason):
        AudioboxScorer(weights=str(path)).load()


def test_absent_cut_and_half_named_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"There is no Audiobox-Aesthetics at .*absent"):
        check(tmp_path / "absent.pt")
    with pytest.raises(RewardError, match=r"needs config\.json and model\.safetensors"):
        check(tmp_path)
    torch.save(small(), tmp_path / "c.pt")
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RewardError, match="damaged or no model file"):
        check(tmp_path / "c.pt")
    folder = saved(tmp_path / "saved", {name: torch.zeros(1) for name in names()}, [1])
    with pytest.raises(RewardError, match="expected an object"):
        check(folder)
    with pytest.raises(RewardError, match="name its folder"):
        check(folder / "model.safetensors")


# --- Options and formulas ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, r"needs options\.weights"),
        ({"weights": "x", "formula": "ce+cu"}, "expected one of content, official"),
        ({"weights": "x", "level_db": [-8, -40]}, "level_db as"),
        ({"weights": "x", "sounding": 0}, "sounding in"),
        ({"weights": "x", "volume": 0}, "no option volume"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(RewardConfigError, match=reason):
        build_scorer("aesthetic", ScorerConfig(scorer="audiobox", options=options))


def test_formulas() -> None:
    axes = {"CE": np.array([4.0, 10.0]), "CU": np.array([6.0, 10.0]), "PC": np.array([2.0, 1.0])}
    axes["PQ"] = np.array([8.0, np.nan])
    guards = {"level_guard": np.array([0.5, 1.0]), "sounding_guard": np.array([1.0, 1.0])}
    want = {"content": 0.5 * 5 / 9, "official": 16 / 40, "ce": 0.2, "cu": 0.3, "pc": 0.1, "pq": 0.4}
    for formula, value in want.items():
        scorer = AudioboxScorer(weights="x", formula=formula)  # pyright: ignore[reportArgumentType]
        got = scorer._values(axes, guards)
        assert got[0] == pytest.approx(value)
        assert np.isnan(got[1]) == (formula in ("content", "official", "pq"))


def guards_of(*clips: np.ndarray, rate: int = 16000) -> dict[str, np.ndarray]:
    waveforms = np.stack(clips)[None].astype(np.float32)
    batch = prepare(waveforms, rate, [Reference("a", "", 1.0, (), (), 16.0)])
    return _guards(batch, (-40.0, -8.0), 12.0, 0.1)


def square(level_db: float, seconds: float = 4.0, rate: int = 16000) -> np.ndarray:
    """A square wave of that RMS level in both channels."""
    t = np.arange(round(seconds * rate))
    return np.tile(np.where(t % 32 < 16, 1.0, -1.0) * 10 ** (level_db / 20), (2, 1))


def test_level_guard_is_one_in_the_window_and_falls_outside() -> None:
    guards = guards_of(*(square(db) for db in (-60.0, -46.0, -40.0, -20.0, -8.0, -2.0)))
    np.testing.assert_allclose(guards["level_db"], [-60, -46, -40, -20, -8, -2], atol=1e-3)
    np.testing.assert_allclose(guards["level_guard"], [0, 0.5, 1, 1, 1, 0.5], atol=1e-3)


def test_rests_lower_no_level_but_too_many_cost() -> None:
    sparse, single = square(-20.0), square(-20.0)
    sparse[:, 16000:] = 0  # a quarter sounds
    single[:, 3200:] = 0  # 5 % sound, half of the share asked for
    guards = guards_of(sparse, single)
    np.testing.assert_allclose(guards["level_db"], [-20, -20], atol=1e-3)
    np.testing.assert_allclose(guards["sounding_share"], [0.25, 0.05])
    np.testing.assert_allclose(guards["sounding_guard"], [1.0, 0.5])
    one_side = square(-20.0)
    one_side[1] = 0
    np.testing.assert_allclose(guards_of(one_side)["level_db"], [-20 - 10 * np.log10(2)], atol=1e-3)


def test_a_clip_shorter_than_a_frame_has_a_level() -> None:
    np.testing.assert_allclose(guards_of(square(-20.0, 0.06))["level_db"], [-20], atol=1e-3)


# --- The real package -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """checkpoint.pt and saved/ of the package's own class with random weights."""
    folder = tmp_path_factory.mktemp("audiobox")
    inside("forge_audiobox", str(folder))
    yield folder
    shutil.rmtree(folder)


def inside(module: str, *arguments: str) -> str:
    """Output of one of the modules beside this one, run in the scorer's environment."""
    python = AudioboxScorer.environment.prepare()
    command = [str(python), "-m", f"tests.rewards_service.released.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def scenes(world: World) -> np.ndarray:
    """(2, 2, 2, S): two scenes, and each of them 20 dB quieter with noise."""
    clean = world.sounds[:2, 0]
    noise = np.random.default_rng(0).normal(0, 0.01, clean.shape)
    return np.stack([clean, 0.1 * clean + noise], 1).astype(np.float32)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_rates_as_the_package_does(forged: Path, scenes: np.ndarray, tmp_path: Path) -> None:
    """Both layouts, short clips, clips over one window at another rate, a silent one, one that is no sound."""
    long = np.random.default_rng(1).normal(0, 0.1, (1, 3, 2, round(12.5 * 44100))).astype(np.float32)
    long *= np.linspace(0.2, 1, long.shape[-1], dtype=np.float32)
    long[0, 1], long[0, 2, 0, 100] = 0, np.nan
    np.savez(tmp_path / "sounds.npz", **{str(RATE): scenes, "44100": long})
    torch.save(small(), tmp_path / "wrong.pt")
    wrong = saved(tmp_path / "wrong", {name: torch.zeros(1) for name in names()}, {"target_transform": TARGETS})
    arguments = [forged, tmp_path / "sounds.npz", tmp_path / "wrong.pt", wrong]
    told = json.loads(inside("audiobox_inside", *map(str, arguments)).splitlines()[-1])
    assert all("cannot load" in why and "size mismatch" in why for why in told["refused"]), told["refused"]
    for layout in ("checkpoint.pt", "saved"):
        short, longer = told[f"{layout}@{RATE}"], told[f"{layout}@44100"]
        np.testing.assert_allclose(short["axes"], told[f"package@{RATE}"], atol=1e-4)
        np.testing.assert_allclose(longer["axes"][:2], told["package@44100"][:2], atol=1e-4)
        axes = np.array(short["axes"]).reshape(2, 2, 4)
        assert np.ptp(axes[..., 0]) > 1e-3, "other sounds get other ratings"
        want = (axes[..., [AXES.index(a) for a in ("CE", "CU", "PQ")]].mean(-1) - 1) / 9
        np.testing.assert_allclose(short["values"], want, atol=1e-4)
        assert longer["values"][0][1] == 0.0
        assert np.isnan(longer["values"][0][2])
        assert longer["missing"] == [[0, 2, "the waveform holds NaN, Inf or absurdly large values"]]
    rough = np.abs(np.array(told["autocast"]) - told[f"package@{RATE}"][0])
    assert 0 < rough.max() < 0.3, "bfloat16 was used, and is near"


def section(weights: Path, **settings: Any) -> RewardConfig:
    """A reward section with this scorer alone."""
    scorer = {"scorer": "audiobox", "num_cpus": 0.01, "options": {"weights": str(weights), **settings}}
    others = dict.fromkeys(("semantic", "temporal", "spatial"))
    return RewardConfig.model_validate({"scorers": {"aesthetic": scorer, **others}, "start_s": 280, "deadline_s": 280})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_serves_as_an_actor_in_its_own_environment(
    ray_session: str, forged: Path, scenes: np.ndarray, world: World
) -> None:
    namespace = f"rewards-{uuid.uuid4().hex}"
    config = section(forged / "saved", formula="official")
    deployment = backends.launch(config, namespace)
    try:
        deployment.await_ready()
        client = backends.connect(config, namespace)
        scores = client.score_all_blocking(scenes, RATE, world.references[:2], detail=True)["aesthetic"]
        assert scores.missing == {}
        assert scores.measured is not None
        for g, n in np.ndindex(2, 2):
            told = scores.measured[g][n]
            assert told["basis"] == "Audiobox-Aesthetics, official"
            by_hand = (told["CE"] + told["CU"] - told["PC"] + told["PQ"]) / 40
            assert scores.values[g, n] == pytest.approx(by_hand, abs=1e-4)
        again = client.score_all_blocking(scenes, RATE, world.references[:2])["aesthetic"]
        np.testing.assert_array_equal(again.values, scores.values)
    finally:
        deployment.stop()


@pytest.mark.slow
def test_an_actor_without_its_file_says_so(ray_session: str, tmp_path: Path) -> None:
    config = section(tmp_path / "absent.pt")
    with pytest.raises(RewardError, match=r"reward-aesthetic-0 could not start: .*no Audiobox-Aesthetics at .*absent"):
        deploy.launch(config, f"rewards-{uuid.uuid4().hex}").await_ready()
