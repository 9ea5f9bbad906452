"""Emits lost asset events again: upstream is published, but no downstream run was created.

**Reads** `ops.published`, `ops.loads`, `ops.task_tries`, downgraded predictions and the champion,
`ml.training_sets`, open rows of `monitoring.retrain_decisions`, and its own earlier events.
**Writes** `ops.reruns`; emits the asset whose event was lost once more, for the stranded partition,
at most three times.
**Reruns** what ended without a complete result: an `ingest` whose tries died without an error, and
`score__<model>` of a partition that was not scored by the champion although the champion can score
it now; at most three times per partition, in `ops.reruns`.
**Starts** every ten minutes; a publication of the last twenty minutes, and one older than seven
days, is left alone.
**Only partitions** that went through Airflow count: a history that a person loaded in a range
triggers nothing.
**Rerun, clear, backfill** are safe: a run that is triggered twice publishes the same content.
"""

from __future__ import annotations

import datetime as dt
from itertools import chain
from pathlib import Path

from airflow.sdk import CronTriggerTimetable, dag

from nightshift.contracts.datasets import daily_contracts, read_contracts
from nightshift.contracts.model_spec import read_specs
from nightshift.orchestration import assets, defaults, reconcile, reruns

CONTRACTS = read_contracts(Path(__file__).parent / "datasets").documents.values()
DAILY = daily_contracts(CONTRACTS)
SPECS = list(read_specs(Path(__file__).parent / "models").documents.values())
VIEWS = sorted({spec.feature_view for spec in SPECS})
TRIGGERS = {
    "transform": [assets.raw(contract.name) for contract in DAILY],
    **{f"score_{view}": [assets.features(view)] for view in VIEWS},
    **{f"monitor_{spec.name}": [assets.predictions(spec)] for spec in SPECS},
    **{f"train_{spec.name}": [assets.retrain(spec)] for spec in SPECS},
}


@dag(
    dag_id=reconcile.DAG_ID,
    schedule=CronTriggerTimetable("*/10 * * * *", timezone="UTC"),
    default_args=defaults.task_defaults("data-platform", defaults.WAREHOUSE, timeout_minutes=5),
    **defaults.dag_defaults(__doc__, reconcile.DAG_ID, longest_run=dt.timedelta(minutes=20)),
)
def catch_up() -> None:
    """Find stranded partitions once, then emit events in one task per downstream DAG."""
    inlets = list(chain.from_iterable(TRIGGERS.values()))
    stranded = reconcile.find_stranded.override(inlets=inlets)()
    reruns.rerun_unfinished()
    # A task emits an event of each of its outlets, so each downstream DAG has a task of its own,
    # which is skipped unless its assets are stranded.
    for downstream, triggers in TRIGGERS.items():
        emit_again = reconcile.emit_again.override(task_id=f"wake_{downstream}", outlets=triggers)
        emit_again([asset.name for asset in triggers], stranded)


catch_up()
