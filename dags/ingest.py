"""Loads the night's drops from the lake into the raw layer.

**Reads** `landing/<dataset>/dt=<partition>/` (manifest and data file) of every contract in
`dags/datasets`. **Writes** `raw.<dataset>`, `quarantine.*`; emits `raw/<dataset>` of all daily
datasets together, when the last one is in. **Starts** at midnight in New York for the day that
ended; each task waits for the cut-off (00:30) and for its drop. A day before the history, far ahead
or beyond the calendar fails at once, before anything is announced. **Rerun, clear, backfill** are
safe at any time: the same file gives the same rows, another content becomes a new version. A range:
`airflow backfill create --dag-id ingest --from-date 2013-03-01 --to-date 2013-03-07
--max-active-runs 1`.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import CronPartitionTimetable, TriggerRule, dag, task

from nightshift.contracts.datasets import Delivery, read_contracts
from nightshift.contracts.partitions import OPERATING_TIMEZONE
from nightshift.orchestration import assets, defaults, tasks

CONTRACTS = read_contracts(Path(__file__).parent / "datasets").documents.values()
DAILY = [contract for contract in CONTRACTS if contract.delivery is Delivery.DAILY]


@dag(
    dag_id="ingest",
    schedule=CronPartitionTimetable(
        "0 0 * * *", timezone=OPERATING_TIMEZONE, run_offset=-1, key_format="%Y-%m-%d"
    ),
    default_args=defaults.task_defaults("data-platform", timeout_minutes=20),
    **defaults.dag_defaults(
        __doc__, "ingest", max_active_runs=defaults.WAITING_RUNS, longest_run=dt.timedelta(hours=12)
    ),
)
def ingest() -> None:
    """Wire all loads side by side, and one event for the daily ones; a day that waits does not stop another day."""
    common = {"pool": defaults.POOL_WAREHOUSE, "priority_weight": defaults.PRIORITY_NIGHT}
    reference = task(task_id="load_reference", **common)(tasks.load_reference)()
    loads = [
        task(task_id=f"load_{contract.name}", **common)(tasks.load_dataset)(contract.name)
        for contract in DAILY
    ]
    # A reference file that is refused stops no flights: the night goes on with what was known of
    # it, and the run ends red.
    announce = task(
        task_id="announce_raw",
        outlets=[assets.raw(contract.name) for contract in DAILY],
        trigger_rule=TriggerRule.ALL_DONE,
        **common,
    )(tasks.emit_raw_assets)
    failures = task(task_id="tell_failures", trigger_rule=TriggerRule.ONE_FAILED, **common)(
        tasks.watcher
    )
    [reference, *loads] >> announce()
    [reference, *loads] >> failures()


ingest()
