"""The table of what could not be computed for a feature store."""

import io
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from media.files import Files
from media.parts import FeatureError

FILE = "failures.parquet"
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("what", "id", "uri", "reason")])


@dataclass(frozen=True)
class Failure:
    """what: the encoder identity, or the step that failed. id: of the stretch or text. uri: of the file."""

    what: str
    id: str
    uri: str
    reason: str


def read_failures(files: Files) -> list[Failure]:
    """All rows; none when there is no table. Raises FeatureError when it is damaged."""
    try:
        table = pq.read_table(files.open(FILE))
        return [Failure(**row) for row in table.select(SCHEMA.names).to_pylist()]
    except FileNotFoundError:
        return []
    except (OSError, KeyError, pa.ArrowException) as error:
        raise FeatureError(files.shown(FILE), f"is damaged or no failure table ({error}); delete it.") from error


def write_failures(files: Files, failures: list[Failure]) -> None:
    """Replace the table."""
    sink = io.BytesIO()
    rows = sorted((asdict(failure) for failure in failures), key=lambda row: (row["uri"], row["what"], row["id"]))
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink, compression="zstd")
    files.write(FILE, sink.getvalue())
