"""Build the rows a model is trained on: published features, joined to the labels that the night knew, frozen as Parquet.

No row is newer than its label's maturity, and no label is one that was delivered or corrected after
the night's as-of.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.contracts.metrics import Task
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import code_version
from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.lake.object_store import ObjectStore
from nightshift.lake.snapshots import Snapshot, read_snapshot, write_snapshot
from nightshift.models.signature import check_columns, numbers
from nightshift.training.feature_query import features_target
from nightshift.training.splits import split_window
from nightshift.training.window_checks import check_window
from nightshift.warehouse.connection import connect, label_queries, lose
from nightshift.warehouse.damage import published_records, refuse_damaged
from nightshift.warehouse.fast_io.arrow_io import read_arrow

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

_BOOKKEEPING = ("load_id", "run_id", "loaded_at")
"""Columns that say how a row came here; they would give equal rows another hash."""


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
        partition: The night that trains.
        window: Feature partitions of the rows; the predicted day is the day after each.
        as_of: What the labels could know, UTC, included.
    """

    key: str
    sha256: str
    n_rows: int
    partition: Partition
    window: PartitionRange
    as_of: dt.datetime


def mature_window(spec: ModelSpec, partition: Partition) -> PartitionRange:
    """Return the feature partitions whose predicted day is mature on that night: ``window_days`` days at most."""
    last = partition.shift(-1 - spec.label.maturity_days)
    return PartitionRange(last.shift(1 - spec.training.window_days), last)


def count_published_days(conn: Connection, spec: ModelSpec, partition: Partition) -> int:
    """Return how many feature partitions of the night's training window are published."""
    return len(_published_loads(conn, spec, mature_window(spec, partition)))


def build_training_set(
    settings: Settings, spec: ModelSpec, partition: Partition, run: RunContext
) -> TrainingSet:
    """Build, write and record the training set of one night; the same knowledge gives the same key.

    Raises:
        TrainingSetError: Too few days (001), a hole (002), a label of one value (003), a relation
            that is absent or unfit (004), entity keys that stand for several outcomes (006).
        WindowError: A part of the window has no labelled row, or a single label value.
        SignatureError: The feature view lacks columns of the spec; the message has the difference.
        DamagedInputError: Published feature rows of the window vanished or changed.
        ObjectStoreError: The object store cannot be reached.
    """
    with connect(settings, run.application_name) as conn:
        loads = _published_loads(conn, spec, mature_window(spec, partition))
        window = _whole_window(spec, loads, partition)
        _refuse_unfit(conn, spec)
        refuse_damaged(
            conn, features_target(spec), published_records(conn, spec.features_dataset, window.days)
        )
        as_of = _as_of(conn, spec, partition)
        known = PartitionRange(window.first, partition)
        _refuse_recurring_keys(conn, spec, known, window, as_of)
        sampled = _sampled_share(conn, spec, window)
        query = _query(conn, spec, known, window, as_of, sampled)
        rows = read_arrow(settings, query, run.application_name, is_label_query=True)
        check_rows(spec, rows)
        check_window(spec, rows, split_window(window, spec.training))
        store = ObjectStore.open(settings)
        store.ensure_bucket()
        snapshot = write_snapshot(store, rows, f"training_sets/{spec.name}/{partition}")
        training_set = TrainingSet(
            snapshot.key, snapshot.sha256, rows.num_rows, partition, window, as_of
        )
        _record(
            conn,
            store,
            spec,
            training_set,
            {
                "query": query.as_string(None),
                "partitions": loads,
                "sampled_share": sampled,
                **_facts(spec, snapshot),
            },
            run,
        )
        hit(Failpoint.TRAINING_SET_AFTER, lambda: lose(conn))
    return training_set


def find_training_set(conn: Connection, key: str) -> TrainingSet:
    """Return a recorded training set.

    Raises:
        TrainingSetError: There is no such key.
    """
    row = conn.execute(
        "select training_set, sha256, n_rows, partition_date, first_day, last_day, as_of from ml.training_sets where training_set = %s",
        [key],
    ).fetchone()
    if row is None:
        raise TrainingSetError(
            f"There is no training set {key!r}.", todo="Build it first.", code="NS-TRAIN-005"
        )
    return TrainingSet(
        row[0],
        row[1],
        row[2],
        Partition(row[3]),
        PartitionRange(Partition(row[4]), Partition(row[5])),
        row[6],
    )


def read_rows(store: ObjectStore, training_set: TrainingSet) -> pa.Table:
    """Return the rows, verified, ordered by ``partition_date`` and entity key: all columns of the feature view and the label.

    Raises:
        ObjectStoreError: They are missing or were changed.
    """
    return read_snapshot(store, training_set.key, training_set.sha256)


def check_rows(spec: ModelSpec, rows: pa.Table) -> None:
    """Refuse rows that cannot be learnt from.

    Raises:
        TrainingSetError: Too few labelled days, or a label of one value.
        SignatureError: Missing columns, or infinite numbers.
    """
    import numpy as np

    slices = tuple(part.column for part in spec.promotion.slices)
    check_columns((*spec.features.names, *slices, spec.scoring.fallback.feature), rows)
    n_days = len(rows.column("partition_date").unique())
    if n_days < spec.training.minimum_days:
        raise _too_few_days(spec, n_days)
    values = np.unique(numbers(rows, spec.label.column))
    allowed = {0.0, 1.0} if spec.task == Task.BINARY else set(values.tolist())
    if values.size == 1 or not set(values.tolist()) <= allowed:
        raise TrainingSetError(
            f"Label {spec.label.column!r} does not fit task {spec.task}.",
            expected="both 0 and 1" if spec.task == Task.BINARY else "more than one value",
            got=", ".join(map(str, values[:5].tolist())),
            todo=f"Look at marts.{spec.label.relation}: is the outcome joined and mature?",
            code="NS-TRAIN-003",
        )


def _published_loads(
    conn: Connection, spec: ModelSpec, window: PartitionRange
) -> list[dict[str, Any]]:
    query = """
        select p.partition_date::text, p.load_id, l.content_hash
        from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.dataset = %s and p.partition_date between %s and %s order by p.partition_date
    """
    found = conn.execute(query, [spec.features_dataset, window.first.day, window.last.day])
    return [
        {"partition": day, "load_id": load_id, "content_hash": content_hash}
        for day, load_id, content_hash in found
    ]


def _whole_window(
    spec: ModelSpec, loads: list[dict[str, Any]], partition: Partition
) -> PartitionRange:
    """Return the window from its first published day on, which must have no holes."""
    published = [str(load["partition"]) for load in loads]
    last = mature_window(spec, partition).last
    if not published:
        raise _too_few_days(spec, 0)
    window = PartitionRange(Partition.parse(published[0]), last)
    if holes := sorted({day.key for day in window} - set(published)):
        raise TrainingSetError(
            f"{len(holes)} feature partition(s) of the training window are not published: {', '.join(holes[:10])}.",
            expected=f"{spec.features_dataset} published for {window}",
            got=f"{len(published)} of {len(window)} days",
            todo="Backfill these days, then rerun the training.",
            code="NS-TRAIN-002",
        )
    if len(window) < spec.training.minimum_days:
        raise _too_few_days(spec, len(window))
    return window


def _too_few_days(spec: ModelSpec, n_days: int) -> TrainingSetError:
    return TrainingSetError(
        f"Too few labelled days to train {spec.name}.",
        expected=f"at least {spec.training.minimum_days} (training.minimum_days)",
        got=str(n_days),
        todo="Backfill more history; until then the fallback rule scores.",
    )


def _as_of(conn: Connection, spec: ModelSpec, partition: Partition) -> dt.datetime:
    """Return what the night knew: the as-of of the features that it published; its nominal cut-off if there are none (a backtest)."""
    from psycopg import sql

    query = sql.SQL(
        """
        select max(f.as_of) from ops.published p
        join features.{} f on f.partition_date = p.partition_date and f.load_id = p.load_id
        where p.dataset = %s and p.partition_date = %s
        """
    ).format(sql.Identifier(spec.feature_table))
    row = conn.execute(query, [spec.features_dataset, partition.day]).fetchone()
    return (row and row[0]) or partition.cutoff


def _sampled_share(conn: Connection, spec: ModelSpec, window: PartitionRange) -> float:
    """Return the share of the rows that the training set takes, 1 for all; rows without a label count too, so it errs to fewer."""
    from psycopg import sql

    query = sql.SQL(
        """
        select count(*) from features.{} f
        join ops.published p on p.dataset = %s and p.partition_date = f.partition_date and p.load_id = f.load_id
        where f.partition_date between %s and %s
        """
    ).format(sql.Identifier(spec.feature_table))
    row = conn.execute(query, [spec.features_dataset, window.first.day, window.last.day]).fetchone()
    n_rows = int(row[0]) if row else 0
    if n_rows <= spec.training.maximum_rows:
        return 1.0
    share = spec.training.maximum_rows / n_rows
    logger.info(
        "Of %s rows a sample of %.2f %% is taken (training.maximum_rows).",
        f"{n_rows:,}",
        100 * share,
    )
    return share


def _in_sample(key: sql.Composable, share: float) -> sql.Composable:
    """Return the condition of a sample by key: the same keys on all days and in every run."""
    from psycopg import sql

    if share >= 1:
        return sql.SQL("true")
    return sql.SQL("(hashtextextended({}::text, {}) & {}) < {}").format(
        key,
        sql.Literal(_SAMPLE_SEED),
        sql.Literal(_SAMPLE_MASK),
        sql.Literal(round(share * (_SAMPLE_MASK + 1))),
    )


_SAMPLE_SEED, _SAMPLE_MASK = 20130101, (1 << 40) - 1
"""Another seed than that of shards, so that a sample is none of them."""


def _query(
    conn: Connection,
    spec: ModelSpec,
    known: PartitionRange,
    window: PartitionRange,
    as_of: dt.datetime,
    share: float,
) -> sql.Composed:
    """Return the one query of the training set; the label's latest version that was known, and not superseded, at ``as_of``."""
    from psycopg import sql

    columns = [
        name for name in _columns(conn, "features", spec.feature_table) if name not in _BOOKKEEPING
    ]
    return sql.SQL(
        """
        with labels as (
            select distinct on (l.{key}) l.{key}, l.{label}
            from marts.{labels} l {pointer}
            where l.partition_date between {first} and {known_day}
                and l.known_at <= {as_of} and (l.superseded_at is null or l.superseded_at > {as_of})
            order by l.{key}, l.known_at desc, l.partition_date desc
        )
        select {columns}, labels.{label}
        from features.{table} f
        join ops.published p on p.dataset = {dataset} and p.partition_date = f.partition_date and p.load_id = f.load_id
        join labels on labels.{key} = f.{key}
        where f.partition_date between {first} and {last} and labels.{label} is not null and {in_sample}
        order by f.partition_date, f.{key} collate "C"
        """
    ).format(
        key=sql.Identifier(spec.entity.key),
        label=sql.Identifier(spec.label.column),
        labels=sql.Identifier(spec.label.relation),
        pointer=_label_pointer(conn, spec),
        columns=sql.SQL(", ").join(
            sql.SQL("f.{}").format(sql.Identifier(name)) for name in columns
        ),
        table=sql.Identifier(spec.feature_table),
        dataset=sql.Literal(spec.features_dataset),
        first=sql.Literal(window.first.day),
        last=sql.Literal(window.last.day),
        known_day=sql.Literal(known.last.day),
        as_of=sql.Literal(as_of),
        in_sample=_in_sample(sql.SQL("f.{}").format(sql.Identifier(spec.entity.key)), share),
    )


def _label_pointer(conn: Connection, spec: ModelSpec) -> sql.Composable:
    """Return the join that follows the label relation's pointer; nothing for a view over all versions."""
    from psycopg import sql

    dataset = f"marts/{spec.label.relation}"
    is_published = conn.execute(
        "select exists (select from ops.published where dataset = %s)", [dataset]
    ).fetchone() == (True,)
    pointer = sql.SQL(
        "join ops.published lp on lp.dataset = {} and lp.partition_date = l.partition_date and lp.load_id = l.load_id"
    )
    return pointer.format(sql.Literal(dataset)) if is_published else sql.SQL("")


def _refuse_recurring_keys(
    conn: Connection,
    spec: ModelSpec,
    known: PartitionRange,
    window: PartitionRange,
    as_of: dt.datetime,
) -> None:
    """Refuse keys that are predicted on several days and have outcomes on several days: each row would get the last one.

    A key with many features and one outcome (predicted every evening until it is known) is fine, so
    is one with one feature row whose outcome was told twice.
    """
    from psycopg import sql

    query = sql.SQL(
        """
        select count(*), min(labelled.{key}) from (
            select l.{key} from marts.{labels} l {pointer}
            where l.partition_date between {first} and {known_day}
                and l.known_at <= {as_of} and (l.superseded_at is null or l.superseded_at > {as_of})
            group by l.{key} having min(l.partition_date) < max(l.partition_date)
        ) labelled
        join (
            select f.{key} from features.{table} f
            join ops.published p on p.dataset = {dataset} and p.partition_date = f.partition_date and p.load_id = f.load_id
            where f.partition_date between {first} and {last}
            group by f.{key} having min(f.partition_date) < max(f.partition_date)
        ) predicted on predicted.{key} = labelled.{key}
        """
    ).format(
        key=sql.Identifier(spec.entity.key),
        labels=sql.Identifier(spec.label.relation),
        pointer=_label_pointer(conn, spec),
        table=sql.Identifier(spec.feature_table),
        dataset=sql.Literal(spec.features_dataset),
        first=sql.Literal(window.first.day),
        last=sql.Literal(window.last.day),
        known_day=sql.Literal(known.last.day),
        as_of=sql.Literal(as_of),
    )
    with label_queries(conn):
        n_keys, example = conn.execute(query).fetchone() or (0, None)
    if n_keys:
        raise TrainingSetError(
            f"{n_keys:,} value(s) of entity key {spec.entity.key!r} stand for the outcomes of several days.",
            expected="a key that names one predicted thing, such as 2013-02-01_shop7 for the visitors of shop7 on that day",
            got=f"{example!r} has feature rows and labels of several days",
            todo=f"Put the day into the key, in features.{spec.feature_table} and marts.{spec.label.relation} alike.",
            code="NS-TRAIN-006",
        )


def _columns(conn: Connection, schema: str, relation: str) -> list[str]:
    found = conn.execute(
        "select attname from pg_attribute where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and attnum > 0"
        " and not attisdropped order by attname",
        [schema, relation],
    )
    return [str(name) for (name,) in found]


def _refuse_unfit(conn: Connection, spec: ModelSpec) -> None:
    columns, label_columns = (
        _columns(conn, "features", spec.feature_table),
        _columns(conn, "marts", spec.label.relation),
    )
    needed = {spec.entity.key, "partition_date", "known_at", "superseded_at", spec.label.column}
    if missing := sorted(needed - set(label_columns)):
        raise TrainingSetError(
            f"marts.{spec.label.relation} lacks {', '.join(missing)}.",
            expected=", ".join(sorted(needed)),
            got=", ".join(label_columns) or "no such relation",
            todo="Correct the label's dbt model, or the spec's `label`.",
            code="NS-TRAIN-004",
        )
    if missing := sorted({spec.entity.key, "partition_date", "load_id", "as_of"} - set(columns)):
        raise TrainingSetError(
            f"features.{spec.feature_table} lacks {', '.join(missing)}.",
            got=", ".join(columns) or "no such relation",
            code="NS-TRAIN-004",
        )
    if spec.label.column in columns:
        raise TrainingSetError(
            f"The label {spec.label.column!r} stands in the feature view: the model would read the answer.",
            todo="Take it out of the feature view, or name the label otherwise.",
            code="NS-TRAIN-004",
        )


def _facts(spec: ModelSpec, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "key": snapshot.key,
        "sha256": snapshot.sha256,
        "n_rows": snapshot.n_rows,
        "features": list(spec.features.names),
        "label": spec.label.column,
        "spec_digest": spec.digest,
        "code_version": code_version(),
    }


def _record(
    conn: Connection,
    store: ObjectStore,
    spec: ModelSpec,
    training_set: TrainingSet,
    manifest: dict[str, Any],
    run: RunContext,
) -> None:
    """Write the manifest beside the rows and into the warehouse; the first one of a key stands."""
    window = training_set.window
    whole = {
        **manifest,
        "partition": training_set.partition.key,
        "as_of": training_set.as_of.isoformat(),
        "window": str(window),
    }
    document = json.dumps(whole, indent=1, sort_keys=True)
    digest = sha256(document.encode()).hexdigest()
    store.put(
        f"{training_set.key.removesuffix('.parquet')}.manifest.{digest[:16]}.json",
        document.encode(),
        "application/json",
    )
    conn.execute(
        """
        insert into ml.training_sets (training_set, model, partition_date, as_of, first_day, last_day, n_rows, sha256, spec_digest,
            code_version, manifest, run_id)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict (training_set) do nothing
        """,
        [
            *(
                training_set.key,
                spec.name,
                training_set.partition.day,
                training_set.as_of,
                window.first.day,
                window.last.day,
            ),
            *(
                training_set.n_rows,
                training_set.sha256,
                spec.digest,
                code_version(),
                document,
                run.run_id,
            ),
        ],
    )
