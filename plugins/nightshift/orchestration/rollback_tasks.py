"""Task bodies of the rollback: plan what a person requested in the form, then repair it.

A run can be cleared any number of times: it continues its own rollback.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.orchestration.post_conditions import require_row
from nightshift.orchestration.task_scope import task_scope
from nightshift.settings import load_settings
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.orchestration.task_scope import TaskScope

logger = logging.getLogger(__name__)


@task(task_id="plan")
def plan_repair(params: Mapping[str, Any], dag_run: Any) -> dict[str, Any]:  # noqa: ANN401
    """Try the version on every affected partition and log the plan; nothing is written."""
    from nightshift.scoring.republish import plan_rollback

    model, version = params["model"], params["to_version"]
    since = params["since"] or _first_partition(model, version)
    with task_scope(since) as scope:
        run = _rollback_run(scope, dag_run)
        spec = scope.spec(model)
        plan = plan_rollback(scope.settings, spec, version, scope.partition, run)
        logger.info(
            "Version %d loads, passes its guard and scores; it would serve from %s on.",
            plan.version,
            plan.since,
        )
        for partition_run in plan.partition_runs:
            source = "from stored loads" if partition_run.reusable_loads else "to be scored again"
            logger.info("To repair: %s, %s", partition_run.partitions, source)
        return {
            "version": plan.version,
            "since": plan.since.key,
            "n_partitions": plan.n_partitions,
        }


@task(task_id="repair")
def repair_partitions(
    plan: dict[str, Any],
    params: Mapping[str, Any],
    dag_run: Any,  # noqa: ANN401 - Airflow's run
) -> dict[str, Any]:
    """Record the rollback, publish the affected partitions again, and read the record back.

    Raises:
        AirflowSkipException: Only the plan was requested, or a later decision made another version
            champion.
    """
    from nightshift.scoring.republish import plan_rollback, roll_back

    model, version = params["model"], params["to_version"]
    with task_scope(plan["since"]) as scope:
        if params["only_plan"]:
            raise AirflowSkipException(
                "Only the plan was requested:"
                f" {plan['n_partitions']} partition(s) would be published again."
            )
        run = _rollback_run(scope, dag_run)
        spec = scope.spec(model)
        _skip_if_overtaken(scope, model, run)
        # Planned again: between the two tasks another night may have been scored.
        rollback = plan_rollback(scope.settings, spec, version, scope.partition, run)
        reason = params["reason"]
        repaired = roll_back(scope.settings, spec, rollback, reason, run, logger.info)
        promotion_id = repaired.promotion_id
        require_row(scope, "promotion", promotion_id=promotion_id, model=model, version=version)
        n_changed = sum(load.is_new for load in repaired.published)
        return {**plan, "promotion_id": promotion_id, "n_changed": n_changed}


def _first_partition(model: str, version: int) -> str:
    """Return the partition from which other versions took over."""
    from nightshift.registry.rollback import first_partition_since

    with connect(load_settings(), "nightshift rollback") as conn:
        return first_partition_since(conn, model, version).key


def _rollback_run(scope: TaskScope, dag_run: Any) -> RunContext:  # noqa: ANN401 - Airflow's run
    """Return the identity of the rollback: the same in all tries and clears of a run."""
    # The run id of the task's scope would differ between the two tasks.
    person = getattr(dag_run, "triggering_user_name", None) or "unknown"
    dag_and_partition = scope.run.run_id.rpartition("/")[0]
    run_id = f"{dag_and_partition}/{dag_run.run_id}"
    return replace(scope.run, run_id=run_id, actor=f"airflow:{person}")


def _skip_if_overtaken(scope: TaskScope, model: str, run: RunContext) -> None:
    from nightshift.registry.rollback import decision_after

    with scope.connect() as conn:
        later = decision_after(conn, model, run.run_id)
    if later is not None:
        raise AirflowSkipException(
            f"This run's rollback is done, and record {later.promotion_id} made version"
            f" {later.version} champion since, decided by {later.actor}: that decision stands."
            " To roll back again, start a new run."
        )
