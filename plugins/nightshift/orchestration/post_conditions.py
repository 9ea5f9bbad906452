"""Read a task's result back from the warehouse, on a connection of its own, before it succeeds.

A stage reads its results back too. This second check is outside the stage, so that no early exit of
a stage (a swallowed signal, a skipped step, a mocked call) makes a task succeed without its effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.warehouse.content_hash import count_loads
from nightshift.warehouse.write_types import target_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.orchestration.task_scope import TaskScope
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import PublishedLoad


class PostConditionError(NightshiftError):
    """A task's stage returned, but its result is not in the warehouse."""

    code = "NS-AIRFLOW-005"
    is_retryable = True


@dataclass(frozen=True)
class VisibleLoad:
    """The published load of a partition, with its recorded rows and content.

    Its fields are what a task hands to Airflow, so they are values of JSON.
    """

    load_id: int
    n_rows: int
    content_hash: str


def require_published(
    scope: TaskScope, datasets: Iterable[str], claims: Mapping[str, int] | None = None
) -> dict[str, VisibleLoad]:
    """Return the load that readers see of each dataset, after counting its rows.

    Args:
        scope: The task.
        datasets: Datasets that must be published for its partition.
        claims: Loads that the stage reports as published, by dataset: readers must see that load
            or a later one.

    Raises:
        PostConditionError: A dataset is not published for the partition, readers see an earlier
            load, or another number of rows.
    """
    required = list(datasets)
    with scope.connect() as conn:
        visible = _visible_loads(conn, scope, required)
        missing = [dataset for dataset in required if dataset not in visible]
        if missing:
            raise _violation(scope, f"{', '.join(missing)} published")

        for dataset, load_id in (claims or {}).items():
            # A later load is right: a newer attempt may have published since.
            seen = visible[dataset].load_id
            if seen < load_id:
                expected = f"{dataset} load {load_id} or a later one"
                raise _violation(scope, expected, f"load {seen}")

        # The record proves what was published, only a count that it is still there.
        for dataset, load in visible.items():
            n_rows = _count_rows(conn, scope, dataset, load)
            if n_rows != load.n_rows:
                expected = f"{load.n_rows} rows of {dataset}, as published"
                raise _violation(scope, expected, f"{n_rows} rows")
    return visible


def _visible_loads(
    conn: Connection, scope: TaskScope, datasets: list[str]
) -> dict[str, VisibleLoad]:
    """Return the records of the loads that readers see of the partition, by dataset."""
    # Records of several datasets and no rows: there is nothing for `join_published` to join.
    query = """
        select p.dataset, p.load_id, l.n_rows, l.content_hash
        from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.partition_date = %s and p.dataset = any(%s)
    """
    rows = conn.execute(query, [scope.partition.day, datasets])
    return {dataset: VisibleLoad(*record) for dataset, *record in rows}


def claims_of(published: Iterable[PublishedLoad]) -> dict[str, int]:
    """Return the loads that a stage reports as published, by dataset."""
    return {load.dataset: load.load_id for load in published}


def _count_rows(conn: Connection, scope: TaskScope, dataset: str, load: VisibleLoad) -> int:
    """Return the rows of a load; the recorded number for a layer that shares its tables."""
    # The monitor's tables hold several models, so it reads its own result back.
    target = target_of(dataset)
    if target is None:
        return load.n_rows
    (n_rows,) = count_loads(conn, target, [(scope.partition.day, load.load_id)]).values()
    return n_rows


def require_row(scope: TaskScope, fact: str, **values: Any) -> Any:  # noqa: ANN401 - values of SQL
    """Return the first column of the row that a query of ``FACTS`` selects.

    Raises:
        PostConditionError: There is no such row.
    """
    query = FACTS[fact].encode()
    parameters = {"day": scope.partition.day, **values}
    with scope.connect() as conn:
        row = conn.execute(query, parameters).fetchone()
    if row is None:
        conditions = [f"{name}={value}" for name, value in values.items()]
        key = ", ".join(conditions)
        raise _violation(scope, f"{fact} {key}")
    return row[0]


def count_shard(scope: TaskScope, spec: ModelSpec, load_id: int, shard: int) -> int:
    """Return the rows of one shard of a load; 0 if the load was refused and its rows collected."""
    from psycopg import sql

    query = sql.SQL(
        "select count(*) from {} where partition_date = %s and load_id = %s and shard = %s"
    ).format(sql.Identifier("predictions", spec.name))
    parameters = [scope.partition.day, load_id, shard]
    with scope.connect() as conn:
        row = conn.execute(query, parameters).fetchone()
    return int(row[0]) if row else 0


# Results that are not a published partition, by name; each query selects one row or none. Its
# conditions name everything that the task knows, so that the row of another run does not count.
FACTS = {
    "load": """
        select load_id from ops.loads
        where load_id = %(load_id)s and dataset = %(dataset)s and partition_date = %(day)s
    """,
    "decision": """
        select decision_id from monitoring.retrain_decisions where decision_id = %(decision_id)s
    """,
    "training set": """
        select training_set from ml.training_sets
        where training_set = %(key)s and model = %(model)s
    """,
    "model version": """
        select version from ml.model_versions where model = %(model)s and version = %(version)s
    """,
    "stream night": """
        select partition_date::text from monitoring.stream_nights
        where model = %(model)s and stream = %(stream)s and partition_date = %(night)s
            and shadow_load >= %(shadow_load)s
    """,
    "feature report": """
        select n_rows from ml.feature_reports
        where model = %(model)s and partition_date = %(partition_date)s
    """,
    "promotion": """
        select verdict from ml.promotions
        where promotion_id = %(promotion_id)s and model = %(model)s and version = %(version)s
    """,
}


def _violation(scope: TaskScope, fact: str, got: str = "no such row") -> PostConditionError:
    return PostConditionError(
        f"The stage returned, but its result for {scope.partition} is not in the warehouse.",
        expected=fact,
        got=got,
        todo="Rerun the task. If it fails again, rows were deleted,"
        " or the task runs against another warehouse.",
    )
