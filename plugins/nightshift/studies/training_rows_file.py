"""Write the rows of a training into a Parquet file, for a notebook.

The digest is that of the training set: of all its columns, before the file leaves out those that
the spec does not name and adds split and weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nightshift.atomic_file import replacing, write_through
from nightshift.errors import NightshiftError
from nightshift.lake.object_store import ObjectStore
from nightshift.lake.snapshots import digest_of
from nightshift.studies.known_rows import newest_partition
from nightshift.training.recipe.members import FitRows, days_of
from nightshift.training.splits import split_window
from nightshift.training.training_set import find_training_set, read_rows, select_training_rows
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition, PartitionRange
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

NAME = "nightshift training-set"
SPLIT, WEIGHT = "nightshift_split", "nightshift_weight"
"""Columns that the file has besides those of the training set."""
UNUSED = "gap"
"""Mark of the days between two parts, which no fit and no check reads."""


class FileNotWrittenError(NightshiftError):
    """The file of training rows does not hold what was read."""

    code = "NS-STUDY-003"


@dataclass(frozen=True)
class TrainingRowsFile:
    """A written file.

    Attributes:
        path: Where it is.
        sha256: Digest of the training set, hex: equal to the record of a training that read the
            same rows.
        training_set: Key of the recorded training set whose rows these are; empty if no training of
            the partition is recorded.
        n_rows: Rows.
        window: Feature partitions.
        parts: Rows by split mark.
        columns: Columns of the file.
        left_out: Columns of the feature view that the spec does not name: they do not leave.
    """

    path: Path
    sha256: str
    training_set: str
    n_rows: int
    window: PartitionRange
    parts: dict[str, int]
    columns: list[str]
    left_out: list[str]


def write_training_rows(
    settings: Settings,
    spec: ModelSpec,
    partition: Partition | None,
    path: Path,
) -> TrainingRowsFile:
    """Write what the training of a partition reads, as it knew it then; atomically.

    The recorded training set of the partition is read, if there is one. Otherwise the rows are
    selected as a training would, and nothing is recorded.

    Args:
        settings: Warehouse and bucket.
        spec: The model.
        partition: The partition that trains; None takes the newest with published features.
        path: The file; an existing one is replaced.

    Raises:
        NoKnownRowsError: No features are published.
        TrainingSetError: There are not enough rows to train on, or they do not fit the spec.
        ObjectStoreError: The recorded training set cannot be read.
        FileNotWrittenError: The file cannot be written, or what was read back differs.
    """
    with connect(settings, NAME) as conn:
        partition = partition or newest_partition(conn, spec)
        key = _recorded_key(conn, spec, partition)
        if key:
            training_set = find_training_set(conn, key)
            rows = read_rows(ObjectStore.open(settings), training_set)
            window, digest = training_set.window, training_set.sha256
        else:
            selected = select_training_rows(settings, conn, spec, partition, NAME)
            rows, window = selected.rows, selected.window
            digest = digest_of(rows)
    marks = split_marks(spec, rows, window)
    shown = _with_marks(spec, rows, marks, {"training_set_sha256": digest, "window": str(window)})
    _write(path, shown)
    names, counts = np.unique(marks, return_counts=True)
    return TrainingRowsFile(
        path=path,
        sha256=digest,
        training_set=key,
        n_rows=rows.num_rows,
        window=window,
        parts=dict(zip(names.tolist(), counts.tolist(), strict=True)),
        columns=shown.column_names,
        left_out=sorted(set(rows.column_names) - set(shown.column_names)),
    )


def _recorded_key(conn: Connection, spec: ModelSpec, partition: Partition) -> str:
    """Return the newest training set of a partition by this spec; empty without one."""
    row = conn.execute(
        """
        select training_set from ml.training_sets
        where model = %s and partition_date = %s and spec_digest = %s
        order by created_at desc limit 1
        """,
        [spec.name, partition.day, spec.digest],
    ).fetchone()
    return str(row[0]) if row else ""


def split_marks(spec: ModelSpec, rows: pa.Table, window: PartitionRange) -> np.ndarray:
    """Return ``train``, ``validation``, ``holdout`` or ``gap`` of each row; shape (n,)."""
    split = split_window(window, spec.training)
    days = days_of(rows).astype("datetime64[D]")
    marks = np.full(rows.num_rows, UNUSED, dtype="<U10")
    for name in ("train", "validation", "holdout"):
        part: PartitionRange = getattr(split, name)
        first = np.datetime64(part.first.day)
        last = np.datetime64(part.last.day)
        marks[(days >= first) & (days <= last)] = name
    return marks


def allowed_columns(spec: ModelSpec) -> set[str]:
    """Return the columns that the spec names: no other column of the feature view leaves."""
    promotion = spec.promotion
    slices = [part.column for part in promotion.slices]
    groups = [part.column for part in promotion.fairness]
    columns = {
        *spec.features.names,
        *slices,
        *groups,
        *spec.analytics.attributes,
        spec.entity.key,
        spec.event_timestamp,
        spec.label.column,
        *spec.scoring.fallback.columns,
        "partition_date",
        "as_of",
    }
    # Most specs have none.
    if spec.training.weight_column is not None:
        columns.add(spec.training.weight_column)
    return columns


def _with_marks(
    spec: ModelSpec,
    rows: pa.Table,
    marks: np.ndarray,
    facts: dict[str, str],
) -> pa.Table:
    import pyarrow as pa

    weight = FitRows(spec, rows).weight
    if weight is None:
        weight = np.ones(rows.num_rows)
    allowed = allowed_columns(spec)
    names = [name for name in rows.column_names if name in allowed]
    shown = rows.select(names)
    shown = shown.append_column(SPLIT, pa.array(marks, pa.string()))
    shown = shown.append_column(WEIGHT, pa.array(weight, pa.float64()))
    # Whoever finds the file can ask for the record of its training.
    metadata = {
        **facts,
        "model": spec.name,
        "spec": spec.digest,
    }
    return shown.replace_schema_metadata(metadata)


def _write(path: Path, table: pa.Table) -> None:
    """Replace a file atomically, after it was read back."""
    from pyarrow import parquet

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            parquet.write_table(table, draft)
            write_through(draft)
            if not parquet.read_table(draft).equals(table, check_metadata=True):
                raise FileNotWrittenError(
                    f"{path} was read back with other rows.", todo="Try again."
                )
    except OSError as error:
        raise FileNotWrittenError(
            f"{path} cannot be written: {error.strerror}.",
            todo="Choose a folder that exists, is yours, and has room.",
        ) from error
