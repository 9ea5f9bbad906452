"""Jobs and run facets of lineage events: what a run is, whose, for which day, and below what."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from openlineage.client.event_v2 import Job
from openlineage.client.facet_v2 import (
    JobFacet,
    RunFacet,
    documentation_job,
    error_message_run,
    job_type_job,
    nominal_time_run,
    ownership_job,
    parent_run,
    processing_engine_run,
)

from nightshift.contracts.partitions import operating_timezone
from nightshift.contracts.run import code_version
from nightshift.telemetry.identifiers import declared_name, deployment_of, lineage_run_id
from nightshift.telemetry.night_records import task_of

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.telemetry.lineage.load_facts import ModelOwner

NIGHT = "night"
"""Job of the run that holds all runs of a partition together."""
JOBS = {
    "raw": ("ingest", "Checks delivered files and publishes their rows."),
    "features": ("transform", "Builds feature views with dbt and publishes them."),
    "predictions": ("score", "Scores the entities of a partition and publishes predictions."),
    "shadow": ("shadow", "Scores with challengers; nobody reads it but the promotion gate."),
    "monitoring": ("monitor", "Measures drift and matured performance, and gives a verdict."),
}
"""Job of a load by the layer that it writes, and what it does."""


def job_of(settings: Settings, name: str, description: str, owner: ModelOwner | None) -> Job:
    """Return a job of this deployment with its type, description and owner."""
    job_type = job_type_job.JobTypeJobFacet(
        processingType="BATCH",
        integration="NIGHTSHIFT",
        jobType="TASK",
    )
    facets: dict[str, JobFacet] = {
        "jobType": job_type,
        "documentation": documentation_job.DocumentationJobFacet(description),
    }
    if owner and owner.owner:
        team = ownership_job.Owner(f"team:{owner.owner}", "MAINTAINER")
        facets["ownership"] = ownership_job.OwnershipJobFacet([team])
    return Job(settings.telemetry_name, name, facets)


def facets_of(
    settings: Settings, run_id: str, first: dt.date, last: dt.date
) -> dict[str, RunFacet]:
    """Return the facets of a run over some partitions.

    Args:
        settings: The deployment.
        run_id: As the ledger has it.
        first: First partition.
        last: Last partition, included.
    """
    engine = processing_engine_run.ProcessingEngineRunFacet(
        version=code_version(),
        name="nightshift",
    )
    return {
        "nominalTime": _nominal_time(first, last),
        "parent": _parent(settings, run_id, first),
        "processing_engine": engine,
    }


def with_error(facets: dict[str, RunFacet], error: str) -> dict[str, RunFacet]:
    """Return the facets with the code of an error, if there is one."""
    if not error:
        return facets
    # The runbook page of the code says what happened; the message may quote what it is about.
    message = error_message_run.ErrorMessageRunFacet(error, "PYTHON")
    return {**facets, "errorMessage": message}


def _nominal_time(first: dt.date, last: dt.date) -> RunFacet:
    """Return the operating days from their first midnight to the one after them."""
    zone = ZoneInfo(operating_timezone())
    midnight = dt.time(tzinfo=zone)
    start = dt.datetime.combine(first, midnight)
    end = dt.datetime.combine(last + dt.timedelta(days=1), midnight)
    return nominal_time_run.NominalTimeRunFacet(
        nominalStartTime=start.isoformat(),
        nominalEndTime=end.isoformat(),
    )


def _parent(settings: Settings, run_id: str, first: dt.date) -> RunFacet:
    # Neither has events of its own: they only hold other runs together.
    dag_id, _, digest = task_of(run_id)
    deployment, namespace = deployment_of(settings), settings.telemetry_name
    root_run = lineage_run_id(deployment, f"{NIGHT} {first}")
    parent = lineage_run_id(deployment, f"run {dag_id} {digest}")
    root = parent_run.Root(
        parent_run.RootRun(root_run),
        parent_run.RootJob(namespace, NIGHT),
    )
    return parent_run.ParentRunFacet(
        run=parent_run.Run(parent),
        job=parent_run.Job(namespace, declared_name(dag_id)),
        root=root,
    )
