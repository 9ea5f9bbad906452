"""Explain a published prediction: files, rows, features, model, training set, and reasons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.partitions import Partition
from nightshift.provenance.predictions import Prediction, feature_loads
from nightshift.provenance.raw_loads import RawLoad, read_raw_loads, visible_loads
from nightshift.provenance.records import (
    Facts,
    first_record,
    plain,
    read_causes,
    read_level,
    read_model,
    read_publication,
    read_records,
    read_training_set,
)
from nightshift.warehouse.connection import connect
from nightshift.warehouse.dbt.project import column_descriptions
from nightshift.warehouse.ledger import lookback_days

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.transformation.feature_manifest import FeatureLoad
    from nightshift.warehouse.connection import Connection

PARTS = (
    "prediction",
    "publication",
    "features",
    "files",
    "rows",
    "model",
    "training_set",
    "level",
    "reasons",
    "causes",
)
"""The parts of a lineage, in the order in which they are shown."""


def explain(settings: Settings, spec: ModelSpec, prediction: Prediction) -> Facts:
    """Return the lineage of one prediction as plain values; parts that do not exist are None.

    Returns:
        One value for each of ``PARTS``.

    Raises:
        OriginLostError: A model made it, and its features are not kept.
    """
    lineage: Facts = dict.fromkeys(PARTS)
    lineage["prediction"] = {
        "key": prediction.key,
        "partition": str(prediction.day),
        **plain(prediction.values),
        "score_source": prediction.score_source,
        "is_current": prediction.is_current,
    }
    with connect(settings, "nightshift why") as conn:
        lineage["publication"] = read_publication(conn, spec, prediction)
        # Rows without a model carry an older score, or the rule's value: their reason says which.
        if prediction.version:
            loads = feature_loads(conn, spec, [prediction])
            load = loads[prediction.load_id, prediction.day]
            contracts = list(load_contracts(settings.datasets_dir).values())
            all_loads = read_raw_loads(conn, load.raw_loads)
            raw_loads = visible_loads(all_loads, load.raw_loads, load)
            lineage |= {
                "features": _features(conn, spec, prediction, load),
                "files": _files(conn, contracts, load, raw_loads),
                "rows": _own_rows(conn, contracts, spec, prediction, raw_loads),
                "model": read_model(conn, spec, prediction),
                "training_set": read_training_set(conn, spec, prediction),
                "level": read_level(conn, spec, prediction),
            }
        sums = read_causes(conn, spec, prediction)
    lineage["causes"] = causes_in_words(spec, sums)
    descriptions = column_descriptions(settings, spec.feature_table)
    lineage["reasons"] = reasons_in_words(prediction.values["reasons"], descriptions)
    return lineage


def reasons_in_words(reasons: list[Facts], descriptions: dict[str, str]) -> list[str]:
    """Return one sentence per reason, the strongest first."""
    sentences: list[str] = []
    for reason in reasons:
        name, added = reason["feature"], reason["contribution"]
        value = _value_in_words(reason["value"])
        effect = "raises" if added > 0 else "lowers"
        description = descriptions.get(name, "").rstrip(".")
        source = f" ({description})" if description else ""
        sentences.append(f"{name} {value} and {effect} the raw score by {abs(added):.4f}{source}.")
    return sentences


def causes_in_words(spec: ModelSpec, sums: Mapping[str, float]) -> list[str]:
    """Return one sentence per cause, the strongest first."""
    words = {cause.name: cause.words or cause.name for cause in spec.analytics.causes}
    ordered = sorted(sums.items(), key=lambda item: -abs(item[1]))
    sentences = []
    for name, added in ordered:
        effect = "raises" if added > 0 else "lowers"
        sentences.append(f"{words.get(name, name)}: {effect} the raw score by {abs(added):.4f}.")
    return sentences


def _value_in_words(value: object) -> str:
    if value is None:
        return "is unknown"
    if isinstance(value, float):
        return f"is {value:.4g}"
    return f"is {value}"


def _features(
    conn: Connection, spec: ModelSpec, prediction: Prediction, load: FeatureLoad
) -> Facts:
    from psycopg import sql

    columns = [sql.Identifier(name) for name in spec.features.names]
    query = sql.SQL(
        "select {} from {} where partition_date = %s and load_id = %s and {} = %s"
    ).format(
        sql.SQL(", ").join(columns),
        sql.Identifier("features", spec.feature_table),
        sql.Identifier(spec.entity.key),
    )
    row = first_record(conn, query, [load.day, load.load_id, prediction.key])
    return {
        "dataset": spec.features_dataset,
        "load_id": load.load_id,
        "as_of": str(load.as_of),
        "run_id": load.run_id,
        "code_version": load.code_version,
        "content_hash": load.content_hash,
        "row": row or {},
    }


def _files(
    conn: Connection,
    contracts: Sequence[DatasetContract],
    load: FeatureLoad,
    raw_loads: Sequence[RawLoad],
) -> list[Facts]:
    """Return the source files: of daily datasets all of the look-back, of others the latest."""
    lookback_start = Partition(load.day).shift(-lookback_days()).day
    # Days are ascending, so the last day of a dataset wins.
    first_days = {raw.dataset: raw.day for raw in raw_loads}
    for contract in contracts:
        if contract.delivery == "daily":
            first_days[contract.dataset] = lookback_start
    # The versions that were read, which need not be those that readers see.
    query = """
        select dataset, partition_date as partition, load_id, d.source_uri, d.source_sha256,
            d.known_at, l.n_rows
        from raw.ingested_drops d
        join ops.loads l using (dataset, partition_date, load_id)
        where (dataset, partition_date, load_id) = (%s, %s, %s)
    """
    files: list[Facts] = []
    for raw in raw_loads:
        if raw.day >= first_days[raw.dataset]:
            files += read_records(conn, query, [raw.dataset, raw.day, raw.load_id])
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
    datasets = set()
    for contract in contracts:
        names = {column.name for column in contract.columns}
        if names >= set(parts):
            datasets.add(contract.dataset)
    # An entity key is its parts joined by "_".
    columns = [sql.SQL("{}::text").format(sql.Identifier(part)) for part in parts]
    key = sql.SQL(", ").join(columns)
    rows: list[Facts] = []
    for raw in raw_loads:
        if raw.dataset not in datasets:
            continue
        query = sql.SQL(
            """
            select d.dataset, r.partition_date as partition, r.load_id, d.source_uri,
                d.source_sha256, r.source_row
            from {} r join raw.ingested_drops d using (partition_date, load_id)
            where d.dataset = %s and r.partition_date = %s and r.load_id = %s
                and concat_ws('_', {}) = %s
            """
        ).format(sql.Identifier(*raw.dataset.split("/")), key)
        rows += read_records(conn, query, [raw.dataset, raw.day, raw.load_id, prediction.key])
    return rows


def as_json(facts: Facts) -> str:
    """Return the lineage as JSON."""
    return json.dumps(facts, indent=1, default=str)
