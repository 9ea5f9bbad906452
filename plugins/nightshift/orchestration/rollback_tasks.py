"""Task bodies of the rollback: plan what a person requested in the form, then repair it.

A run can be cleared any number of times: it continues its own rollback.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import task
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
    """The request of a person.

    Attributes:
        model: The model.
        version: Version that shall serve again.
        since: First partition to repair; None for the one from which other versions took over.
        reason: Why.
        only_plan: Whether to change nothing.
        requested_by: The person's name in Airflow.
        dag_run_id: The DAG run, the same in each of its tries.
    """

    model: str
    version: int
    since: Partition | None
    reason: str
    only_plan: bool
    requested_by: str
    dag_run_id: str

    @classmethod
    def read(cls, params: Mapping[str, Any], dag_run: Any) -> Form:  # noqa: ANN401 - Airflow's run
        """Return the form that a run was triggered with."""
        return cls(
            model=params["model"],
            version=params["to_version"],
            since=Partition.parse(params["since"]) if params["since"] else None,
            reason=params["reason"],
            only_plan=params["only_plan"],
            requested_by=getattr(dag_run, "triggering_user_name", None) or "unknown",
            dag_run_id=dag_run.run_id,
        )

    def run(self, scope: TaskScope) -> RunContext:
        """Return the identity that the rollback is recorded under."""
        dag_and_partition = scope.run.run_id.rpartition("/")[0]
        run_id = f"{dag_and_partition}/{self.dag_run_id}"
        return replace(scope.run, run_id=run_id, actor=f"airflow:{self.requested_by}")


@task(task_id="plan")
def plan_repair(params: Mapping[str, Any], dag_run: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    """Try the version on every affected partition and log the plan; nothing is written."""
    from nightshift.scoring.republish import plan_rollback

    form = Form.read(params, dag_run)
    with task_scope(_first_partition(form).key) as scope:
        spec, run = scope.spec(form.model), form.run(scope)
        plan = plan_rollback(scope.settings, spec, form.version, scope.partition, run)
        logger.info(
            "Version %d loads, passes its guard and scores; it would serve from %s on.",
            plan.version,
            plan.since,
        )
        for stretch in plan.stretches:
            source = "from kept loads" if stretch.kept else "to be scored again"
            logger.info("To repair: %s, %s", stretch.partitions, source)
        return {"version": plan.version, "since": plan.since.key, "n_partitions": plan.n_partitions}


@task(task_id="repair")
def repair_partitions(
    plan: dict[str, Any],
    params: Mapping[str, Any],
    dag_run: Any,  # noqa: ANN401 - as above
) -> dict[str, Any]:
    """Record the rollback, publish the affected partitions again, and read the record back.

    Raises:
        AirflowSkipException: Only the plan was requested, or a later decision made another version
            champion.
    """
    from nightshift.scoring.republish import plan_rollback, roll_back

    form = Form.read(params, dag_run)
    with task_scope(plan["since"]) as scope:
        if form.only_plan:
            n_partitions = plan["n_partitions"]
            raise AirflowSkipException(
                f"Only the plan was requested: {n_partitions} partition(s) would be published again."
            )
        run, spec = form.run(scope), scope.spec(form.model)
        _skip_if_overtaken(scope, form.model, run)
        rollback = plan_rollback(scope.settings, spec, form.version, scope.partition, run)
        repaired = roll_back(scope.settings, spec, rollback, form.reason, run, logger.info)
        promotion_id = repaired.promotion_id
        require_row(
            scope,
            "promotion",
            promotion_id=promotion_id,
            model=form.model,
            version=form.version,
        )
        n_changed = sum(load.is_new for load in repaired.published)
        return {**plan, "promotion_id": promotion_id, "n_changed": n_changed}


def _first_partition(form: Form) -> Partition:
    """Return the form's first partition, or the one from which other versions took over."""
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
            f"This run's rollback is done, and record {later.promotion_id} made version"
            f" {later.version} champion since, decided by {later.actor}: that decision stands."
            " To roll back again, start a new run."
        )
