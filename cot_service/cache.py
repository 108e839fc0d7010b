"""Plans that were already written, kept in one Parquet file and found again by content."""

import hashlib
import os
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cot_service.plan import Plan
from cot_service.planner import Planner
from media.clip import Clip
from media.manifest import sha256_of
from settings import PrismError

COLUMNS = ("key", *(field.name for field in fields(Plan)))
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in COLUMNS])


class PlanCacheError(PrismError):
    """The cache file cannot be read or written."""


def plan_key(video_sha256: str, caption: str | None, planner: Planner) -> str:
    """Hex digest of everything a plan depends on."""
    parts = (video_sha256, "caption" if caption is not None else "none", caption or "", planner.name, planner.version)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class PlanCache:
    """Plans by key. Loaded when made; `save` writes the file anew, atomically, so that readers see a whole one."""

    def __init__(self, path: str | Path):
        """Raises PlanCacheError when the file exists but is no plan cache."""
        self.path = Path(path)
        self._plans = _load(self.path) if self.path.exists() else {}
        self._changed = False

    def __len__(self) -> int:
        return len(self._plans)

    def get(self, key: str) -> Plan | None:
        """The plan of a key, or None."""
        return self._plans.get(key)

    def put(self, key: str, plan: Plan) -> None:
        """Remember a plan until `save`."""
        self._changed |= self._plans.get(key) != plan
        self._plans[key] = plan

    def save(self) -> None:
        """Write the file when something changed; plans that another process added meanwhile are kept.

        Raises PlanCacheError.
        """
        if not self._changed:
            return
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._plans = {**_load(self.path), **self._plans}
            rows = [{"key": key, **asdict(plan)} for key, plan in sorted(self._plans.items())]
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial, compression="zstd")
            os.replace(partial, self.path)
        except (OSError, pa.ArrowException) as error:
            raise PlanCacheError(f"{self.path}: the plan cache cannot be written ({error}); check the disk.") from error
        finally:
            partial.unlink(missing_ok=True)
        self._changed = False


def cached_plan(planner: Planner, clip: Clip, caption: str | None, cache: PlanCache) -> Plan:
    """The plan of a whole video file: from the cache, or written by the planner and remembered."""
    key = plan_key(sha256_of(clip.path), caption, planner)
    plan = cache.get(key)
    if plan is None:
        plan = planner.plan(clip, caption)
        cache.put(key, plan)
    return plan


def _load(path: Path) -> dict[str, Plan]:
    try:
        rows = pq.read_table(path, schema=SCHEMA).to_pylist()
        return {row.pop("key"): Plan(**row) for row in rows}
    except (OSError, pa.ArrowException, TypeError) as error:
        raise PlanCacheError(f"{path}: is not a plan cache ({error}); delete it to start a new one.") from error
