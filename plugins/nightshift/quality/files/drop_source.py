"""Open a large drop for reading: as a stream or, if its format needs that, as a copy on disk.

Source: docs/adr/0027-large-drops.md.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.lake.object_errors import ObjectCorruptError
from nightshift.lake.object_stream import ObjectStream
from nightshift.quality.contract_errors import digest_error

if TYPE_CHECKING:
    from nightshift.lake.drops import DropManifest
    from nightshift.lake.object_store import ObjectStore

Start = bytes | Path
Source = ObjectStream | Path

# A copy that is older belongs to nobody: a task is ended long before.
_LONGEST_LOAD_SECONDS = 24 * 3600


@contextmanager
def open_drop(
    store: ObjectStore, drop: DropManifest, folder: Path
) -> Iterator[tuple[Start, Source]]:
    """Yield the sources of a drop's head and of its rows; at the end its digest has been compared.

    Args:
        store: The lake.
        drop: The drop.
        folder: For a copy, below the home.

    Raises:
        DigestError: The bytes are not those of the manifest; raised in the place of what they may
            have led to.
    """
    try:
        if drop.data_key.endswith(".parquet"):
            # A Parquet file begins with its end, so it is copied to disk first.
            with _own_folder(folder) as own:
                # Upstream's own name may be longer than a file's name can be here.
                path = own / "drop.parquet"
                store.download(drop.data_key, path, drop.sha256)
                yield path, path
        else:
            with ObjectStream(store, drop.data_key, drop.sha256) as stream:
                yield stream.first, stream
    except ObjectCorruptError as error:
        raise digest_error(drop, error.got or "other bytes") from None


@contextmanager
def _own_folder(parent: Path) -> Iterator[Path]:
    """Yield a folder that is deleted at the end, and delete those that killed processes left."""
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.iterdir():
        with suppress(FileNotFoundError):  # its owner deletes it at this moment
            if time.time() - folder.stat().st_mtime > _LONGEST_LOAD_SECONDS:
                shutil.rmtree(folder)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)
