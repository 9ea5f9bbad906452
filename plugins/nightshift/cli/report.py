"""``nightshift report``: fetch what the monitor drew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import say
from nightshift.errors import NightshiftError
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.settings import Settings


class NoReportError(NightshiftError):
    """No report of that night is in the lake."""

    code = "NS-MONITOR-010"


def report(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    night: Annotated[str, typer.Option(help="Partition, YYYY-MM-DD; the latest by default.")] = "",
    into: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
) -> None:
    """Download the drift report of a night and print where it is; open it in a browser."""
    from nightshift.contracts.model_spec import load_spec
    from nightshift.contracts.partitions import Partition
    from nightshift.lake.content_keys import digest_in
    from nightshift.lake.object_store import ObjectStore

    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    day, key = _find(settings, spec.name, Partition.parse(night).key if night else None)
    path = into / f"{spec.name}-{day}{Path(key).suffix}"
    path.write_bytes(ObjectStore.open(settings).get(key, digest_in(key)))
    say(str(path.resolve()))
    if not night:
        say(_which(settings, spec.name, day))


def _which(settings: Settings, model: str, day: str) -> str:
    """Say which night the newest report is of, and which newer nights have none."""
    from nightshift.warehouse.connection import connect

    with connect(settings, "nightshift report") as conn:
        rows = conn.execute(
            """
            select partition_date::text from monitoring.verdicts_published
            where model = %s and partition_date > %s order by partition_date
            """,
            [model, day],
        ).fetchall()
    newer = [night for (night,) in rows]
    said = f"It is of {day}, the newest night with a report."
    return f"{said} {len(newer)} newer night(s) have none: {', '.join(newer)}." if newer else said


def _find(settings: Settings, model: str, night: str | None) -> tuple[str, str]:
    from nightshift.warehouse.connection import connect

    with connect(settings, "nightshift report") as conn:
        row = conn.execute(
            """
            select partition_date::text, report_key from monitoring.verdicts_published
            where model = %(model)s and report_key is not null and (%(night)s::date is null or partition_date = %(night)s)
            order by partition_date desc limit 1
            """,
            {"model": model, "night": night},
        ).fetchone()
    if row is None:
        raise NoReportError(
            f"There is no report of {model}{f' for {night}' if night else ''}.",
            todo="Look at monitoring.verdicts_published: report_problem says why a report is missing.",
        )
    return row[0], row[1]
