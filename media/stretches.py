"""Stretches of videos, each as long as the model's clips: what features are computed of, and the table of them."""

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from media.features import text_id
from media.files import Files
from media.parts import FeatureError

FILE = "stretches.parquet"
SCHEMA = pa.schema(
    [
        pa.field(name, pa.float64() if name in ("start", "seconds") else pa.string(), nullable=name == "caption")
        for name in ("id", "clip", "uri", "start", "seconds", "sha256", "split", "caption", "text")
    ]
)


@dataclass(frozen=True)
class Stretch:
    """A stretch of a video.

    id: in the feature store, for what depends on the video. clip: id in the clip table. start, seconds: in the file.
    text: what the text encoder is given; empty when there is no plan. caption: what the user says is seen.
    """

    id: str
    clip: str
    uri: str
    start: float
    seconds: float
    sha256: str
    split: str = "train"
    caption: str | None = None
    text: str = ""

    @property
    def text_id(self) -> str:
        """Id in the feature store, for what depends on the text alone."""
        return text_id(self.text)


def write_stretches(root: str | Path, stretches: Iterable[Stretch]) -> None:
    """Add stretches to a store's table; those of a clip and start that are there already are replaced."""
    known = {(s.clip, s.start): s for s in read_stretches(root)}
    known |= {(s.clip, s.start): s for s in stretches}
    rows = [asdict(known[key]) for key in sorted(known)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd")
    Files(str(root)).write(FILE, sink.getvalue())


def read_stretches(root: str | Path) -> list[Stretch]:
    """A store's table in order of clip and start; empty when there is none. Raises FeatureError when it is damaged."""
    files = Files(str(root))
    try:
        table = pq.read_table(files.open(FILE))
        return [Stretch(**row) for row in table.select(SCHEMA.names).to_pylist()]
    except FileNotFoundError:
        return []
    except (OSError, KeyError, pa.ArrowException) as error:
        raise FeatureError(
            files.shown(FILE), f"is damaged or no table of stretches ({error}); delete it and run again."
        ) from error
