"""Publishes the best possible predictions shortly before the deadline, if none are published.

One DAG per spec in `dags/models`.

**Reads** `ops.published`; then, as far as they exist, the features, the champion and the previous
one, the scores of earlier partitions, and the list of entities in `scoring.spine`. A second try
uses no model, a third no gate: what hung once may hang again.
**Writes** `predictions.<model>`, `ops.rescues`; emits `predictions/<model>` when it scored features
whose event was lost.
**Starts** `scoring.rescue_minutes_before_deadline` before the spec's deadline, by the clock,
whatever happened before. It queries the warehouse, never an event. If the partition is published it
does nothing; a pipeline that is not in operation is skipped.
**Later** features replace it: `score__<model>` then publishes the champion's predictions.
**An invalid spec file** does not stop the rescue: every five minutes a task checks whether the last
good spec of that model is due (the first line of its log names it), and rescues with it. The file
is an import error of `wrong_files.py`.
**Rerun, clear, backfill** are safe: a published partition is left alone. By hand, or without
Airflow: `nightshift rescue <model>`.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import CronPartitionTimetable, CronTriggerTimetable, dag

from nightshift.contracts.model_spec import ModelSpec, is_model_name, read_specs
from nightshift.contracts.partitions import operating_timezone
from nightshift.orchestration import assets, defaults, rescue_tasks


def build_dag(spec: ModelSpec) -> None:
    """Build the DAG of one model."""
    minutes = spec.scoring.rescue_minutes_before_deadline
    # The rescue may wait half of the time for a running scoring; all tries share the other half.
    timeout_minutes = max(1, (minutes // 2 - 2) // defaults.N_TRIES)

    @dag(
        dag_id=f"rescue__{spec.name}",
        schedule=CronPartitionTimetable(
            f"{spec.rescue_at.minute} {spec.rescue_at.hour} * * *",
            timezone=operating_timezone(),
            run_offset=-1,
            key_format="%Y-%m-%d",
        ),
        default_args={
            **defaults.task_defaults(spec.owner, defaults.RESCUE, timeout_minutes=timeout_minutes),
            # The deadline is near: tries that Airflow lost are repeated soon.
            "max_retry_delay": dt.timedelta(minutes=1),
        },
        **defaults.dag_defaults(
            __doc__,
            "rescue",
            spec.name,
            longest_run=dt.timedelta(minutes=2 * minutes),
            max_active_runs=2,
        ),
    )
    def rescue() -> None:
        rescued = rescue_tasks.rescue_predictions(spec.name)
        rescue_tasks.emit_predictions_asset.override(outlets=[assets.predictions(spec)])(rescued)

    rescue()


def build_dag_of_invalid_file(model: str) -> None:
    """Build the DAG of a model whose spec file is invalid; its task reads the last good spec."""

    # A cron of its own: the spec's deadline is in the warehouse, which parsing must not read.
    @dag(
        dag_id=f"rescue__{model}",
        schedule=CronTriggerTimetable("*/5 * * * *", timezone="UTC"),
        default_args=defaults.task_defaults("data-platform", defaults.RESCUE, timeout_minutes=9),
        **defaults.dag_defaults(
            __doc__, "rescue", model, longest_run=dt.timedelta(minutes=60), max_active_runs=2
        ),
    )
    def rescue() -> None:
        rescue_tasks.rescue_by_last_good_spec(model)

    rescue()


_SPECS = read_specs(Path(__file__).parent / "models")
for _spec in _SPECS.documents.values():
    build_dag(_spec)
for _model in filter(is_model_name, _SPECS.broken):
    build_dag_of_invalid_file(_model)
