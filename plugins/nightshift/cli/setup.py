"""``nightshift migrate``: bring warehouse and bucket to what this code needs; safe at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.cli.console import say
from nightshift.errors import SpecError
from nightshift.settings import load_admin_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


def migrate() -> None:
    """Create or upgrade the warehouse, the bucket, dbt's tables, the prediction tables and the analyst's views.

    A wrong spec or contract is named at the end, and everything else is set up.
    """
    set_up(load_admin_settings())


def set_up(settings: Settings) -> None:
    """Create what is missing: bucket, schemas, raw tables, dbt's relations, prediction relations, grants.

    Raises:
        SpecError: Specs or contracts are wrong or do not fit; everything else was done.
        NightshiftError: A server cannot be reached or refuses.
    """
    from nightshift.contracts.datasets import read_contracts
    from nightshift.contracts.document_folder import joined
    from nightshift.contracts.model_spec import read_specs
    from nightshift.lake.object_store import ObjectStore
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.migrate import migrate as apply_migrations

    contracts, specs = read_contracts(settings.datasets_dir), read_specs(settings.models_dir)
    problems = [*contracts.problems.values(), *specs.problems.values()]
    ObjectStore.open(settings).ensure_bucket()
    with connect(settings, "nightshift migrate") as conn:
        pending: list[str] = []
        try:
            pending = apply_migrations(conn, contracts.documents)
        except SpecError as error:
            problems.append(error)
        problems += _unfit_contracts(settings, contracts.documents)
        problems += _set_up_models(conn, settings, specs.documents.values())
    _grant(settings)
    if problems:
        raise joined(problems)
    say(f"  warehouse and bucket are ready, {len(pending)} migrations applied")


def _unfit_contracts(settings: Settings, names: Iterable[str]) -> list[SpecError]:
    from nightshift.scoring.spec_check import suite_problems, unfit

    found = [unfit(f"{name}.yaml", list(suite_problems(settings.expectations_dir, f"raw/{name}"))) for name in names]
    return [problem for problem in found if problem]


def _set_up_models(conn: Connection, settings: Settings, specs: Iterable[ModelSpec]) -> list[SpecError]:
    """Make dbt's and the models' relations, keep every spec that fits, and return what is wrong with the others."""
    from nightshift.scoring.relations import ensure_prediction_relations
    from nightshift.scoring.spec_check import check_spec
    from nightshift.warehouse.dbt_runner import ensure_relations, feature_views
    from nightshift.warehouse.last_good_specs import keep_spec

    ensure_relations(settings)
    views = feature_views(settings)
    problems: list[SpecError] = []
    for spec in specs:
        if problem := check_spec(conn, settings, spec, views):
            problems.append(problem)
            continue
        ensure_prediction_relations(conn, spec, replace_views=True)
        keep_spec(conn, spec)
    return problems


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
