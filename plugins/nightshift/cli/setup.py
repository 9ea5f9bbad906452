"""``nightshift migrate``: bring warehouse and bucket to what this code needs; safe at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.cli.console import say
from nightshift.settings import load_admin_settings

if TYPE_CHECKING:
    from nightshift.settings import Settings


def migrate() -> None:
    """Create or upgrade the warehouse, the bucket, dbt's tables, the prediction tables and the analyst's views."""
    set_up(load_admin_settings())


def set_up(settings: Settings) -> None:
    """Create what is missing: bucket, schemas, raw tables, dbt's relations, prediction relations, grants.

    Raises:
        NightshiftError: A server cannot be reached or refuses.
    """
    from nightshift.contracts.datasets import load_contracts
    from nightshift.contracts.model_spec import load_specs
    from nightshift.lake.object_store import ObjectStore
    from nightshift.scoring.relations import ensure_prediction_relations
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.dbt_runner import ensure_relations
    from nightshift.warehouse.migrate import migrate as apply_migrations

    ObjectStore.open(settings).ensure_bucket()
    with connect(settings, "nightshift migrate") as conn:
        pending = apply_migrations(conn, load_contracts(settings.datasets_dir))
        ensure_relations(settings)
        for spec in load_specs(settings.models_dir).values():
            ensure_prediction_relations(conn, spec, replace_views=True)
    _grant(settings)
    say(f"  warehouse and bucket are ready, {len(pending)} migrations applied")


def _grant(settings: Settings) -> None:
    """Apply the analyst's grants as the role that may create roles."""
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.grants import apply_grants

    admin = settings
    if settings.warehouse_admin_user:
        admin = settings.model_copy(
            update={"warehouse_user": settings.warehouse_admin_user, "warehouse_password": settings.warehouse_admin_password}
        )
    with connect(admin, "nightshift migrate") as conn:
        apply_grants(conn)
