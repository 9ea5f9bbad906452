"""The feature query, shared by scoring and the training/serving skew check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nightshift.warehouse.write_types import Target

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec


def features_target(spec: ModelSpec) -> Target:
    """Return the table of the feature view, with its dataset and key."""
    return Target(spec.features_dataset, "features", spec.feature_table, (spec.entity.key,))


def select_rows(
    spec: ModelSpec, features: Sequence[str], condition: sql.Composed, *, is_ordered: bool = True
) -> sql.Composed:
    """Return the query of partition, entity key, event timestamp, as-of and features.

    Args:
        spec: The model.
        features: Columns of the feature view.
        condition: Which rows, of which loads.
        is_ordered: Order by partition and key; a stream of millions of rows skips the sort.
    """
    from psycopg import sql

    names = ["partition_date", spec.entity.key, spec.event_timestamp, "as_of", *features]
    # A feature may also be the event timestamp: ``dict.fromkeys`` selects it once.
    columns = map(sql.Identifier, dict.fromkeys(names))
    query = sql.SQL("select {} from {} where {}").format(
        sql.SQL(", ").join(columns),
        sql.Identifier("features", spec.feature_table),
        condition,
    )
    if not is_ordered:
        return query
    # The key is unique within a partition, so this is a total order.
    order = sql.SQL(" order by partition_date, {}").format(sql.Identifier(spec.entity.key))
    return query + order
