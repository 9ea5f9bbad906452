"""Read the manifest of a feature view's load: what the load was built from."""

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
    """The inputs of published rows cannot be found any more."""

    code = "NS-REPRO-002"


@dataclass(frozen=True)
class FeatureLoad:
    """One partition of one load of a feature view.

    Attributes:
        day: The partition.
        load_id: The load.
        as_of: Its knowledge cut-off.
        raw_loads: The raw loads that its build read.
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
    """Return a load of the model's feature view on a day; by default the published one.

    Raises:
        OriginLostError: There is none, or its manifest names no raw loads.
    """
    from psycopg import sql

    query = sql.SQL(_FEATURE_LOAD).format(sql.Identifier("features", spec.feature_table))
    values = {"dataset": spec.features_dataset, "day": day, "load_id": load_id}
    row = conn.execute(query, values).fetchone()
    problem = "no load"
    if row:
        found_id, as_of, inputs, *rest = row
        # The as-of is read from the rows: a load without rows has none.
        raw_loads = loads_named(inputs)
        if raw_loads and as_of:
            return FeatureLoad(day, found_id, as_of, raw_loads, *rest)
        problem = "no rows" if raw_loads else "no raw loads"
    raise OriginLostError(
        f"{spec.features_dataset} on {day} does not say what it was built from.",
        expected="a published load with rows, whose manifest names the raw loads",
        got=problem,
        todo="Only features that `transform` has built can be rebuilt.",
    )


_FEATURE_LOAD = """
select l.load_id,
    (
        select as_of from {} f
        where f.partition_date = l.partition_date and f.load_id = l.load_id limit 1
    ) as as_of,
    l.inputs, l.content_hash, l.code_version, l.run_id
from ops.loads l
where l.dataset = %(dataset)s and l.partition_date = %(day)s and l.load_id = coalesce(
    %(load_id)s,
    (
        select load_id from ops.published
        where dataset = %(dataset)s and partition_date = %(day)s
    )
)
"""


def loads_named(inputs: Mapping[str, str]) -> frozenset[int]:
    """Return the raw loads that a manifest names.

    ``ledger.input_digests`` wrote them as ``<digest> loads 3-7,9``.
    """
    loads: set[int] = set()
    for dataset, text in inputs.items():
        # The digest of the cut-offs names no loads, nor does an input that is no raw data.
        _, _, spans = text.partition(" loads ")
        if not spans or not dataset.startswith("raw/"):
            continue
        for span in spans.split(","):
            first, _, last = span.partition("-")
            loads.update(range(int(first), int(last or first) + 1))
    return frozenset(loads)
