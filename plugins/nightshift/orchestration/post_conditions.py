"""What must stand in the warehouse when a task says success: read there by the task itself, on a connection of its own.

A stage reads its results back too. This is the second look, from outside of the stage, so that no
way of leaving a stage early (a swallowed signal, a skipped step, a mocked call) can become a green
task without its effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.warehouse.connection import connect
from nightshift.warehouse.content_hash import count_loads
from nightshift.warehouse.write_types import Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.orchestration.task_scope import TaskScope
    from nightshift.warehouse.connection import Connection


class PostConditionError(NightshiftError):
    """A task's stage returned, but the warehouse does not have what it should have left there."""

    code = "NS-AIRFLOW-005"
    is_retryable = True


@dataclass(frozen=True)
class VisibleLoad:
    """What readers see of one partition of a dataset.

    Attributes:
        load_id: The published load.
        n_rows: Its rows.
        content_hash: Its content.
    """

    load_id: int
    n_rows: int
    content_hash: str


def require_published(
    scope: TaskScope, datasets: Iterable[str], claims: Mapping[str, int] | None = None
) -> dict[str, VisibleLoad]:
    """Return what readers see of each dataset: the pointer's load, and as many rows as it was published with, counted.

    Args:
        scope: The task.
        datasets: Which must be published for its partition.
        claims: Loads that the stage says it left there, by dataset: readers must see that load, or
            one that came after it.

    Raises:
        PostConditionError: One of them is not published for the partition, readers see a load from
            before, or another number of rows.
    """
    wanted = list(datasets)
    query = """
        select p.dataset, p.load_id, l.n_rows, l.content_hash
        from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.partition_date = %s and p.dataset = any(%s)
    """
    with connect(scope.settings, scope.run.application_name) as conn:
        seen = {
            dataset: VisibleLoad(*row)
            for dataset, *row in conn.execute(query, [scope.partition.day, wanted])
        }
        if missing := [dataset for dataset in wanted if dataset not in seen]:
            raise _broken(scope, f"{', '.join(missing)} published")
        for dataset, load_id in (claims or {}).items():
            if seen[dataset].load_id < load_id:
                raise _broken(
                    scope,
                    f"{dataset} load {load_id} or a later one",
                    f"load {seen[dataset].load_id}",
                )
        for dataset, load in seen.items():
            n_rows = _count_rows(conn, scope, dataset, load)
            if n_rows != load.n_rows:
                raise _broken(
                    scope, f"{load.n_rows} rows of {dataset}, as published", f"{n_rows} rows"
                )
    return seen


_TABLES = {"raw": "{}", "features": "feat_{}", "predictions": "{}"}
"""Name of a dataset's table within the schema of its layer; what the monitor publishes, it reads
back itself.
"""


def _count_rows(conn: Connection, scope: TaskScope, dataset: str, load: VisibleLoad) -> int:
    """Return how many rows of a load there are; the recorded number for a layer that shares its tables."""
    layer, _, name = dataset.partition("/")
    if layer not in _TABLES:
        return load.n_rows
    target = Target(dataset, layer, _TABLES[layer].format(name), ())
    (n_rows,) = count_loads(conn, target, [(scope.partition.day, load.load_id)]).values()
    return n_rows


def require_row(scope: TaskScope, fact: str, **values: Any) -> Any:  # noqa: ANN401 - values and results of SQL
    """Return the first column of the one row that a fact of ``FACTS`` stands for.

    Raises:
        PostConditionError: There is no such row.
    """
    with connect(scope.settings, scope.run.application_name) as conn:
        row = conn.execute(FACTS[fact].encode(), {"day": scope.partition.day, **values}).fetchone()
    if row is None:
        raise _broken(
            scope, f"{fact} {', '.join(f'{name}={value}' for name, value in values.items())}"
        )
    return row[0]


def count_shard(scope: TaskScope, spec: ModelSpec, load_id: int, shard: int) -> int:
    """Return the rows of one shard of a load, 0 where the load was refused and its rows collected."""
    from psycopg import sql

    query = sql.SQL(
        "select count(*) from {} where partition_date = %s and load_id = %s and shard = %s"
    )
    with connect(scope.settings, scope.run.application_name) as conn:
        row = conn.execute(
            query.format(sql.Identifier("predictions", spec.name)),
            [scope.partition.day, load_id, shard],
        ).fetchone()
    return int(row[0]) if row else 0


FACTS = {
    "load": "select load_id from ops.loads where load_id = %(load_id)s and dataset = %(dataset)s and partition_date = %(day)s",
    "decision": "select decision_id from monitoring.retrain_decisions where decision_id = %(decision_id)s",
    "training set": "select training_set from ml.training_sets where training_set = %(key)s and model = %(model)s",
    "model version": "select version from ml.model_versions where model = %(model)s and version = %(version)s",
    "promotion": "select verdict from ml.promotions where promotion_id = %(promotion_id)s and model = %(model)s and version = %(version)s",
}
"""The facts that are no published partition, by the word for them; each query finds one row or
none.
"""


def _broken(scope: TaskScope, fact: str, got: str = "no such row") -> PostConditionError:
    return PostConditionError(
        f"The stage returned, but the warehouse does not have its result for {scope.partition}.",
        expected=fact,
        got=got,
        todo="Rerun the task. If it stays so, something deleted rows or the task runs against another warehouse.",
    )
