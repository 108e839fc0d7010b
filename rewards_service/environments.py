"""Packages that must not meet the main environment's: each set in a virtual environment of its own.

Such an environment holds only what differs. Everything else, Ray, torch and this project included, it takes from the
environment it was made from. A worker with numpy < 2 cannot unpickle objects of numpy 2, and pyarrow >= 22 or
pandas >= 3 from outside would end it; hence `NUMPY_1`, and `service/border.py` for what such a worker is told.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from rewards_service.errors import RewardError

NUMPY_1 = ("numpy<2", "pyarrow<22", "pandas<3")
INHERITED = ("torch", "ray", "triton")
"""Taken from the main environment even where a package asks for them: large, and one version must serve all."""
MARK = ".complete"
LIMIT_S = 1800.0

How = Literal["prepared", "uv", "pip"]


@dataclass(frozen=True)
class Environment:
    """Packages by name and version, as pip reads them. without: packages asked for by others and not needed."""

    name: str
    packages: tuple[str, ...]
    without: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it is, or will be, on this machine: other packages, Python or main environment are another folder."""
        made_of = [self.packages, self.without, sys.version_info[:3], sysconfig.get_path("purelib")]
        made_of += [version(name) for name in ("torch", "ray")]
        digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]
        return root() / f"{self.name}-{digest}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def ready(self) -> bool:
        """Whether it is there and complete."""
        return (self.folder / MARK).exists()

    def prepare(self) -> Path:
        """Make it, unless it is there, and return its interpreter. Raises RewardError with the installer's words."""
        if self.ready:
            return self.python
        with _locked(self.folder.with_name(self.folder.name + ".lock")):
            if not self.ready:
                try:
                    self._make()
                except BaseException:
                    shutil.rmtree(self.folder, ignore_errors=True)
                    raise
        return self.python

    def runtime_env(self, how: How, image: str = "") -> dict[str, Any]:
        """Ray's `runtime_env` for an actor in it; prepares it when that is how. Raises RewardError.

        Ray's own uv and pip copy the whole main environment (about 2 GB, half a minute) for every set of packages on
        every node of every session, and install what is `without` too.
        """
        if image:
            return {"image_uri": image}
        if how == "prepared":
            return {"py_executable": str(self.prepare())}
        return {how: {"packages": list(self.packages)}}

    def _make(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", "--without-pip", str(self.folder)], self.name)
        site = self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        never = self.folder / "inherited.txt"
        never.write_text("".join(f"{name} ; python_version < '3'\n" for name in (*INHERITED, *self.without)))
        install = [*_uv(), "pip", "install", "--quiet", "--python", str(self.python), "--overrides", str(never)]
        _run([*install, *self.packages], self.name)
        # addsitedir, and not a bare path, so that the project's own editable install is found through it too.
        inherit = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (site / "_inherit.pth").write_text(inherit)
        (self.folder / MARK).touch()


def root() -> Path:
    """Where environments are kept: $PRISM_ENVIRONMENTS, or a folder of the user's cache. Images bring theirs there."""
    if given := os.environ.get("PRISM_ENVIRONMENTS"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prism" / "environments"


def _uv() -> list[str]:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise RewardError("Making an environment for a scorer needs uv; install it with `python -m pip install uv`.")
    return [found]


def _run(command: list[str], name: str) -> None:
    # Constraints of the main environment are what these packages must not be held to.
    variables = {key: value for key, value in os.environ.items() if key not in ("UV_CONSTRAINT", "UV_OVERRIDE")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, env=variables, cwd=tempfile.gettempdir()
        )
    except subprocess.TimeoutExpired as error:
        raise RewardError(f"The environment {name} was not ready after {LIMIT_S:.0f} s; is the network up?") from error
    if done.returncode != 0:
        raise RewardError(f"The environment {name} could not be made: {done.stderr.strip()[-2000:]}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time makes an environment; the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
