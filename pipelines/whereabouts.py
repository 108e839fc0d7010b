"""Where a run is going: written into its folder while it goes, so that other terminals find its Ray and its actors."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from pipelines.run_folder import RunFolder


@dataclass(frozen=True)
class Whereabouts:
    """What joins a run: address of its Ray, its coordinator's name and namespace.

    auth: Ray's RAY_AUTH_MODE there. token_path: the file with its token; the token itself is never written.
    """

    address: str
    namespace: str
    coordinator: str
    auth: str = ""
    token_path: str = ""

    @classmethod
    def read(cls, folder: RunFolder) -> "Whereabouts | None":
        """Of the run of a folder; None when it is not going, or was ended before it could say so in full."""
        try:
            return cls(**json.loads(folder.ray.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None


@contextmanager
def announced(folder: RunFolder, namespace: str, coordinator: str) -> Iterator[None]:
    """Within the block the run's folder says where it is going. Ray must be initialised."""
    import ray

    found = Whereabouts(
        address=ray.get_runtime_context().gcs_address,
        namespace=namespace,
        coordinator=coordinator,
        auth=os.environ.get("RAY_AUTH_MODE", ""),
        token_path=os.environ.get("RAY_AUTH_TOKEN_PATH", ""),
    )
    folder.ray.write_text(json.dumps(asdict(found)), encoding="utf-8")
    try:
        yield
    finally:
        folder.ray.unlink(missing_ok=True)
