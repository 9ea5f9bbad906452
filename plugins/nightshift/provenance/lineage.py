"""Say where a published prediction comes from: files and rows, features, model, training set, code, publication, and why in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.partitions import Partition
from nightshift.provenance.predictions import Prediction, feature_loads
from nightshift.warehouse.connection import connect
from nightshift.warehouse.dbt.project import column_descriptions
from nightshift.warehouse.ledger import LOOKBACK_DAYS

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.transformation.feature_manifest import FeatureLoad
    from nightshift.warehouse.connection import Connection

Facts = dict[str, Any]


def explain(settings: Settings, spec: ModelSpec, prediction: Prediction) -> Facts:
    """Return the chain of one prediction, plain values only; a part that does not exist (no model, no features) is None.

    Returns:
        ``prediction``, ``publication``, ``features``, ``files``, ``rows``, ``model``,
            ``training_set`` and ``reasons``.

    Raises:
        OriginLostError: A model made it, and its features are not kept.
    """
    with connect(settings, "nightshift why") as conn:
        load = (
            feature_loads(conn, spec, [prediction])[prediction.load_id, prediction.day]
            if prediction.version
            else None
        )
        model = _model(conn, spec, prediction.version) if prediction.version else None
        return {
            "prediction": {
                "key": prediction.key,
                "partition": str(prediction.day),
                **_plain(prediction.values),
            }
            | {"score_source": prediction.score_source, "is_current": prediction.is_current},
            "publication": _publication(conn, spec.predictions_dataset, prediction),
            "features": _features(conn, spec, prediction, load) if load else None,
            "files": _files(conn, settings, load) if load else None,
            "rows": _own_rows(conn, settings, spec, prediction, load) if load else None,
            "model": model,
            "training_set": _training_set(conn, model["training_set"]) if model else None,
            "reasons": reasons_in_words(
                prediction.values["reasons"], column_descriptions(settings, spec.feature_table)
            ),
        }


def reasons_in_words(reasons: list[Facts], descriptions: dict[str, str]) -> list[str]:
    """Return one sentence per reason, the strongest first."""
    return [
        _in_words(reason, descriptions.get(reason["feature"], "").rstrip(".")) for reason in reasons
    ]


def _in_words(reason: Facts, description: str) -> str:
    value, added = reason["value"], reason["contribution"]
    said = (
        "is unknown"
        if value is None
        else f"is {value:.4g}"
        if isinstance(value, float)
        else f"is {value}"
    )
    effect = "raises" if added > 0 else "lowers"
    return f"{reason['feature']} {said} and {effect} the raw score by {abs(added):.4f}{f' ({description})' if description else ''}."


def _plain(values: Facts) -> Facts:
    return {
        name: value if isinstance(value, str | int | float | bool | list | None) else str(value)
        for name, value in values.items()
    }


def _one(conn: Connection, query: str, values: list[Any]) -> Facts | None:
    cursor = conn.execute(query.encode(), values)
    row = cursor.fetchone()
    return (
        _plain(dict(zip([column.name for column in cursor.description or []], row, strict=True)))
        if row
        else None
    )


def _publication(conn: Connection, dataset: str, prediction: Prediction) -> Facts | None:
    return _one(
        conn,
        """
        select load_id, token, run_id, attempt, actor, code_version, started_at, published_at, superseded_at, n_rows, content_hash
        from ops.loads where dataset = %s and partition_date = %s and load_id = %s
        """,
        [dataset, prediction.day, prediction.load_id],
    )


def _features(
    conn: Connection, spec: ModelSpec, prediction: Prediction, load: FeatureLoad
) -> Facts:
    from psycopg import sql
    from psycopg.rows import dict_row

    query = sql.SQL(
        "select {} from {} where partition_date = %s and load_id = %s and {} = %s"
    ).format(
        sql.SQL(", ").join(map(sql.Identifier, spec.features.names)),
        sql.Identifier("features", spec.feature_table),
        sql.Identifier(spec.entity.key),
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query, [load.day, load.load_id, prediction.key]).fetchone()
    return {
        "dataset": spec.features_dataset,
        "load_id": load.load_id,
        "as_of": str(load.as_of),
        "run_id": load.run_id,
        "code_version": load.code_version,
        "content_hash": load.content_hash,
        "row": _plain(row or {}),
    }


def _seen(conn: Connection, load: FeatureLoad) -> list[tuple[str, Any, int]]:
    """Return dataset, day and load of every raw version that the partition saw."""
    rows = conn.execute(
        """
        select distinct on (dataset, partition_date) dataset, partition_date, load_id from ops.loads
        where dataset like 'raw/%%' and load_id = any(%s) and state in ('published', 'duplicate')
            and partition_date <= %s and known_at <= %s
        order by dataset, partition_date, known_at desc, load_id desc
        """,
        [sorted(load.raw_loads), load.day, load.as_of],
    )
    return rows.fetchall()


def _files(conn: Connection, settings: Settings, load: FeatureLoad) -> list[Facts]:
    """Return the files behind the features: of daily datasets those of the look-back, of reference data the latest."""
    seen = _seen(conn, load)
    needed = {
        c.dataset: Partition(load.day).shift(-LOOKBACK_DAYS).day
        for c in load_contracts(settings.datasets_dir).values()
        if c.delivery == "daily"
    }
    latest = {dataset: day for dataset, day, _ in seen}
    wanted = [
        (dataset, day, number)
        for dataset, day, number in seen
        if day >= needed.get(dataset, latest[dataset])
    ]
    files: list[Facts] = []
    for dataset, day, load_id in wanted:
        files += _sources(conn, dataset, day, load_id)
    return files


def _sources(conn: Connection, dataset: str, day: object, load_id: int) -> list[Facts]:
    rows = conn.execute(
        "select d.source_uri, d.source_sha256, d.known_at, l.n_rows from raw.ingested_drops d"
        " join ops.loads l using (dataset, partition_date, load_id) where (dataset, partition_date, load_id) = (%s, %s, %s)",
        [dataset, day, load_id],
    )
    return [
        {
            "dataset": dataset,
            "partition": str(day),
            "load_id": load_id,
            "source_uri": uri,
            "source_sha256": sha256,
        }
        | {"known_at": str(known_at), "n_rows": n_rows}
        for uri, sha256, known_at, n_rows in rows
    ]


def _own_rows(
    conn: Connection, settings: Settings, spec: ModelSpec, prediction: Prediction, load: FeatureLoad
) -> list[Facts]:
    """Return the raw rows that carry the entity's own key; empty when the spec names no parts of the key."""
    from psycopg import sql

    parts = spec.scoring.spine.key_parts if spec.scoring.spine else ()
    if not parts:
        return []
    having = {
        c.dataset
        for c in load_contracts(settings.datasets_dir).values()
        if {*parts} <= {column.name for column in c.columns}
    }
    found: list[Facts] = []
    for dataset, day, load_id in _seen(conn, load):
        if dataset in having:
            query = sql.SQL(
                "select d.source_uri, d.source_sha256, r.source_row from {} r join raw.ingested_drops d using (partition_date, load_id)"
                " where d.dataset = %s and r.partition_date = %s and r.load_id = %s and concat_ws('_', {}) = %s"
            ).format(
                sql.Identifier(*dataset.split("/")),
                sql.SQL(", ").join(
                    sql.SQL("{}::text").format(sql.Identifier(part)) for part in parts
                ),
            )
            rows = conn.execute(query, [dataset, day, load_id, prediction.key])
            found += [
                {"dataset": dataset, "partition": str(day), "load_id": load_id}
                | {"source_uri": uri, "source_sha256": sha256, "source_row": number}
                for uri, sha256, number in rows
            ]
    return found


def _model(conn: Connection, spec: ModelSpec, version: int) -> Facts | None:
    found = _one(
        conn,
        """
        select version, digest, model_key, partition_date as trained_on_partition, fit_end, training_set, spec_digest, code_version, run_id
        from ml.model_versions where model = %s and version = %s
        """,
        [spec.name, version],
    )
    decision = _one(
        conn,
        """
        select promotion_id, at, verdict, effective_partition, actor, run_id, evidence_key, evidence_sha256 from ml.promotions
        where model = %s and version = %s and verdict <> 'refused' order by promotion_id limit 1
        """,
        [spec.name, version],
    )
    return found and {**found, "promotion": decision}


def _training_set(conn: Connection, key: str) -> Facts | None:
    return _one(
        conn,
        """
        select training_set, sha256, n_rows, partition_date, first_day, last_day, as_of, spec_digest, code_version, run_id,
            jsonb_array_length(manifest -> 'partitions') as n_feature_loads
        from ml.training_sets where training_set = %s
        """,
        [key],
    )


def as_json(facts: Facts) -> str:
    """Return the chain as JSON."""
    return json.dumps(facts, indent=1, default=str)
