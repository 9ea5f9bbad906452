"""Build training sets: published features joined to known labels, frozen as Parquet.

No row is newer than its label's maturity, and no label was delivered or corrected after the as-of
of the partition that trains.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import code_version
from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.lake.object_store import ObjectStore
from nightshift.lake.snapshots import read_snapshot, write_snapshot
from nightshift.models.signature import check_columns, numbers
from nightshift.training.feature_query import features_target
from nightshift.training.splits import check_window, split_window
from nightshift.training.training_query import (
    TrainingQuery,
    feature_as_of,
    refuse_unknown_classes,
    relation_columns,
)
from nightshift.warehouse.connection import connect, lose
from nightshift.warehouse.damage import published_records, refuse_damaged

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import LoadRecord

logger = logging.getLogger(__name__)


class TrainingSetError(NightshiftError):
    """There are not enough labelled, published rows, or they do not fit the spec."""

    code = "NS-TRAIN-001"


@dataclass(frozen=True)
class TrainingSet:
    """An immutable training set.

    Attributes:
        key: Its object key, which is its identity: model, partition and content hash.
        sha256: Digest of the Parquet file, hex.
        n_rows: Labelled rows.
        partition: The partition that trains.
        window: Feature partitions of the rows; the predicted day is the day after each.
        as_of: Cut-off of the labels, UTC, included.
    """

    key: str
    sha256: str
    n_rows: int
    partition: Partition
    window: PartitionRange
    as_of: dt.datetime


def build_training_set(
    settings: Settings, spec: ModelSpec, partition: Partition, run: RunContext
) -> TrainingSet:
    """Build, write and record a training set; the same inputs give the same key.

    Raises:
        TrainingSetError: Too few days (001), a day that is not published (002), a label of one
            value (003), a relation that is absent or unfit (004), entity keys that stand for
            several outcomes (006).
        WindowError: A part of the window has no labelled row, or a single label value.
        SignatureError: The feature view lacks columns of the spec; the message has the difference.
        DamagedInputError: Published feature rows of the window vanished or changed.
        ObjectStoreError: The object store cannot be reached.
    """
    with connect(settings, run.application_name) as conn:
        selected = select_training_rows(settings, conn, spec, partition, run.application_name)
        store = ObjectStore.open(settings)
        store.ensure_bucket()
        prefix = f"training_sets/{spec.name}/{partition}"
        snapshot = write_snapshot(store, selected.rows, prefix)
        training_set = TrainingSet(
            key=snapshot.key,
            sha256=snapshot.sha256,
            n_rows=snapshot.n_rows,
            partition=partition,
            window=selected.window,
            as_of=selected.as_of,
        )
        # What ``nightshift repro`` needs to make the same rows again.
        manifest = {
            "key": snapshot.key,
            "sha256": snapshot.sha256,
            "n_rows": snapshot.n_rows,
            "partition": partition.key,
            "as_of": selected.as_of.isoformat(),
            "window": str(selected.window),
            "query": selected.query.as_string(None),
            "partitions": [_as_json(load) for load in selected.loads],
            "sampled_share": selected.sampled_share,
            "features": list(spec.features.names),
            "label": spec.label.column,
            "spec_digest": spec.digest,
            "code_version": code_version(),
        }
        _record(conn, store, spec, training_set, manifest, run)
        hit(Failpoint.TRAINING_SET_AFTER, lambda: lose(conn))
    return training_set


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a training of a partition reads, and where they come from.

    Attributes:
        rows: All columns of the feature view and the label, in their total order.
        window: Their feature partitions.
        as_of: Cut-off of the labels, UTC, included.
        query: What read them.
        loads: The feature loads that were published then.
        sampled_share: Share of the entities, 1 for all.
    """

    rows: pa.Table
    window: PartitionRange
    as_of: dt.datetime
    query: sql.Composed
    loads: list[LoadRecord]
    sampled_share: float


def select_training_rows(
    settings: Settings, conn: Connection, spec: ModelSpec, partition: Partition, name: str
) -> TrainingRows:
    """Return the rows that a training of a partition reads now; nothing is written.

    Raises: as ``build_training_set``, without the store's.
    """
    days = mature_window(spec, partition).days
    loads = published_records(conn, spec.features_dataset, days)
    published = [load.partition_date for load in loads]
    window = _complete_window(spec, published, partition)
    _refuse_unfit_relations(conn, spec)
    # Rows that vanished or changed since their publication would be trained on silently.
    refuse_damaged(conn, features_target(spec), loads)

    as_of = feature_as_of(conn, spec, partition)
    training_query = TrainingQuery(conn, spec, window, partition, as_of)
    _refuse_recurring_keys(training_query)
    sampled_share = _sampled_share(training_query)
    query = training_query.rows(sampled_share)
    rows = training_query.read(settings, query, name)
    check_rows(spec, rows)
    # Refuse now what a fit would refuse after minutes: the split is the one that it will use.
    check_window(spec, rows, split_window(window, spec.training))
    return TrainingRows(rows, window, as_of, query, loads, sampled_share)


def find_training_set(conn: Connection, key: str) -> TrainingSet:
    """Return a recorded training set.

    Raises:
        TrainingSetError: There is no such key.
    """
    query = """
        select training_set, sha256, n_rows, partition_date, first_day, last_day, as_of
        from ml.training_sets where training_set = %s
    """
    row = conn.execute(query, [key]).fetchone()
    if row is None:
        raise TrainingSetError(
            f"There is no training set {key!r}.", todo="Build it first.", code="NS-TRAIN-005"
        )
    key, digest, n_rows, day, first_day, last_day, as_of = row
    window = PartitionRange(Partition(first_day), Partition(last_day))
    return TrainingSet(
        key=key,
        sha256=digest,
        n_rows=n_rows,
        partition=Partition(day),
        window=window,
        as_of=as_of,
    )


def read_rows(store: ObjectStore, training_set: TrainingSet) -> pa.Table:
    """Return the verified rows: all columns of the feature view and the label.

    They are ordered by ``partition_date`` and entity key.

    Raises:
        ObjectStoreError: They are missing or were changed.
    """
    return read_snapshot(store, training_set.key, training_set.sha256)


def mature_window(spec: ModelSpec, partition: Partition) -> PartitionRange:
    """Return the last ``window_days`` feature partitions whose predicted day is mature."""
    last = partition.shift(-1 - spec.label.maturity_days)
    return PartitionRange(last.shift(1 - spec.training.window_days), last)


def _complete_window(
    spec: ModelSpec, published: list[dt.date], partition: Partition
) -> PartitionRange:
    """Return the window from its first published day on, without a missing day."""
    # The history may start within the window: days before the first published one are not missing.
    if not published:
        raise _too_few_days(spec, 0)
    last = mature_window(spec, partition).last
    window = PartitionRange(Partition(published[0]), last)
    missing = sorted(set(window.days) - set(published))
    if missing:
        named = [str(day) for day in missing[:10]]
        raise TrainingSetError(
            f"{len(missing)} feature partition(s) of the training window are not published: "
            f"{', '.join(named)}.",
            expected=f"{spec.features_dataset} published for {window}",
            got=f"{len(published)} of {len(window)} days",
            todo="Backfill these days, then rerun the training.",
            code="NS-TRAIN-002",
        )
    if len(window) < spec.training.first_days:
        raise _too_few_days(spec, len(window))
    return window


def _as_json(load: LoadRecord) -> dict[str, Any]:
    """Return a feature load as the manifest has it."""
    return {
        "partition": load.partition_date.isoformat(),
        "load_id": load.load_id,
        "content_hash": load.content_hash,
    }


def _refuse_unfit_relations(conn: Connection, spec: ModelSpec) -> None:
    """Refuse a label relation or a feature view that lacks columns, or features with the label."""
    keys = {spec.entity.key, "partition_date"}
    label = spec.label.column
    label_columns = {*keys, "known_at", "superseded_at", label}
    _read_columns(conn, "marts", spec.label.relation, label_columns)
    feature_columns = {*keys, "load_id", "as_of"}
    columns = _read_columns(conn, "features", spec.feature_table, feature_columns)
    if label in columns:
        raise TrainingSetError(
            f"features.{spec.feature_table} contains the label {label!r}: "
            "the model would read the answer.",
            todo="Take it out of the feature view, or give the label another name.",
            code="NS-TRAIN-004",
        )


def _read_columns(conn: Connection, schema: str, relation: str, expected: set[str]) -> list[str]:
    """Return the columns of a relation; one without any does not exist.

    Raises:
        TrainingSetError: Expected columns are missing.
    """
    columns = relation_columns(conn, schema, relation)
    missing = sorted(expected - set(columns))
    if missing:
        raise TrainingSetError(
            f"{schema}.{relation} lacks {', '.join(missing)}.",
            expected=", ".join(sorted(expected)),
            got=", ".join(columns) or "no such relation",
            todo="Correct its dbt model, or the spec.",
            code="NS-TRAIN-004",
        )
    return columns


def _refuse_recurring_keys(query: TrainingQuery) -> None:
    """Refuse keys with outcomes of several days: each of their rows would get the last outcome."""
    spec = query.spec
    n_keys, example = query.find_recurring_keys()
    if n_keys:
        raise TrainingSetError(
            f"{n_keys:,} value(s) of entity key {spec.entity.key!r} stand for the outcomes of "
            "several days.",
            expected="a key that names one predicted thing, such as 2013-02-01_shop7 for the "
            "visitors of shop7 on that day",
            got=f"{example!r} has feature rows and labels of several days",
            todo=f"Put the day into the key, in features.{spec.feature_table} and "
            f"marts.{spec.label.relation} alike.",
            code="NS-TRAIN-006",
        )


def _sampled_share(query: TrainingQuery) -> float:
    """Return the share of the rows that the training set takes, 1 for all."""
    # Rows without a label count too, so the sample is rather too small than too large.
    n_rows = query.count_rows()
    maximum = query.spec.training.maximum_rows
    if n_rows <= maximum:
        return 1.0
    share = maximum / n_rows
    logger.info(
        "The training set is a %.2f %% sample of %s rows (training.maximum_rows).",
        100 * share,
        f"{n_rows:,}",
    )
    return share


def check_rows(spec: ModelSpec, rows: pa.Table) -> None:
    """Refuse rows that no model can be trained on.

    Raises:
        TrainingSetError: Too few labelled days, or a label of one value.
        SignatureError: Missing columns, or infinite numbers.
    """
    import numpy as np

    slices = [part.column for part in spec.promotion.slices]
    # The gate also reads the slices and the rule's column, from these same rows.
    rule = spec.scoring.fallback.columns
    names = [*spec.features.names, *slices, *rule, *spec.group_columns]
    check_columns(names, rows)
    n_days = len(rows.column("partition_date").unique())
    if n_days < spec.training.first_days:
        raise _too_few_days(spec, n_days)

    is_binary = spec.task == "binary"
    label = numbers(rows, spec.label.column)
    refuse_unknown_classes(spec, label)
    values = np.unique(label).tolist()
    is_fit = values == [0.0, 1.0] if is_binary else len(values) != 1
    if not is_fit:
        raise TrainingSetError(
            f"Label {spec.label.column!r} does not fit task {spec.task}.",
            expected="both 0 and 1" if is_binary else "more than one value",
            got=", ".join(map(str, values[:5])),
            todo=f"Look at marts.{spec.label.relation}: is the outcome joined and mature?",
            code="NS-TRAIN-003",
        )


def _too_few_days(spec: ModelSpec, n_days: int) -> TrainingSetError:
    """Return the error of a history that is too short for a first training."""
    has_cold_start = spec.training.cold_start_days is not None
    name = "training.cold_start_days" if has_cold_start else "training.minimum_days"
    return TrainingSetError(
        f"Too few labelled days to train {spec.name}.",
        expected=f"at least {spec.training.first_days} ({name})",
        got=str(n_days),
        todo="Backfill more history; until then the fallback rule scores.",
    )


def _record(
    conn: Connection,
    store: ObjectStore,
    spec: ModelSpec,
    training_set: TrainingSet,
    manifest: dict[str, Any],
    run: RunContext,
) -> None:
    """Write the manifest into the bucket and the warehouse."""
    document = json.dumps(manifest, indent=1, sort_keys=True)
    # Another manifest of the same rows (other code, same content) gets a key of its own.
    digest = sha256(document.encode()).hexdigest()
    stem = training_set.key.removesuffix(".parquet")
    key = f"{stem}.manifest.{digest[:16]}.json"
    store.put(key, document.encode(), "application/json")
    # The first manifest of a key stands: a rerun made the same rows of it.
    conn.execute(
        """
        insert into ml.training_sets (training_set, model, partition_date, as_of, first_day,
            last_day, n_rows, sha256, spec_digest, code_version, manifest, run_id)
        values (%(key)s, %(model)s, %(day)s, %(as_of)s, %(first_day)s,
            %(last_day)s, %(n_rows)s, %(sha256)s, %(spec_digest)s, %(code_version)s, %(manifest)s,
            %(run_id)s)
        on conflict (training_set) do nothing
        """,
        {
            **vars(training_set),
            "model": spec.name,
            "day": training_set.partition.day,
            "first_day": training_set.window.first.day,
            "last_day": training_set.window.last.day,
            "spec_digest": spec.digest,
            "code_version": code_version(),
            "manifest": document,
            "run_id": run.run_id,
        },
    )
