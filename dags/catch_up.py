"""Wakes what an event should have woken: partitions that are published upstream, and whose downstream nobody has begun.

**Reads** `ops.published`, `ops.loads`, `ops.task_tries`, predictions below the champion and its
model, `ml.training_sets`, open rows of `monitoring.retrain_decisions`, and its own earlier events.
**Writes** `ops.reruns`; emits the asset that was lost once more, for the stranded partition, at
most three times. **Runs again** what ended and left the night unfinished: an `ingest` whose tries
died without a word, and `score__<model>` of a night that is published below the champion although
the champion can score by now; at most three times a partition, in `ops.reruns`. **Starts** every
ten minutes; a publication of the last twenty minutes, and one older than seven days, is left alone.
**Only nights** that went through Airflow count: a history that a person loaded in a range wakes
nobody. **Rerun, clear, backfill** are safe: whoever is woken twice publishes the same content.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import CronTriggerTimetable, dag, task

from nightshift.contracts.datasets import Delivery, read_contracts
from nightshift.contracts.model_spec import read_specs
from nightshift.orchestration import assets, defaults, reconcile, reruns

HERE = Path(__file__).parent
CONTRACTS = read_contracts(HERE / "datasets").documents.values()
DAILY = [contract for contract in CONTRACTS if contract.delivery is Delivery.DAILY]
SPECS = list(read_specs(HERE / "models").documents.values())
WOKEN_BY = {
    "transform": [assets.raw(contract.name) for contract in DAILY],
    **{
        f"score_{view}": [assets.features(view)]
        for view in sorted({spec.feature_view for spec in SPECS})
    },
    **{f"monitor_{spec.name}": [assets.predictions(spec)] for spec in SPECS},
    **{f"train_{spec.name}": [assets.retrain(spec)] for spec in SPECS},
}


@dag(
    dag_id=reconcile.DAG_ID,
    schedule=CronTriggerTimetable("*/10 * * * *", timezone="UTC"),
    default_args=defaults.task_defaults("data-platform", timeout_minutes=5),
    **defaults.dag_defaults(__doc__, "catch_up", longest_run=dt.timedelta(minutes=20)),
)
def build() -> None:
    """Wire one look, and a wake-up per joint: only the assets of the joint that is stranded have an event."""
    common = {"pool": defaults.POOL_WAREHOUSE, "priority_weight": defaults.PRIORITY_NIGHT}
    inlets = [asset for group in WOKEN_BY.values() for asset in group]
    found = task(task_id="find_stranded", inlets=inlets, **common)(reconcile.find_stranded)()
    task(task_id="rerun_unfinished", **common)(reruns.rerun_unfinished)()
    for joint, group in WOKEN_BY.items():
        task(task_id=f"wake_{joint}", outlets=group, **common)(reconcile.emit_again)(
            [asset.name for asset in group], found
        )


build()
