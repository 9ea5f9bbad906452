"""The query by which feature rows are read to be scored; who checks that training saw the same values uses the very same one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nightshift.warehouse.write_types import Target

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec


def features_target(spec: ModelSpec) -> Target:
    """Return where the rows of the feature view are."""
    return Target(spec.features_dataset, "features", spec.feature_table, (spec.entity.key,))


def select_rows(
    spec: ModelSpec, features: Sequence[str], condition: sql.Composed, *, is_ordered: bool = True
) -> sql.Composed:
    """Return the query: partition, entity key, event timestamp, as-of and the features.

    Args:
        spec: The model.
        features: Columns of the feature view.
        condition: Which rows, of which loads.
        is_ordered: Whether by partition and key; a stream of millions of rows does without the
            sort.
    """
    from psycopg import sql

    names = dict.fromkeys(
        ["partition_date", spec.entity.key, spec.event_timestamp, "as_of", *features]
    )
    query = sql.SQL("select {} from {} where {}").format(
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.Identifier("features", spec.feature_table),
        condition,
    )
    return (
        query + sql.SQL(" order by partition_date, {}").format(sql.Identifier(spec.entity.key))
        if is_ordered
        else query
    )
