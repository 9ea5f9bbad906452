"""Generate ``docs/DAGS.md`` from the DAGs as Airflow parses them; ``make docs`` runs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.orchestration.task_tries import N_TRIES

if TYPE_CHECKING:
    from airflow.sdk import DAG

_HEAD = """# DAGs

Generated from `dags/` by `make docs`; a test compares. Every run carries one partition key,
`YYYY-MM-DD`: the operating day. `<model>` stands for each spec in `dags/models`.
What triggers a DAG, and why: [ADR 3](adr/0003-partitions-and-assets.md).
What an error code means: [runbooks](runbooks/README.md).
Tries are those of our own code; Airflow may lose more of them before a task's code begins
([ADR 38](adr/0038-lost-tries.md)).

| DAG | starts on | emits | owner |
|---|---|---|---|
"""
_TASK_HEAD = [
    "| task | after | pool | tries | limit of a try | emits |",
    "|---|---|---|---|---|---|",
]


def render(dags: Sequence[DAG]) -> str:
    """Return the page as Markdown: an overview, then one section per DAG file.

    Args:
        dags: All DAGs of the folder, in any order.
    """
    by_id = sorted(dags, key=lambda dag: str(dag.dag_id))
    overview = "\n".join(map(_overview_row, by_id))
    by_file: dict[str, list[DAG]] = {}
    for dag in by_id:
        by_file.setdefault(Path(dag.fileloc).name, []).append(dag)
    sections = [_section(file, by_file[file]) for file in sorted(by_file)]
    return _HEAD + "\n\n".join([overview, *sections]) + "\n"


def _overview_row(dag: DAG) -> str:
    outlets = chain.from_iterable(task.outlets for task in dag.tasks)
    cells = [
        f"`{dag.dag_id}`",
        _start(dag),
        _names(outlet.name for outlet in outlets),
        dag.owner,
    ]
    return _table_row(cells)


def _section(file: str, dags: list[DAG]) -> str:
    """Return heading, documentation and the tables of tasks that differ beyond the model's name."""
    ids = ", ".join(f"`{dag.dag_id}`" for dag in dags)
    limits = {
        f"At most {dag.max_active_runs} active run(s) and {dag.max_active_tasks} active tasks"
        for dag in dags
    }
    # The DAGs of one file differ by their model: equal tables are shown once, in order.
    tables = dict.fromkeys(map(_task_table, dags))
    documentation = (dags[0].doc_md or "").strip().replace("\n**", "\n\n**")
    limit = "; ".join(sorted(limits)) + "."
    return "\n\n".join([f"## `dags/{file}`", ids, documentation, limit, *tables])


def _task_table(dag: DAG) -> str:
    rows = map(_task_row, dag.topological_sort())
    table = "\n".join([*_TASK_HEAD, *rows])
    _, _, model = str(dag.dag_id).partition("__")
    return table.replace(model, "<model>") if model else table


def _task_row(task: Any) -> str:  # noqa: ANN401 - an operator, mapped or not
    mapped = " (mapped)" if task.is_mapped else ""
    cells = [
        f"`{task.task_id}`{mapped}",
        _names(task.upstream_task_ids),
        task.pool,
        str(N_TRIES),
        f"{task.execution_timeout.total_seconds() / 60:.0f} min",
        _names(outlet.name for outlet in task.outlets),
    ]
    return _table_row(cells)


def _table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _names(names: Iterator[str] | Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _start(dag: DAG) -> str:
    """Return what starts the DAG: a person, a cron expression with its zone, or assets."""
    timetable = dag.timetable
    if not timetable.can_be_scheduled:
        return "by hand, with a form"
    condition = getattr(timetable, "asset_condition", None)
    if condition is not None:
        return _condition(condition)
    day = ", for the day that ended" if hasattr(timetable, "run_offset") else ""
    return f"cron `{timetable.expression}` {timetable.timezone}{day}"


def _condition(condition: Any) -> str:  # noqa: ANN401 - an asset, or assets joined by & and |
    from airflow.sdk import AssetAll

    if not hasattr(condition, "objects"):
        return f"`{condition.name}`"
    word = " and " if isinstance(condition, AssetAll) else " or "
    return word.join(_condition(part) for part in condition.objects)


def read_dags(folder: Path) -> list[DAG]:
    """Return the DAGs of a folder as Airflow's processor parses them.

    Raises:
        ImportError: A DAG file cannot be read, or there is no DAG.
    """
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(folder))
    if bag.import_errors or not bag.dags:
        raise ImportError(f"{folder}: {bag.import_errors or 'no DAG'}")
    return list(bag.dags.values())


if __name__ == "__main__":
    folder, page = map(Path, sys.argv[1:])
    text = render(read_dags(folder))
    page.write_text(text, encoding="utf-8")
