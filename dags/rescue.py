"""Looks before the deadline whether the night is published and, if not, publishes what is possible. One DAG per spec in `dags/models`.

**Reads** `ops.published`; then, as far as they are there, the features, the champion and the one
before it, the scores of the nights before, and the list of entities in `scoring.spine`. A second
try asks no model any more, a third no gate: what hung once may hang again. **Writes**
`predictions.<model>`, `ops.rescues`; emits `predictions/<model>` when it scored features whose
wake-up was lost. **Starts** `scoring.rescue_minutes_before_deadline` before the spec's deadline, by
the clock, whatever happened to the night. It asks the warehouse, never an event. When the partition
is published it does nothing; a pipeline that is not in operation is skipped. **Later** features
replace it: `score__<model>` then publishes the champion's predictions. **A wrong spec file** takes
no rescue away: every five minutes it looks whether the last good spec of that model is due (the
first line of the task's log says which that is), and rescues with it. The file is an import error
of `wrong_files.py`. **Rerun, clear, backfill** are safe: a published partition is left alone. By
hand, or without Airflow: `nightshift rescue <model>`.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import DAG, CronPartitionTimetable, CronTriggerTimetable, task

from nightshift.contracts.model_spec import ModelSpec, is_model_name, read_specs
from nightshift.contracts.partitions import OPERATING_TIMEZONE
from nightshift.orchestration import assets, defaults, rescue_tasks


def build_dag(spec: ModelSpec) -> DAG:
    """Wire the look, and the event that follows only from a scoring of features."""
    common = {"pool": defaults.POOL_RESCUE, "priority_weight": defaults.PRIORITY_RESCUE}
    minutes = spec.scoring.rescue_minutes_before_deadline
    with DAG(
        dag_id=f"rescue__{spec.name}",
        schedule=CronPartitionTimetable(
            f"{spec.rescue_at.minute} {spec.rescue_at.hour} * * *",
            timezone=OPERATING_TIMEZONE,
            run_offset=-1,
            key_format="%Y-%m-%d",
        ),
        # Half of the time may go by waiting for a scoring that has just begun; three tries share
        # the other half. Tries that Airflow
        # loses before our code begins are repeated soon: the deadline is near.
        default_args={
            **defaults.task_defaults(
                spec.owner, timeout_minutes=max(1, (minutes // 2 - 2) // defaults.N_TRIES)
            ),
            "max_retry_delay": dt.timedelta(minutes=1),
        },
        **defaults.dag_defaults(
            __doc__,
            "rescue",
            spec.name,
            longest_run=dt.timedelta(minutes=2 * minutes),
            max_active_runs=2,
        ),
    ) as dag:
        found = task(task_id="rescue", **common)(rescue_tasks.rescue_predictions)(spec.name)
        task(task_id="announce", outlets=[assets.predictions(spec)], **common)(
            rescue_tasks.emit_predictions_asset
        )(found)
    return dag


def build_dag_of_wrong_file(model: str) -> DAG:
    """Wire one look with the last good spec, which the task reads: a DAG is parsed without the warehouse."""
    common = {"pool": defaults.POOL_RESCUE, "priority_weight": defaults.PRIORITY_RESCUE}
    with DAG(
        dag_id=f"rescue__{model}",
        schedule=CronTriggerTimetable("*/5 * * * *", timezone="UTC"),
        default_args=defaults.task_defaults("data-platform", timeout_minutes=9),
        **defaults.dag_defaults(
            __doc__, "rescue", model, longest_run=dt.timedelta(minutes=60), max_active_runs=2
        ),
    ) as dag:
        task(task_id="rescue", **common)(rescue_tasks.rescue_by_last_good_spec)(model)
    return dag


_SPECS = read_specs(Path(__file__).parent / "models")
for _spec in _SPECS.documents.values():
    globals()[f"rescue__{_spec.name}"] = build_dag(_spec)
for _model in filter(is_model_name, _SPECS.broken):
    globals()[f"rescue__{_model}"] = build_dag_of_wrong_file(_model)
