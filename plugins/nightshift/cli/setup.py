"""``nightshift migrate``: bring warehouse and bucket to what this code needs; safe at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.cli.console import say
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.settings import Settings


def migrate() -> None:
    """Create or upgrade the warehouse, the bucket, dbt's tables, the prediction tables and the analyst's views."""
    set_up(load_settings())


def set_up(settings: Settings) -> None:
    """Create what is missing: bucket, schemas, raw tables, dbt's relations, prediction relations, grants.

    Several may run at once: one after another does it. Sessions of analysts that hold one of its
    locks for three seconds are ended.

    Raises:
        NightshiftError: A server cannot be reached or refuses.
    """
    from nightshift.lake.object_store import ObjectStore
    from nightshift.warehouse.analyst_sessions import hindering_sessions_ended
    from nightshift.warehouse.schema_lock import set_up_alone

    with set_up_alone(settings), hindering_sessions_ended(settings):
        ObjectStore.open(settings).ensure_bucket()
        n_pending = _create_relations(settings)
        _grant(settings)
    say(f"  warehouse and bucket are ready, {n_pending} migrations applied")


def _create_relations(settings: Settings) -> int:
    from nightshift.contracts.datasets import load_contracts
    from nightshift.contracts.model_spec import load_specs
    from nightshift.scoring.relations import ensure_prediction_relations
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.dbt_runner import ensure_relations
    from nightshift.warehouse.migrate import migrate as apply_migrations

    with connect(settings, "nightshift migrate") as conn:
        pending = apply_migrations(conn, load_contracts(settings.datasets_dir))
        ensure_relations(settings)
        for spec in load_specs(settings.models_dir).values():
            ensure_prediction_relations(conn, spec, replace_views=True)
    return len(pending)


def _grant(settings: Settings) -> None:
    """Apply the analyst's grants and limits; say what this login could not close."""
    from nightshift.warehouse.analyst_logins import gaps
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.grants import apply_grants

    with connect(as_admin(settings), "nightshift migrate") as conn:
        apply_grants(conn)
        for gap in gaps(conn):
            say(f"  open: {gap} (docs/production.md, Roles and grants)")


def as_admin(settings: Settings) -> Settings:
    """Return settings of the role that may create roles; the warehouse user where none is named."""
    if not settings.warehouse_admin_user:
        return settings
    login = {
        "warehouse_user": settings.warehouse_admin_user,
        "warehouse_password": settings.warehouse_admin_password,
    }
    return settings.model_copy(update=login)
