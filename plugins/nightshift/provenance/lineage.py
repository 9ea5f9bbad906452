"""Explain a published prediction: files, rows, features, model, training set, and reasons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.partitions import Partition
from nightshift.provenance.predictions import Prediction, feature_loads
from nightshift.warehouse.connection import connect
from nightshift.warehouse.dbt.project import column_descriptions
from nightshift.warehouse.ledger import lookback_days

if TYPE_CHECKING:
    import datetime as dt

    from psycopg import sql

    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.transformation.feature_manifest import FeatureLoad
    from nightshift.warehouse.connection import Connection

    RawLoad = tuple[str, dt.date, int]
    Query = str | sql.Composed
    Parameters = Sequence[Any] | Mapping[str, Any]

Facts = dict[str, Any]


def explain(settings: Settings, spec: ModelSpec, prediction: Prediction) -> Facts:
    """Return the lineage of one prediction as plain values; parts that do not exist are None.

    Returns:
        ``prediction``, ``publication``, ``features``, ``files``, ``rows``, ``model``,
            ``training_set`` and ``reasons``.

    Raises:
        OriginLostError: A model made it, and its features are not kept.
    """
    lineage: Facts = {
        "prediction": {
            "key": prediction.key,
            "partition": str(prediction.day),
            **_plain(prediction.values),
            "score_source": prediction.score_source,
            "is_current": prediction.is_current,
        },
        "publication": None,
        "features": None,
        "files": None,
        "rows": None,
        "model": None,
        "training_set": None,
    }
    parameters = {
        "dataset": spec.predictions_dataset,
        "day": prediction.day,
        "load_id": prediction.load_id,
        "model": spec.name,
        "version": prediction.version,
    }
    with connect(settings, "nightshift why") as conn:
        lineage["publication"] = _first(conn, _PUBLICATION, parameters)
        if prediction.version:
            load = feature_loads(conn, spec, [prediction])[prediction.load_id, prediction.day]
            contracts = list(load_contracts(settings.datasets_dir).values())
            raw_loads = _raw_loads(conn, load)
            lineage["features"] = _features(conn, spec, prediction, load)
            lineage["files"] = _files(conn, contracts, load, raw_loads)
            lineage["rows"] = _own_rows(conn, contracts, spec, prediction, raw_loads)
            lineage["training_set"] = _first(conn, _TRAINING_SET, parameters)
            model = _first(conn, _MODEL, parameters)
            if model is not None:
                lineage["model"] = {**model, "promotion": _first(conn, _PROMOTION, parameters)}
    descriptions = column_descriptions(settings, spec.feature_table)
    lineage["reasons"] = reasons_in_words(prediction.values["reasons"], descriptions)
    return lineage


def reasons_in_words(reasons: list[Facts], descriptions: dict[str, str]) -> list[str]:
    """Return one sentence per reason, the strongest first."""
    sentences: list[str] = []
    for reason in reasons:
        name, added = reason["feature"], reason["contribution"]
        effect = "raises" if added > 0 else "lowers"
        description = descriptions.get(name, "").rstrip(".")
        source = f" ({description})" if description else ""
        sentences.append(
            f"{name} {_value_in_words(reason['value'])} and {effect} the raw score"
            f" by {abs(added):.4f}{source}."
        )
    return sentences


def _value_in_words(value: object) -> str:
    if value is None:
        return "is unknown"
    return f"is {value:.4g}" if isinstance(value, float) else f"is {value}"


def _plain(values: Facts) -> Facts:
    """Return the values with everything that JSON does not know as text."""
    return {
        name: value if isinstance(value, str | int | float | bool | list | None) else str(value)
        for name, value in values.items()
    }


def _rows(conn: Connection, query: Query, parameters: Parameters) -> list[Facts]:
    """Return the rows of a query as plain dictionaries."""
    from psycopg.rows import dict_row

    with conn.cursor(row_factory=dict_row) as cursor:
        statement = query.encode() if isinstance(query, str) else query
        return [_plain(row) for row in cursor.execute(statement, parameters)]


def _first(conn: Connection, query: Query, parameters: Parameters) -> Facts | None:
    rows = _rows(conn, query, parameters)
    return rows[0] if rows else None


_PUBLICATION = """
select load_id, token, run_id, attempt, actor, code_version, started_at, published_at,
    superseded_at, n_rows, content_hash
from ops.loads
where dataset = %(dataset)s and partition_date = %(day)s and load_id = %(load_id)s
"""
_MODEL = """
select version, digest, model_key, partition_date as trained_on_partition, fit_end,
    training_set, spec_digest, code_version, run_id
from ml.model_versions where model = %(model)s and version = %(version)s
"""
_PROMOTION = """
select promotion_id, at, verdict, effective_partition, actor, run_id, evidence_key, evidence_sha256
from ml.promotions
where model = %(model)s and version = %(version)s and verdict <> 'refused'
order by promotion_id limit 1
"""
_TRAINING_SET = """
select s.training_set, s.sha256, s.n_rows, s.partition_date, s.first_day, s.last_day, s.as_of,
    s.spec_digest, s.code_version, s.run_id,
    jsonb_array_length(s.manifest -> 'partitions') as n_feature_loads
from ml.training_sets s join ml.model_versions v using (training_set)
where v.model = %(model)s and v.version = %(version)s
"""


def _features(
    conn: Connection, spec: ModelSpec, prediction: Prediction, load: FeatureLoad
) -> Facts:
    from psycopg import sql

    query = sql.SQL(
        "select {} from {} where partition_date = %s and load_id = %s and {} = %s"
    ).format(
        sql.SQL(", ").join(map(sql.Identifier, spec.features.names)),
        sql.Identifier("features", spec.feature_table),
        sql.Identifier(spec.entity.key),
    )
    return {
        "dataset": spec.features_dataset,
        "load_id": load.load_id,
        "as_of": str(load.as_of),
        "run_id": load.run_id,
        "code_version": load.code_version,
        "content_hash": load.content_hash,
        "row": _first(conn, query, [load.day, load.load_id, prediction.key]) or {},
    }


def _raw_loads(conn: Connection, load: FeatureLoad) -> list[RawLoad]:
    """Return the dataset, day and load of every raw version that the features were built from."""
    query = """
        select distinct on (dataset, partition_date) dataset, partition_date, load_id
        from ops.loads
        where dataset like 'raw/%%' and load_id = any(%s) and state in ('published', 'duplicate')
            and partition_date <= %s and known_at <= %s
        order by dataset, partition_date, known_at desc, load_id desc
    """
    return conn.execute(query, [sorted(load.raw_loads), load.day, load.as_of]).fetchall()


def _files(
    conn: Connection,
    contracts: Sequence[DatasetContract],
    load: FeatureLoad,
    raw_loads: Sequence[RawLoad],
) -> list[Facts]:
    """Return the source files: of daily datasets all of the look-back, of others the latest."""
    first_day = Partition(load.day).shift(-lookback_days()).day
    # Days are ascending, so the last day of a dataset wins.
    first_days = {dataset: day for dataset, day, _ in raw_loads}
    first_days |= {
        contract.dataset: first_day for contract in contracts if contract.delivery == "daily"
    }
    query = """
        select dataset, partition_date as partition, load_id, d.source_uri, d.source_sha256,
            d.known_at, l.n_rows
        from raw.ingested_drops d
        join ops.loads l using (dataset, partition_date, load_id)
        where (dataset, partition_date, load_id) = (%s, %s, %s)
    """
    files: list[Facts] = []
    for raw_load in raw_loads:
        dataset, day, _ = raw_load
        if day >= first_days[dataset]:
            files += _rows(conn, query, raw_load)
    return files


def _own_rows(
    conn: Connection,
    contracts: Sequence[DatasetContract],
    spec: ModelSpec,
    prediction: Prediction,
    raw_loads: Sequence[RawLoad],
) -> list[Facts]:
    """Return the raw rows that hold the entity's key; none if the spec names no key parts."""
    from psycopg import sql

    parts = spec.scoring.spine.key_parts if spec.scoring.spine else ()
    if not parts:
        return []
    datasets = {
        contract.dataset
        for contract in contracts
        if set(parts) <= {column.name for column in contract.columns}
    }
    # An entity key is its parts joined by "_".
    key = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(part)) for part in parts)
    rows: list[Facts] = []
    for dataset, day, load_id in raw_loads:
        if dataset not in datasets:
            continue
        query = sql.SQL(
            """
            select d.dataset, r.partition_date as partition, r.load_id, d.source_uri,
                d.source_sha256, r.source_row
            from {} r join raw.ingested_drops d using (partition_date, load_id)
            where d.dataset = %s and r.partition_date = %s and r.load_id = %s
                and concat_ws('_', {}) = %s
            """
        ).format(sql.Identifier(*dataset.split("/")), key)
        rows += _rows(conn, query, [dataset, day, load_id, prediction.key])
    return rows


def as_json(facts: Facts) -> str:
    """Return the lineage as JSON."""
    return json.dumps(facts, indent=1, default=str)
