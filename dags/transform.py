"""Builds marts and feature views with dbt, and publishes them.

**Reads** the raw partitions of the look-back, as known at the partition's as-of.
**Writes** `marts.*`, `features.*`; emits `features/<view>` for each feature view that a spec names.
**Starts** when every daily raw dataset of the partition is there; waits while the look-back has holes.
**Rerun, clear, backfill** are safe: readers keep the published load until the new one has passed its gate.
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
    schedule=PartitionedAssetTimetable(assets=assets.all_of(assets.raw(contract.name) for contract in DAILY)),
    default_args=defaults.task_defaults("data-platform", timeout_minutes=60),
    **defaults.dag_defaults(__doc__, "transform", longest_run=dt.timedelta(hours=8)),
)
def transform() -> None:
    """One fat task: starting dbt costs more than most models."""
    build = task(
        task_id="build_features",
        outlets=[assets.features(view) for view in VIEWS],
        pool=defaults.POOL_WAREHOUSE,
        priority_weight=defaults.PRIORITY_NIGHT,
    )(tasks.build_features)
    build()


if DAILY:  # without a contract nothing can be waited for
    transform()
