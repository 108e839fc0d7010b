"""Stereo images of clips' own sound that `prism features` has measured."""

from media.features import FeatureStore
from media.stretches import read_stretches
from rewards_service.errors import RewardError
from rewards_service.scores import Reference
from rewards_service.stereo.image import ARRAYS, StereoImage, identity


class StoredImages:
    """Of a feature store. Raises RewardError when it holds none that were measured in these windows."""

    def __init__(self, root: str, window_s: float, hop_s: float) -> None:
        self._store, self._encoder = FeatureStore(root), identity(window_s, hop_s)
        if self._encoder not in self._store.encoders():
            raise RewardError(
                f"The feature store {root} has no {self._encoder}; make it with `prism features`, or leave store "
                "empty, and the clips' sound is measured when it is first needed."
            )
        known = set(self._store.ids(self._encoder))
        self._ids = {(s.uri, round(1000 * s.start)): s.id for s in read_stretches(root) if s.id in known}

    def of(self, reference: Reference) -> StereoImage | None:
        """The image of a reference's stretch, None when it is not in the store (or has no sound)."""
        key = self._ids.get((reference.uri, round(1000 * reference.start)))
        if key is None:
            return None
        return StereoImage.of_arrays(self._store.read(self._encoder, [key], ARRAYS)[key])
