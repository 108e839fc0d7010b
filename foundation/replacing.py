"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from foundation.errors import CheckpointError


@contextmanager
def replacing(path: Path, size: int) -> Iterator[str]:
    """A temporary name beside `path`; what the block writes there is synced and takes the real name at its end.

    size: bytes to be written, for the message. Raises CheckpointError when there is no space or right to write; the old
    file, if any, is then untouched and nothing half-written is left.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise CheckpointError(
            f"Could not write {path} ({size} bytes): {getattr(error, 'strerror', None) or error}. Free space or choose "
            "another folder; no partial file was left."
        ) from error
