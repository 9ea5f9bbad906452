"""Write ``docs/DAGS.md``: every DAG as Airflow reads it, so that the page cannot drift. ``make docs`` renews it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.orchestration.task_tries import N_TRIES

if TYPE_CHECKING:
    from airflow.sdk import DAG

_HEAD = """# DAGs

Generated from `dags/` by `make docs`; a test compares. Every run carries one partition key, `YYYY-MM-DD`: the operating day.
`<model>` stands for each spec in `dags/models`. Why they start when they do: [ADR 3](adr/0003-partitions-and-assets.md).
What an error code means: [runbooks](runbooks/README.md).
Tries are those of our own code; Airflow may lose some more before a task's code begins ([ADR 38](adr/0038-lost-tries.md)).

| DAG | starts on | emits | owner |
|---|---|---|---|
"""


def render(dags: Sequence[DAG]) -> str:
    """Return the page as Markdown: an overview, then one section per DAG file.

    Args:
        dags: All DAGs of the folder, in any order.
    """
    ordered = sorted(dags, key=lambda dag: (str(dag.fileloc), str(dag.dag_id)))
    overview = "\n".join(
        _overview_row(dag) for dag in sorted(dags, key=lambda dag: str(dag.dag_id))
    )
    sections = [
        _section(Path(file).name, list(group))
        for file, group in groupby(ordered, key=lambda dag: str(dag.fileloc))
    ]
    return _HEAD + "\n\n".join([overview, *sections]) + "\n"


def _overview_row(dag: DAG) -> str:
    return f"| `{dag.dag_id}` | {_start(dag)} | {_names(outlet.name for task in dag.tasks for outlet in task.outlets)} | {dag.owner} |"


def _section(file: str, dags: list[DAG]) -> str:
    """Return heading, documentation and the tables of tasks that differ by more than the model's name."""
    ids = ", ".join(f"`{dag.dag_id}`" for dag in dags)
    limits = "; ".join(
        sorted(
            {
                f"At most {dag.max_active_runs} active run(s) and {dag.max_active_tasks} active tasks"
                for dag in dags
            }
        )
    )
    tables = list(dict.fromkeys(_task_table(dag) for dag in dags))
    documentation = (dags[0].doc_md or "").strip().replace("\n**", "\n\n**")
    return "\n\n".join([f"## `dags/{file}`", ids, documentation, f"{limits}.", *tables])


def _task_table(dag: DAG) -> str:
    rows = [_task_row(task) for task in dag.topological_sort()]
    table = "\n".join(
        [
            "| task | after | pool | tries | limit of a try | emits |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )
    model = str(dag.dag_id).partition("__")[2]
    return table.replace(model, "<model>") if model else table


def _task_row(task: Any) -> str:  # noqa: ANN401 - an operator, mapped or not
    mapped = " (mapped)" if task.is_mapped else ""
    minutes = f"{task.execution_timeout.total_seconds() / 60:.0f} min"
    before, emitted = _names(task.upstream_task_ids), _names(outlet.name for outlet in task.outlets)
    return (
        f"| `{task.task_id}`{mapped} | {before} | {task.pool} | {N_TRIES} | {minutes} | {emitted} |"
    )


def _names(names: Iterator[str] | Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _start(dag: DAG) -> str:
    """Return when the DAG starts: by hand, by a cron expression with its zone, or by assets of the same partition."""
    timetable = dag.timetable
    if not timetable.can_be_scheduled:
        return "by hand, with a form"
    condition = getattr(timetable, "asset_condition", None)
    if condition is None:
        is_partitioned = hasattr(timetable, "run_offset")
        return f"cron `{timetable.expression}` {timetable.timezone}{', for the day that ended' if is_partitioned else ''}"
    return _condition(condition)


def _condition(condition: Any) -> str:  # noqa: ANN401 - an asset, or assets joined by & and |
    from airflow.sdk import AssetAll

    if not hasattr(condition, "objects"):
        return f"`{condition.name}`"
    word = " and " if isinstance(condition, AssetAll) else " or "
    return word.join(_condition(part) for part in condition.objects)


def read_dags(folder: Path) -> list[DAG]:
    """Return the DAGs of a folder as Airflow's processor reads them.

    Raises:
        ImportError: A DAG file cannot be read, or there is no DAG.
    """
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(folder))
    if bag.import_errors or not bag.dags:
        raise ImportError(f"{folder}: {bag.import_errors or 'no DAG'}")
    return list(bag.dags.values())


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(render(read_dags(Path(sys.argv[1]))), encoding="utf-8")
