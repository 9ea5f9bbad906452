"""``nightshift migrate``: upgrade warehouse and bucket to what this code needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from nightshift.cli.recorded_command import recorded
from nightshift.settings import load_admin_settings

if TYPE_CHECKING:
    from nightshift.settings import Settings


@recorded("migrate", must_be_recorded=False)
def migrate() -> None:
    """Create or upgrade the warehouse, the bucket and the analysts' views; safe to repeat.

    Sets up everything that fits and names each wrong spec or contract at the end.
    """
    set_up(load_admin_settings())


def set_up(settings: Settings) -> None:
    """Create what is missing: bucket, schemas, raw tables, dbt's relations, prediction tables.

    Several calls at once run one after another. Sessions of analysts that hold one of its locks
    for three seconds are ended.

    Raises:
        SpecError: Specs or contracts are wrong or do not fit; everything else was done.
        NightshiftError: A server cannot be reached or refuses.
    """
    from nightshift.cli.relations import create_relations
    from nightshift.contracts.document_folder import combined_error
    from nightshift.lake.object_store import ObjectStore
    from nightshift.warehouse.analysts.sessions import hindering_sessions_ended
    from nightshift.warehouse.schema_lock import set_up_alone

    with set_up_alone(settings), hindering_sessions_ended(settings):
        ObjectStore.open(settings).ensure_bucket()
        n_pending, problems = create_relations(settings)
        _grant(settings)
    if problems:
        raise combined_error(problems)
    typer.echo(f"  warehouse and bucket are ready, {n_pending} migrations applied")


def _grant(settings: Settings) -> None:
    """Apply the analyst's grants and limits; print what this login could not close."""
    from nightshift.warehouse.analysts.grants import apply_grants
    from nightshift.warehouse.analysts.logins import gaps
    from nightshift.warehouse.connection import connect

    with connect(as_admin(settings), "nightshift migrate") as conn:
        apply_grants(conn)
        for gap in gaps(conn):
            typer.echo(f"  open: {gap} (docs/production.md, Roles and grants)")


def as_admin(settings: Settings) -> Settings:
    """Return settings of the role that may create roles: the warehouse user if none is named."""
    if not settings.warehouse_admin_user:
        return settings
    login = {
        "warehouse_user": settings.warehouse_admin_user,
        "warehouse_password": settings.warehouse_admin_password,
    }
    return settings.model_copy(update=login)
