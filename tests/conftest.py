"""Fixtures shared by every room's tests."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Set before torch or ray is imported anywhere: worker processes inherit these.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("MPLBACKEND", "Agg")

# Machines that run the suite may be busy: how long one example takes says nothing. CI draws the same examples every
# time, so that a change is judged by what it changed; everybody else's machine goes on searching.
settings.register_profile(
    "prism", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("prism")

NAMESPACE = "prism-tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs no Ray, or a Ray of its own, before the suite's Ray starts.

    Two heads on one machine want the same port for the agent that takes jobs, and the second one goes without.
    """
    items.sort(key=lambda item: "ray_session" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """One local Ray for the whole suite; yields its namespace. Tests give their actors unique names and kill them."""
    import ray

    # Unix socket paths are limited to about 100 characters, so Ray's folder must be short.
    with tempfile.TemporaryDirectory(prefix="pr", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=8,
            namespace=NAMESPACE,
            include_dashboard=False,
            object_store_memory=256 * 2**20,
            _temp_dir=folder,
            log_to_driver=False,
            configure_logging=False,
        )
        yield NAMESPACE
        ray.shutdown()


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release folder of the official layout: all 850 keys, reduced widths, random weights. Not to be written to."""
    from pipelines.forge import forge

    return forge(tmp_path_factory.mktemp("forged") / "release")


@pytest.fixture(scope="session")
def forged_rewards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Options of scorers by name; their files hold random weights, written by the packages' own classes. Slow."""
    from rewards_service.released.audiobox import AudioboxScorer
    from rewards_service.released.laion_clap_original import OriginalLaionClapScorer
    from rewards_service.released.ms_clap import MsClapScorer

    scripts = Path(__file__).parent / "rewards_service" / "released"
    ms, laion, audio = (tmp_path_factory.mktemp(name) for name in ("msclap", "laion", "audiobox"))
    for made, words in (
        (MsClapScorer, ["forge_clap.py", "ms_clap", ms]),
        (OriginalLaionClapScorer, ["forge_clap.py", "laion_clap", laion, "HTSAT-tiny", "False"]),
        (AudioboxScorer, ["forge_audiobox.py", audio]),
    ):
        command = [str(made.environment.prepare()), str(scripts / words[0]), *map(str, words[1:])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
    return {
        "ms_clap": {"weights": str(ms / "CLAP_weights_2023.pth"), "hub": str(ms / "hub")},
        "laion_clap_original": {"weights": str(laion / "laion.pt"), "hub": str(laion / "hub")},
        "audiobox": {"weights": str(audio / "checkpoint.pt")},
    }


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """An empty run folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder
