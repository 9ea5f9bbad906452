"""Loads the partition's drops from the lake into the raw layer.

**Reads** `landing/<dataset>/dt=<partition>/` (manifest and data file) of every contract in
`dags/datasets`.
**Writes** `raw.<dataset>`, `quarantine.*`; emits `raw/<dataset>` of all daily datasets together,
after the last one is loaded.
**Starts** at midnight in New York for the day that ended; each task waits for the cut-off (00:30)
and for its drop. A day before the history or in the future fails at once, before any event is
emitted.
**Rerun, clear, backfill** are safe at any time: the same file gives the same rows, other content
becomes a new version. A range: `airflow backfill create --dag-id ingest --from-date 2013-03-01
--to-date 2013-03-07 --max-active-runs 1`.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import CronPartitionTimetable, TriggerRule, dag

from nightshift.contracts.datasets import daily_contracts, read_contracts
from nightshift.contracts.partitions import operating_timezone
from nightshift.orchestration import assets, data_tasks, defaults

CONTRACTS = read_contracts(Path(__file__).parent / "datasets").documents.values()
DAILY = daily_contracts(CONTRACTS)


@dag(
    dag_id="ingest",
    schedule=CronPartitionTimetable(
        "0 0 * * *", timezone=operating_timezone(), run_offset=-1, key_format="%Y-%m-%d"
    ),
    default_args=defaults.task_defaults("data-platform", defaults.WAREHOUSE, timeout_minutes=20),
    **defaults.dag_defaults(
        __doc__, "ingest", max_active_runs=defaults.WAITING_RUNS, longest_run=dt.timedelta(hours=12)
    ),
)
def ingest() -> None:
    """Load all datasets in parallel, then emit the events of the daily ones from one task."""
    loads = [data_tasks.load_reference()]
    for contract in DAILY:
        load_dataset = data_tasks.load_dataset.override(task_id=f"load_{contract.name}")
        loads.append(load_dataset(contract.name))

    # ALL_DONE: a refused reference file must not stop the daily data. Downstream goes on with the
    # earlier reference data, and the watcher fails the run.
    emit_raw_assets = data_tasks.emit_raw_assets.override(
        outlets=[assets.raw(contract.name) for contract in DAILY], trigger_rule=TriggerRule.ALL_DONE
    )
    watcher = data_tasks.watcher.override(trigger_rule=TriggerRule.ONE_FAILED)
    loads >> emit_raw_assets()
    loads >> watcher()


ingest()
