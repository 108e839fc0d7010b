"""Environments of scorers: made once, whole or not at all, with their own packages first and the main ones behind."""

import json
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rewards_service import environments
from rewards_service.environments import MARK, NUMPY_1, Environment
from rewards_service.errors import RewardError

ROOT = Path(__file__).resolve().parents[2]
SMALL = Environment("small", ("iniconfig==1.1.1",))  # the main environment has a newer one


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where environments are kept during a test."""
    monkeypatch.setenv("PRISM_ENVIRONMENTS", str(tmp_path / "environments"))
    return tmp_path / "environments"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run to make environments."""
    ran: list[list[str]] = []
    real = environments._run

    def run(command: list[str], name: str) -> None:
        ran.append(command)
        real(command, name)

    monkeypatch.setattr(environments, "_run", run)
    return ran


def ask(python: Path, code: str) -> Any:
    """What a piece of code prints as JSON, run by an interpreter in another folder."""
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd="/", timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_environment_is_made_once(place: Path, commands: list[list[str]]) -> None:
    assert not SMALL.ready
    python = SMALL.prepare()
    assert python.is_file()
    assert python.is_relative_to(place)
    assert SMALL.ready
    made = len(commands)
    assert made == 2  # the virtual environment, then its packages
    assert SMALL.prepare() == Environment("small", ("iniconfig==1.1.1",)).prepare() == python
    assert len(commands) == made


def test_concurrent_callers_make_it_once(place: Path, commands: list[list[str]]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: SMALL.prepare(), range(4)))
    assert len(found) == 1
    assert len(commands) == 2


def test_its_own_packages_come_first_and_the_main_ones_behind(place: Path) -> None:
    code = """
import importlib.metadata, json, iniconfig, numpy, ray, rewards_service.scores, torch, sys
modules = (iniconfig, numpy, ray, rewards_service.scores, torch)
print(json.dumps([importlib.metadata.version("iniconfig"), *(module.__file__ for module in modules)]))
"""
    version, small, numpy, ray, own, torch = ask(SMALL.prepare(), code)
    assert version == "1.1.1"
    assert Path(small).is_relative_to(SMALL.folder)
    assert Path(own).parent == ROOT / "rewards_service"
    for inherited in (numpy, ray, torch):
        assert Path(inherited).is_relative_to(sysconfig.get_path("purelib"))


def test_what_is_inherited_or_not_needed_is_not_installed(place: Path) -> None:
    """jinja2 asks for markupsafe, which the main environment has."""
    environment = Environment("without", ("jinja2==3.1.6",), without=("markupsafe",))
    environment.prepare()
    (site,) = environment.folder.glob("lib/python*/site-packages")
    assert (site / "jinja2").is_dir()
    assert not list(site.glob("*arkup*"))


def test_a_failed_install_leaves_nothing_and_says_why(place: Path) -> None:
    impossible = Environment("impossible", ("iniconfig==0.0.0.1",))
    for _ in range(2):
        with pytest.raises(RewardError, match=r"(?s)environment impossible could not be made: .*iniconfig==0\.0\.0\.1"):
            impossible.prepare()
        assert not impossible.folder.exists()
        assert not impossible.ready


def test_two_wishes_that_do_not_go_together_are_told(place: Path) -> None:
    both = Environment("both", ("iniconfig==1.1.1", "iniconfig>=2"))
    with pytest.raises(RewardError, match=r"(?s)could not be made: .*unsatisfiable"):
        both.prepare()


def test_half_an_environment_is_made_anew(place: Path) -> None:
    """As a machine leaves it that is switched off on the way."""
    (SMALL.folder / "bin").mkdir(parents=True)
    SMALL.python.write_text("broken")
    (SMALL.folder / "rest").touch()
    SMALL.prepare()
    assert not (SMALL.folder / "rest").exists()
    assert ask(SMALL.python, "print(1)") == 1


def test_an_interrupted_making_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(command: list[str], name: str) -> None:
        SMALL.folder.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(environments, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SMALL.prepare()
    assert not SMALL.folder.exists()


def test_an_installer_that_hangs_is_given_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "LIMIT_S", 0.001)
    with pytest.raises(RewardError, match="was not ready after 0 s; is the network up"):
        SMALL.prepare()
    assert not SMALL.folder.exists()


def test_other_packages_are_another_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [
        SMALL,
        Environment("small", ("iniconfig==2.0.0",)),
        Environment("small", ("iniconfig==1.1.1",), without=("numpy",)),
        Environment("other", ("iniconfig==1.1.1",)),
    ]
    assert len({environment.folder for environment in others}) == 4
    before = SMALL.folder
    monkeypatch.setattr(environments, "version", lambda name: "9.9")  # another torch
    assert SMALL.folder != before
    monkeypatch.undo()
    monkeypatch.setenv("PRISM_ENVIRONMENTS", str(place))
    assert SMALL.folder == before
    dotted = Environment("a.b", ("x",)), Environment("a.c", ("x",))
    assert len({e.folder.with_name(e.folder.name + ".lock") for e in dotted}) == 2


def test_constraints_of_the_main_environment_do_not_reach_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "constraints.txt").write_text("iniconfig>=2\n")
    monkeypatch.setenv("UV_CONSTRAINT", str(tmp_path / "constraints.txt"))
    assert SMALL.prepare().is_file()


def test_where_environments_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRISM_ENVIRONMENTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert environments.root() == Path("/caches/prism/environments")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert environments.root() == Path("/home/somebody/.cache/prism/environments")


def test_no_uv_is_an_error_that_says_what_to_do(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RewardError, match="pip install uv"):
        environments._uv()


def test_what_ray_is_told(place: Path) -> None:
    SMALL.folder.mkdir(parents=True)
    (SMALL.folder / MARK).touch()
    assert SMALL.runtime_env("prepared") == {"py_executable": str(SMALL.python)}
    assert SMALL.runtime_env("uv") == {"uv": {"packages": ["iniconfig==1.1.1"]}}
    assert SMALL.runtime_env("pip") == {"pip": {"packages": ["iniconfig==1.1.1"]}}
    assert SMALL.runtime_env("prepared", image="ours:1") == {"image_uri": "ours:1"}


@pytest.mark.slow
def test_numpy_1_beside_the_main_torch(place: Path) -> None:
    """What every scorer uses works there: batches of read-only arrays, resampling, scores as text."""
    code = """
import json, numpy as np, torch
from rewards_service.batch import finish, prepare
from rewards_service.service.border import pack_scores
from rewards_service.scores import Reference
tone = np.sin(np.arange(16000) * 0.1).astype(np.float32)
borrowed = np.frombuffer(np.stack([tone, tone, 0 * tone, 0 * tone]).tobytes(), np.float32).reshape(1, 2, 2, -1)
batch = prepare(borrowed, 16000, [Reference("a", "", 1.0, (), (), 16.0)], rate=8000)
scores = finish(batch, torch.from_numpy(np.array([0.5, 0.5])), [{}, {}])
print(json.dumps([np.__version__, list(batch.audio.shape), json.loads(pack_scores(scores))["values"]]))
"""
    environment = Environment("numpy1-test", NUMPY_1)
    version, shape, values = ask(environment.prepare(), code)
    assert version.startswith("1.")
    assert shape == [2, 2, 8000]
    assert values == [[0.5, 0.0]]
