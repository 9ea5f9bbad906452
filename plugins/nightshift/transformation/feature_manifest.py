"""What a load of a feature view was built from, as its manifest says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.warehouse.connection import Connection


class OriginLostError(NightshiftError):
    """What published rows were made from cannot be found any more."""

    code = "NS-REPRO-002"


@dataclass(frozen=True)
class FeatureLoad:
    """One partition of one load of a feature view.

    Attributes:
        day: The partition.
        load_id: The load.
        as_of: Its knowledge cut-off.
        raw_loads: The raw loads that its build had read.
        content_hash: Of the partition's rows.
        code_version: Of the code that built it.
        run_id: The run that built it.
    """

    day: dt.date
    load_id: int
    as_of: dt.datetime
    raw_loads: frozenset[int]
    content_hash: str
    code_version: str
    run_id: str


def find_feature_load(
    conn: Connection, spec: ModelSpec, day: dt.date, load_id: int | None = None
) -> FeatureLoad:
    """Return a load of the model's feature view on a day; the one that readers see if none is named.

    Raises:
        OriginLostError: There is none, or its manifest names no raw loads.
    """
    from psycopg import sql

    query = sql.SQL(
        "select l.load_id, l.inputs, l.content_hash, l.code_version, l.run_id,"
        " (select as_of from {} f where f.partition_date = l.partition_date and f.load_id = l.load_id limit 1)"
        " from ops.loads l where l.dataset = %(dataset)s and l.partition_date = %(day)s and l.load_id = coalesce(%(load)s,"
        " (select load_id from ops.published where dataset = %(dataset)s and partition_date = %(day)s))"
    ).format(sql.Identifier("features", spec.feature_table))
    row = conn.execute(
        query, {"dataset": spec.features_dataset, "day": day, "load": load_id}
    ).fetchone()
    raw_loads = loads_named(row[1]) if row else frozenset()
    if row is None or not raw_loads or row[5] is None:
        raise OriginLostError(
            f"{spec.features_dataset} on {day} does not say what it was built from.",
            expected="a published load with rows, whose manifest names the raw loads",
            got="no load" if row is None else "no rows" if raw_loads else "no raw loads",
            todo="Only features that `transform` has built can be rebuilt.",
        )
    return FeatureLoad(day, row[0], row[5], raw_loads, row[2], row[3], row[4])


def loads_named(inputs: Mapping[str, str]) -> frozenset[int]:
    """Return the raw loads that a manifest names, as ``ledger.input_digests`` wrote them: ``<digest> loads 3-7,9``."""
    found: set[int] = set()
    for dataset, text in inputs.items():
        spans = text.partition(" loads ")[2] if dataset.startswith("raw/") else ""
        for span in filter(None, spans.split(",")):
            first, _, last = span.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
