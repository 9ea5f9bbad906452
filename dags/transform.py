"""Builds marts and feature views with dbt, and publishes them.

**Reads** the raw partitions of the look-back, as known at the partition's as-of.
**Writes** `marts.*`, `features.*`; emits `features/<view>` for each feature view that a spec names.
**Starts** when every daily raw dataset of the partition is published; waits while the look-back has
holes that can still be filled.
**A view that fails** fails its own `announce_<view>`; the other views are published, and their
models go on.
**Rerun, clear, backfill** are safe: readers keep the published load until the new one has passed
its gate. One build at a time; a run that waits does not block other builds.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import PartitionedAssetTimetable, dag

from nightshift.contracts.datasets import daily_contracts, read_contracts
from nightshift.contracts.model_spec import read_specs
from nightshift.orchestration import assets, data_tasks, defaults

CONTRACTS = read_contracts(Path(__file__).parent / "datasets").documents.values()
DAILY = daily_contracts(CONTRACTS)
SPECS = read_specs(Path(__file__).parent / "models").documents.values()
VIEWS = sorted({spec.feature_view for spec in SPECS})


@dag(
    dag_id="transform",
    schedule=PartitionedAssetTimetable(
        assets=assets.all_of(assets.raw(contract.name) for contract in DAILY)
    ),
    default_args=defaults.task_defaults("data-platform", defaults.WAREHOUSE, timeout_minutes=60),
    **defaults.dag_defaults(
        __doc__,
        "transform",
        longest_run=dt.timedelta(hours=8),
        max_active_runs=defaults.WAITING_RUNS,
    ),
)
def transform() -> None:
    """Build everything in one task, then emit one event per view."""
    # One task for all models: starting dbt costs more than most models take.
    built = data_tasks.build_features.override(max_active_tis_per_dag=1)()
    for view in VIEWS:
        emit_asset = data_tasks.emit_feature_view_asset.override(
            task_id=f"announce_{view}", outlets=[assets.features(view)]
        )
        emit_asset(view, built)


# Without a daily contract there is no asset to start on.
if DAILY:
    transform()
