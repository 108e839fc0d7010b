"""The weight store: the learner publishes versions, rollout actors pull them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from settings import PrismError


class WeightsError(PrismError):
    """A version was asked for that the store does not hold, or was published twice with different contents."""


@dataclass(frozen=True)
class _Published:
    checksum: str
    ref: Any


class WeightStore:
    """Owner of the last two published versions, each one dict of numpy arrays in the object store.

    The store puts the values itself, so a learner that dies leaves its last version behind. Plain class; start it with
    `ray.remote`. Publishing is idempotent: the same version with the same checksum changes nothing.
    """

    def __init__(self, keep: int = 2) -> None:
        self._keep = keep
        self._versions: dict[int, _Published] = {}

    def publish(self, version: int, params: dict[str, np.ndarray], checksum: str) -> None:
        """Make `version` the latest. A version below the latest rolls back: every later one is forgotten."""
        for later in [v for v in self._versions if v > version]:
            del self._versions[later]
        held = self._versions.get(version)
        if held is None or held.checksum != checksum:
            self._versions[version] = _Published(checksum, ray.put(dict(params)))
        for old in sorted(self._versions)[: -self._keep]:
            del self._versions[old]

    def get(self, version: int | None = None) -> tuple[int, str, list[Any]]:
        """(version, checksum, [object ref of the dict]); the latest when no version is named.

        Raises WeightsError when the store is empty or no longer (or not yet) holds that version.
        """
        if not self._versions:
            raise WeightsError(
                "No weights were published yet; the learner publishes its first version before it asks for work."
            )
        wanted = max(self._versions) if version is None else version
        held = self._versions.get(wanted)
        if held is None:
            raise WeightsError(f"Weights of version {wanted} are not held; held are {sorted(self._versions)}.")
        return wanted, held.checksum, [held.ref]

    def versions(self) -> list[int]:
        """Held versions in ascending order."""
        return sorted(self._versions)
