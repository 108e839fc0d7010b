"""Starting a Ray for one run, or joining the one that is there."""

import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import RayConfig
from cluster.environment import prepare
from settings import PrismError

_KNOCK_S = 10.0


class SessionError(PrismError):
    """Ray could not be started or joined, or has too little for the run."""


@dataclass(frozen=True)
class RaySession:
    """A connection to Ray.

    namespace: of the run's actor names. dashboard_url: with scheme, or None without a dashboard. owned: started here,
    so it ends here. temp_dir: then Ray's folder with its logs. token_path: then the file with the access token, if any.
    """

    namespace: str
    dashboard_url: str | None
    owned: bool
    temp_dir: Path | None = None
    token_path: Path | None = None

    def require(self, cpus: float, gpus: float = 0.0) -> None:
        """Raise SessionError when Ray has fewer CPUs or GPUs in total than the run's actors reserve."""
        import ray

        total = ray.cluster_resources()
        for name, wanted in (("CPU", cpus), ("GPU", gpus)):
            if wanted > total.get(name, 0.0) + 1e-6:
                raise SessionError(
                    f"The run's actors reserve {wanted:g} {name}s, but Ray has {total.get(name, 0.0):g}. Lower "
                    f"rollout.workers or the num_{name.lower()}s of its actors, or set ray.num_{name.lower()}s higher "
                    "to share what there is."
                )


@contextmanager
def ray_session(config: RayConfig) -> Iterator[RaySession]:
    """Ray for the time of a `with` block. One that is already initialised in this process is used and left running.

    Raises SessionError saying which address failed and what to do.
    """
    prepare(config)
    import ray

    if ray.is_initialized():
        yield RaySession(config.namespace, _url(_dashboard()), owned=False)
        return
    address = os.environ.get("RAY_ADDRESS", config.address) if config.address == "local" else config.address
    session = _start(config) if address == "local" else _join(config, address)
    try:
        yield session
    finally:
        ray.shutdown()
        if session.temp_dir is not None:
            _forget(session.temp_dir)


def _start(config: RayConfig) -> RaySession:
    import ray

    # Ray's sockets live below this folder and their paths are limited to about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="prism-", dir="/tmp" if os.path.isdir("/tmp") else None))
    os.environ["RAY_AUTH_MODE"] = config.auth
    token = _token(folder) if config.auth == "token" else None
    _reread_auth()
    options: dict[str, Any] = {
        "num_cpus": config.num_cpus,
        "num_gpus": config.num_gpus,
        "object_store_memory": config.object_store_memory,
        "include_dashboard": config.dashboard,
        "dashboard_host": config.dashboard_host,
        "dashboard_port": config.dashboard_port,
        "_temp_dir": str(folder),
    }
    try:
        context = _init(config, "local", options)
    except Exception as error:
        ray.shutdown()
        _forget(folder)
        raise SessionError(
            f"Ray did not start on this machine ({_line(error)}). Check that memory and disk are free and that "
            "ray.dashboard_port is not taken, or name a running Ray with ray.address."
        ) from error
    return RaySession(config.namespace, _url(context.dashboard_url), True, folder, token)


def _join(config: RayConfig, address: str) -> RaySession:
    try:
        _knock(address)
        context = _init(config, address, {})
    except Exception as error:
        raise SessionError(
            f"No Ray could be joined at {address!r} ({_line(error)}). Start one with `ray start --head`, correct "
            "ray.address, or, when it is guarded, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to its token file."
        ) from error
    return RaySession(config.namespace, _url(context.dashboard_url), owned=False)


def _knock(address: str) -> None:
    """Fail within seconds where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _init(config: RayConfig, address: str, options: dict[str, Any]) -> Any:
    import ray

    return ray.init(
        address=address,
        namespace=config.namespace,
        log_to_driver=config.logs,
        logging_level=logging.WARNING,
        **options,
    )


def _token(folder: Path) -> Path:
    """A token of this session's own, unless the user brings one."""
    if given := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return Path(given)
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    return path


def _forget(folder: Path) -> None:
    """Remove a session's folder, and its token from the environment."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.environ.get("RAY_AUTH_TOKEN_PATH") == str(folder / "token"):
        del os.environ["RAY_AUTH_TOKEN_PATH"]


def _reread_auth() -> None:
    """Ray reads the mode once, on import, and other rooms may have imported it before a session was asked for."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _dashboard() -> str | None:
    from ray._private.worker import global_worker

    node = global_worker.node
    return node.webui_url if node is not None else None


def _url(address: str | None) -> str | None:
    return f"http://{address}" if address else None


def _line(error: Exception) -> str:
    """Last line of an error, where Ray puts the reason."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
