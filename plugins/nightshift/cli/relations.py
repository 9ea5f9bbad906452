"""Create the warehouse's relations: migrations, raw tables, dbt's relations, prediction tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nightshift.errors import SpecError

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


def create_relations(settings: Settings) -> tuple[int, list[SpecError]]:
    """Create the relations of all contracts and specs that are right.

    Returns:
        The number of applied migrations, and what is wrong with single contracts and specs.
    """
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
        # After the raw tables: dbt's staging views read them.
        problems += _set_up_models(conn, settings, specs.documents.values())
    return len(pending), problems


def _check_suites(settings: Settings, datasets: Iterable[str]) -> list[SpecError]:
    """Return one error per contract whose expectations are missing or cannot be read."""
    from nightshift.scoring.spec_check import suite_problems, unfit

    problems: list[SpecError] = []
    for name in datasets:
        reasons = suite_problems(settings.expectations_dir, f"raw/{name}")
        problem = unfit(f"{name}.yaml", list(reasons))
        if problem:
            problems.append(problem)
    return problems


def _set_up_models(
    conn: Connection,
    settings: Settings,
    specs: Iterable[ModelSpec],
) -> list[SpecError]:
    """Create dbt's and the models' relations; return one error per spec that does not fit."""
    from nightshift.lake.object_store import ObjectStore
    from nightshift.registry.model_versions import record_missing_explanations
    from nightshift.scoring.prediction_tables import ensure_prediction_relations
    from nightshift.scoring.spec_check import check_spec
    from nightshift.warehouse.control_tables.last_good_specs import keep_spec
    from nightshift.warehouse.dbt.feature_words import keep_feature_words
    from nightshift.warehouse.dbt.project import feature_views
    from nightshift.warehouse.dbt.runner import ensure_relations

    store = ObjectStore.open(settings)
    # The prediction relations refer to dbt's relations.
    ensure_relations(settings)
    keep_feature_words(conn, settings)
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
        record_missing_explanations(conn, store, spec.name)
    return problems
