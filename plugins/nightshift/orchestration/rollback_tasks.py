"""Task bodies of the rollback: what a person asked for in the form, tried first, then done, as often as the run is cleared."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.contracts.partitions import Partition
from nightshift.orchestration.post_conditions import require_row
from nightshift.orchestration.task_scope import task_scope
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.orchestration.task_scope import TaskScope

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """What a person asked for.

    Attributes:
        model: Whose champion.
        version: Who shall serve again.
        since: First partition to repair; None takes the one from which others took over.
        reason: Why.
        only_plan: Whether nothing may move.
        asked_by: Name of the person in Airflow.
        asked_in: The DAG run, the same in each of its tries.
    """

    model: str
    version: int
    since: Partition | None
    reason: str
    only_plan: bool
    asked_by: str
    asked_in: str


def plan_repair() -> dict[str, Any]:
    """Try the version on every affected partition and log what would be published again; nothing is written."""
    from nightshift.scoring.republish import plan_rollback

    form = _form()
    with task_scope(_first_partition(form)) as scope:
        plan = plan_rollback(
            scope.settings, scope.spec(form.model), form.version, scope.partition, _run(scope, form)
        )
        logger.info(
            "Version %d loads, passes its guard and scores; it would serve from %s on.",
            plan.version,
            plan.since,
        )
        for partition_run in plan.partition_runs:
            logger.info(
                "To repair: %s, %s",
                partition_run.partitions,
                "from kept loads" if partition_run.reusable_loads else "to be scored again",
            )
        return {"version": plan.version, "since": plan.since.key, "n_partitions": plan.n_partitions}


def repair_partitions(plan: dict[str, Any]) -> dict[str, Any]:
    """Record the rollback, publish what it means, and read it back.

    A run that is cleared goes on with what it recorded, from the same partition on. If somebody has
    decided since, it is skipped.
    """
    from nightshift.scoring.republish import plan_rollback, roll_back

    form = _form()
    with task_scope(Partition.parse(plan["since"])) as scope:
        if form.only_plan:
            raise AirflowSkipException(
                f"Only the plan was wanted: {plan['n_partitions']} partition(s) would be published again."
            )
        run, spec = _run(scope, form), scope.spec(form.model)
        _skip_if_overtaken(scope, form.model, run)
        found = plan_rollback(scope.settings, spec, form.version, scope.partition, run)
        repaired = roll_back(scope.settings, spec, found, form.reason, run, logger.info)
        require_row(
            scope,
            "promotion",
            promotion_id=repaired.promotion_id,
            model=form.model,
            version=form.version,
        )
        n_changed = sum(load.is_new for load in repaired.published)
        return {**plan, "promotion_id": repaired.promotion_id, "n_changed": n_changed}


def _form() -> Form:
    context = get_current_context()
    params, run = context["params"], context["dag_run"]
    return Form(
        model=params["model"],
        version=params["to_version"],
        since=Partition.parse(params["since"]) if params["since"] else None,
        reason=params["reason"],
        only_plan=params["only_plan"],
        asked_by=getattr(run, "triggering_user_name", None) or "unknown",
        asked_in=run.run_id,
    )


def _run(scope: TaskScope, form: Form) -> RunContext:
    run_id = f"{scope.run.run_id.rpartition('/')[0]}/{form.asked_in}"
    return replace(scope.run, run_id=run_id, actor=f"airflow:{form.asked_by}")


def _first_partition(form: Form) -> Partition:
    """Return what the form says, or the partition from which other versions took over."""
    from nightshift.registry.rollback import first_partition_since
    from nightshift.warehouse.connection import connect

    if form.since:
        return form.since
    with connect(load_settings(), "nightshift rollback") as conn:
        return first_partition_since(conn, form.model, form.version)


def _skip_if_overtaken(scope: TaskScope, model: str, run: RunContext) -> None:
    from nightshift.registry.rollback import decision_after
    from nightshift.warehouse.connection import connect

    with connect(scope.settings, run.application_name) as conn:
        later = decision_after(conn, model, run.run_id)
    if later is not None:
        raise AirflowSkipException(
            f"This run's rollback was done, and record {later.promotion_id} made version {later.version} champion since, decided by"
            f" {later.actor}: it stands. To roll back again, start a new run."
        )
