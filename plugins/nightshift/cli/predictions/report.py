"""``nightshift report``: download a drift report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightshift.cli.arguments import Into, Model, optional_partition
from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.settings import Settings, load_settings


class NoReportError(NightshiftError):
    """The lake has no report of that partition."""

    code = "NS-MONITOR-010"


_REPORT = """
select partition_date::text, report_key from monitoring.verdicts_published
where model = %(model)s and report_key is not null
    and (%(day)s::date is null or partition_date = %(day)s)
order by partition_date desc limit 1
"""
_NEWER = """
select partition_date::text from monitoring.verdicts_published
where model = %s and partition_date > %s order by partition_date
"""


def report(
    model: Model,
    partition: Annotated[
        str,
        typer.Option("--night", help="Partition, YYYY-MM-DD; the latest by default."),
    ] = "",
    into: Into = Path(),
) -> None:
    """Download the drift report of a partition and print its path; open it in a browser."""
    from nightshift.contracts.model_spec import load_spec
    from nightshift.lake.content_keys import digest_in
    from nightshift.lake.object_store import ObjectStore

    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    requested = optional_partition(partition)
    day, key = _find_report(settings, spec.name, requested)
    store = ObjectStore.open(settings)
    # The key contains the digest: a changed report is refused.
    report = store.get(key, digest_in(key))
    path = into / f"{spec.name}-{day}{Path(key).suffix}"
    path.write_bytes(report)
    typer.echo(str(path.resolve()))
    # Whoever asks for the newest one must see that it may not be of the last night.
    if not partition:
        typer.echo(_describe_age(settings, spec.name, day))


def _find_report(
    settings: Settings,
    model: str,
    partition: Partition | None,
) -> tuple[str, str]:
    """Return day and object key of a partition's report; without a partition, of the newest.

    Raises:
        NoReportError: There is none.
    """
    from nightshift.warehouse.connection import connect

    day = partition.day if partition else None
    with connect(settings, "nightshift report") as conn:
        row = conn.execute(_REPORT, {"model": model, "day": day}).fetchone()
    if row is None:
        of_day = f" for {day}" if day else ""
        raise NoReportError(
            f"There is no report of {model}{of_day}.",
            todo="Read report_problem in monitoring.verdicts_published: why a report is missing.",
        )
    return row[0], row[1]


def _describe_age(settings: Settings, model: str, day: str) -> str:
    """Return which partition the newest report is of, and which newer ones have none."""
    from nightshift.warehouse.connection import connect

    with connect(settings, "nightshift report") as conn:
        newer = [key for (key,) in conn.execute(_NEWER, [model, day])]
    sentence = f"It is of {day}, the newest night with a report."
    if newer:
        sentence += f" {len(newer)} newer night(s) have none: {', '.join(newer)}."
    return sentence
