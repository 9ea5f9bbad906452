"""Immutable Parquet snapshots, named by the hash of their content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.lake.object_store import ObjectStore

_ROW_GROUP_ROWS = 65_536
_CONTENT_TYPE = "application/vnd.apache.parquet"


@dataclass(frozen=True)
class Snapshot:
    """A stored snapshot.

    Attributes:
        key: ``<prefix>/<sha256>.parquet``.
        sha256: Digest of the Parquet bytes, hex.
        n_rows: Number of rows.
    """

    key: str
    sha256: str
    n_rows: int


def write_snapshot(store: ObjectStore, table: pa.Table, prefix: str) -> Snapshot:
    """Write a table; the same rows in the same order with the same schema land at the same key.

    Args:
        store: Where.
        table: Order the rows by a total key first: the order is part of the content.
        prefix: What the key begins with, without a slash at its end.

    Raises:
        ObjectStoreError: The server cannot be reached or refuses.
    """
    data = _parquet(table)
    digest = sha256(data).hexdigest()
    key = f"{prefix}/{digest}.parquet"
    store.put(key, data, _CONTENT_TYPE, names_content=True)
    return Snapshot(key, digest, table.num_rows)


def digest_of(table: pa.Table) -> str:
    """Return the SHA-256, hex, that a snapshot of the table would have."""
    return sha256(_parquet(table)).hexdigest()


def read_snapshot(store: ObjectStore, key: str, sha256: str) -> pa.Table:
    """Read a snapshot back, verified.

    Raises:
        ObjectMissingError: It does not exist.
        ObjectCorruptError: Its bytes are not those that were written.
        LocalSpaceError: The disk for temporary files is full.
    """
    import pyarrow as pa
    from pyarrow import parquet

    # The file is on disk, not in memory next to its rows. It is read group by group into memory of
    # the system's allocator: Arrow's own holds about a quarter more while it reads.
    with TemporaryDirectory(prefix="nightshift-snapshot-") as folder:
        path = Path(folder) / "rows.parquet"
        store.download(key, path, sha256)
        with _system_memory(), parquet.ParquetFile(path, pre_buffer=False) as file:
            groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
            return pa.concat_tables(groups) if groups else file.read()


@contextmanager
def _system_memory() -> Iterator[None]:
    import pyarrow as pa

    previous = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(previous)


def _parquet(table: pa.Table) -> bytes:
    """Return Parquet bytes that depend on schema and rows alone, not on the table's chunks."""
    import pyarrow as pa
    from pyarrow import parquet

    # Each option is part of the content hash: another value gives another key for the same rows.
    sink = pa.BufferOutputStream()
    parquet.write_table(
        table.combine_chunks(),
        sink,
        version="2.6",
        compression="zstd",
        row_group_size=_ROW_GROUP_ROWS,
        write_page_checksum=True,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data
