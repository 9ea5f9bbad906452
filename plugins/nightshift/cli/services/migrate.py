"""``nightshift migrate``: upgrade warehouse and bucket to what this code needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from nightshift.errors import SpecError
from nightshift.settings import load_admin_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


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
    from nightshift.contracts.document_folder import combined_error
    from nightshift.lake.object_store import ObjectStore
    from nightshift.warehouse.analysts.sessions import hindering_sessions_ended
    from nightshift.warehouse.schema_lock import set_up_alone

    with set_up_alone(settings), hindering_sessions_ended(settings):
        ObjectStore.open(settings).ensure_bucket()
        n_pending, problems = _create_relations(settings)
        _grant(settings)
    if problems:
        raise combined_error(problems)
    typer.echo(f"  warehouse and bucket are ready, {n_pending} migrations applied")


def _create_relations(settings: Settings) -> tuple[int, list[SpecError]]:
    """Return the number of migrations, and what is wrong with single contracts and specs."""
    from nightshift.contracts.datasets import read_contracts
    from nightshift.contracts.model_spec import read_specs
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.migrate import migrate as apply_migrations

    contracts = read_contracts(settings.datasets_dir)
    specs = read_specs(settings.models_dir)
    problems = [*contracts.problems.values(), *specs.problems.values()]
    pending: list[str] = []
    with connect(settings, "nightshift migrate") as conn:
        # A wrong contract must not keep the other datasets and models from being set up.
        try:
            pending = apply_migrations(conn, contracts.documents)
        except SpecError as error:
            problems.append(error)
        problems += _check_suites(settings, contracts.documents)
        problems += _set_up_models(conn, settings, specs.documents.values())
    return len(pending), problems


def _check_suites(settings: Settings, datasets: Iterable[str]) -> list[SpecError]:
    """Return one error per contract whose expectations are missing or cannot be read."""
    from nightshift.scoring.spec_check import suite_problems, unfit

    problems: list[SpecError] = []
    for name in datasets:
        reasons = list(suite_problems(settings.expectations_dir, f"raw/{name}"))
        if problem := unfit(f"{name}.yaml", reasons):
            problems.append(problem)
    return problems


def _set_up_models(
    conn: Connection, settings: Settings, specs: Iterable[ModelSpec]
) -> list[SpecError]:
    """Create dbt's and the models' relations; return one error per spec that does not fit."""
    from nightshift.scoring.prediction_tables import ensure_prediction_relations
    from nightshift.scoring.spec_check import check_spec
    from nightshift.warehouse.control_tables.last_good_specs import keep_spec
    from nightshift.warehouse.dbt.project import feature_views
    from nightshift.warehouse.dbt.runner import ensure_relations

    # The prediction relations refer to dbt's relations.
    ensure_relations(settings)
    views = feature_views(settings)
    problems: list[SpecError] = []
    for spec in specs:
        problem = check_spec(conn, settings, spec, views)
        if problem:
            problems.append(problem)
            continue
        ensure_prediction_relations(conn, spec, replace_views=True)
        # The deadline fallback scores with this spec while the file is wrong.
        keep_spec(conn, spec)
    return problems


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
