"""Builds marts and feature views with dbt, and publishes them.

**Reads** the raw partitions of the look-back, as known at the partition's as-of. **Writes**
`marts.*`, `features.*`; emits `features/<view>` for each feature view that a spec names. **Starts**
when every daily raw dataset of the partition is there; waits while the look-back has holes that can
still be filled. **A view that fails** makes its own `announce_<view>` red; the other views are
published, and their models go on. **Rerun, clear, backfill** are safe: readers keep the published
load until the new one has passed its gate. One build at a time; a run that waits keeps no other
from building.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import PartitionedAssetTimetable, dag, task

from nightshift.contracts.datasets import Delivery, read_contracts
from nightshift.contracts.model_spec import read_specs
from nightshift.orchestration import assets, defaults, tasks

CONTRACTS = read_contracts(Path(__file__).parent / "datasets").documents.values()
DAILY = [contract for contract in CONTRACTS if contract.delivery is Delivery.DAILY]
SPECS = read_specs(Path(__file__).parent / "models").documents.values()
VIEWS = sorted({spec.feature_view for spec in SPECS})


@dag(
    dag_id="transform",
    schedule=PartitionedAssetTimetable(
        assets=assets.all_of(assets.raw(contract.name) for contract in DAILY)
    ),
    default_args=defaults.task_defaults("data-platform", timeout_minutes=60),
    **defaults.dag_defaults(
        __doc__,
        "transform",
        longest_run=dt.timedelta(hours=8),
        max_active_runs=defaults.WAITING_RUNS,
    ),
)
def transform() -> None:
    """One fat task, since starting dbt costs more than most models, and one event for each view."""
    common = {"pool": defaults.POOL_WAREHOUSE, "priority_weight": defaults.PRIORITY_NIGHT}
    build = task(task_id="build_features", max_active_tis_per_dag=1, **common)(tasks.build_features)
    built = build()
    for view in VIEWS:
        task(task_id=f"announce_{view}", outlets=[assets.features(view)], **common)(
            tasks.emit_feature_view_asset
        )(view, built)


if DAILY:  # without a contract nothing can be waited for
    transform()
