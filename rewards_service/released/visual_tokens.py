"""A clip's visual tokens: remembered, else from the feature store, else computed. They depend on the video alone."""

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from media.features import SYNC, FeatureStore, stretch_id
from media.manifest import sha256_of
from media.parts import FeatureError
from media.stretches import read_stretches
from rewards_service.errors import RewardError
from rewards_service.scores import Reference

Key = tuple[str, int, int, tuple[int, int] | None]
Compute = Callable[[str, float, float], Tensor]


class VisualTokens:
    """Tokens (S, per_segment, D) float32 on the CPU of the stretch that a reference names.

    compute: from path, start and seconds. limit: bytes to remember; what was not asked for longest is forgotten. store
    and encoders: where tokens may lie, and under which identities, the preferred first. `counts` says how often tokens
    were "remembered", "stored" or "computed". For several threads at once; no clip is computed twice by two of them.
    """

    def __init__(
        self,
        compute: Compute,
        limit: int,
        store: FeatureStore | None = None,
        encoders: Sequence[str] = (),
        per_segment: int = 8,
    ):
        self.counts: Counter[str] = Counter(remembered=0, stored=0, computed=0)
        self._compute, self._limit, self._per_segment = compute, limit, per_segment
        self._store, self._encoders = store, tuple(encoders)
        self._kept: OrderedDict[Key, Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What is remembered now."""
        return self._bytes

    def get(self, reference: Reference) -> Tensor:
        """The tokens of a clip.

        Raises RewardError for a reference that names no file, the MediaError that fits for a file that cannot be read,
        FeatureError when the store fails.
        """
        if not reference.uri:
            raise RewardError("the reference names no video file to see the picture in")
        key = _key(reference)
        with self._lock:
            if key in self._kept:
                self.counts["remembered"] += 1
                self._kept.move_to_end(key)
                return self._kept[key]
            tokens = self._stored(reference, local=key[-1] is not None)
            if tokens is None:
                tokens = self._compute(reference.uri, reference.start, reference.seconds)
                self.counts["computed"] += 1
            else:
                self.counts["stored"] += 1
            self._keep(key, tokens)
            return tokens

    def _keep(self, key: Key, tokens: Tensor) -> None:
        if tokens.nbytes > self._limit:
            return
        self._kept[key] = tokens
        self._bytes += tokens.nbytes
        while self._bytes > self._limit:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def _stored(self, reference: Reference, local: bool) -> Tensor | None:
        if self._store is None:
            return None
        if local:
            stretch = stretch_id(sha256_of(reference.uri), reference.start, reference.seconds)
        else:  # The node that scores need not have the video if another one extracted its features.
            stretch = self._stretches.get((reference.uri, *_times(reference)), "")
        for encoder in self._encoders if stretch else ():
            if not self._store.missing(encoder, [stretch], [SYNC]):
                array = self._store.read(encoder, [stretch], [SYNC])[stretch][SYNC]
                if len(array) % self._per_segment or not len(array):
                    raise FeatureError(
                        self._store.root, f"{SYNC} of {stretch} are {array.shape}, no {self._per_segment} per segment."
                    )
                return torch.from_numpy(array).unflatten(0, (-1, self._per_segment))
        return None

    @cached_property
    def _stretches(self) -> dict[tuple[str, int, int], str]:
        assert self._store is not None
        return {(s.uri, round(1000 * s.start), round(1000 * s.seconds)): s.id for s in read_stretches(self._store.root)}


def _key(reference: Reference) -> Key:
    """With the file's size and time of change, so that another video under the same path is not mistaken for it."""
    try:
        state = os.stat(reference.uri)
    except OSError:
        return reference.uri, *_times(reference), None
    return reference.uri, *_times(reference), (state.st_size, state.st_mtime_ns)


def _times(reference: Reference) -> tuple[int, int]:
    return round(1000 * reference.start), round(1000 * reference.seconds)
