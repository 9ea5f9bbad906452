"""Loads the night's drops from the lake into the raw layer.

**Reads** `landing/<dataset>/dt=<partition>/` (manifest and data file) of every contract in `dags/datasets`.
**Writes** `raw.<dataset>`, `quarantine.*`; emits `raw/<dataset>` for each daily dataset.
**Starts** at midnight in New York for the day that ended; each task waits for the cut-off (00:30) and for its drop.
**Rerun, clear, backfill** are safe at any time: the same file gives the same rows, another content becomes a new version.
A range: `airflow backfill create --dag-id ingest --from-date 2013-03-01 --to-date 2013-03-07 --max-active-runs 1`.
"""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import CronPartitionTimetable, dag, task

from nightshift.contracts.datasets import Delivery, load_contracts
from nightshift.contracts.partitions import OPERATING_TIMEZONE
from nightshift.orchestration import assets, defaults, tasks

DAILY = [contract for contract in load_contracts(Path(__file__).parent / "datasets").values() if contract.delivery is Delivery.DAILY]


@dag(
    dag_id="ingest",
    schedule=CronPartitionTimetable("0 0 * * *", timezone=OPERATING_TIMEZONE, run_offset=-1, key_format="%Y-%m-%d"),
    default_args=defaults.task_defaults("data-platform", timeout_minutes=20, wait_minutes=max(c.maximum_wait_minutes for c in DAILY)),
    **defaults.dag_defaults(__doc__, "ingest"),
)
def ingest() -> None:
    """Wire reference data before the daily datasets."""
    common = {"pool": defaults.POOL_WAREHOUSE, "priority_weight": defaults.PRIORITY_NIGHT}
    reference = task(task_id="load_reference", **common)(tasks.load_reference)()
    for contract in DAILY:
        load = task(task_id=f"load_{contract.name}", outlets=[assets.raw(contract.name)], **common)(tasks.load_dataset)
        reference >> load(contract.name)


ingest()
