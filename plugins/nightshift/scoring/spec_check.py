"""Check a spec before its first run: its relations, their columns, its suites, its rule.

``nightshift migrate`` calls it; a training or a scoring would find the same problems later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.errors import SpecError
from nightshift.scoring.prediction_tables import model_query
from nightshift.warehouse.published import join_published, newest_published_day
from nightshift.warehouse.relations.columns import table_columns

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.dbt.project import FeatureView

_LABEL_COLUMNS = frozenset({"partition_date", "event_timestamp", "known_at", "superseded_at"})
_SPINE_COLUMNS = frozenset({"partition_date", "load_id", "known_at", "superseded_at"})
_NO_NUMBERS = ("text", "varchar", "character", "date", "time", "json", "uuid", "bytea")
"""Prefixes of the types that a numeric feature cannot have."""


class UnfitSpecError(SpecError):
    """A spec or contract can be read, and what it names is not there or does not fit."""

    code = "NS-SPEC-004"


def check_spec(
    conn: Connection, settings: Settings, spec: ModelSpec, views: Iterable[FeatureView]
) -> UnfitSpecError | None:
    """Return how a spec does not fit the dbt project, the warehouse and the suites, if so."""
    label_columns = _LABEL_COLUMNS | {spec.entity.key, spec.label.column}
    problems = [
        *_missing_columns(conn, "label", "marts", spec.label.relation, label_columns),
        *_view_problems(conn, spec, views),
        *_spine_problems(conn, spec),
    ]
    for dataset in (spec.features_dataset, spec.predictions_dataset):
        problems += suite_problems(settings.expectations_dir, dataset)
    return unfit(f"{spec.name}.yaml", problems)


def unfit(file: str, problems: list[str]) -> UnfitSpecError | None:
    """Return one error for all problems of a file; None without one."""
    if not problems:
        return None
    return UnfitSpecError(
        f"{file} does not fit what it names:\n    " + "\n    ".join(problems),
        todo="Correct the file or what it names, then run `nightshift migrate` again.",
    )


def suite_problems(expectations_dir: Path, dataset: str) -> Iterator[str]:
    """Yield why the file of a dataset's suite cannot be used; the gate checks what is in it."""
    path = expectations_dir / f"{dataset}.json"
    if not path.is_file():
        yield f"expectations/{dataset}.json does not exist: nothing of {dataset} is published"
        return
    try:
        expectations = json.loads(path.read_text(encoding="utf-8"))["expectations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"expectations/{dataset}.json cannot be read ({type(error).__name__})"
        return
    if not expectations:
        yield f"expectations/{dataset}.json is empty"


def _view_problems(
    conn: Connection, spec: ModelSpec, views: Iterable[FeatureView]
) -> Iterator[str]:
    """Yield the columns that the feature view lacks, or has with a wrong key or type."""
    table = spec.feature_table
    view = next((view for view in views if view.name == spec.feature_view), None)
    if view is None:
        yield f"feature_view: the dbt project has no model {table}"
        return
    types = view.columns
    if view.entity_key != spec.entity.key:
        yield f"entity.key: {table} has the key {view.entity_key}, not {spec.entity.key}"
    rule = spec.scoring.fallback.columns
    slices = {part.column for part in spec.promotion.slices}
    groups = {part.column for part in spec.promotion.fairness}
    shown = spec.analytics.attributes
    required = {*spec.features.names, spec.event_timestamp, *rule, *slices, *groups, *shown}
    missing = sorted(required - types.keys())
    if missing:
        yield f"{table} lacks {', '.join(missing)}"
    numbers = {*spec.features.numeric, *rule}
    for name in sorted(numbers & types.keys()):
        if types[name].lower().startswith(_NO_NUMBERS):
            yield f"{name} is no number in {table} but {types[name]}"
    label = spec.label.column
    if label in types:
        yield f"label.column: {label} is also in {table}, the model would read the answer"
    yield from _rule_problems(conn, spec, types)


def _spine_problems(conn: Connection, spec: ModelSpec) -> Iterator[str]:
    spine = spec.scoring.spine
    if spine is not None:
        key = spine.key_parts or [spec.entity.key]
        required = _SPINE_COLUMNS | {spine.event_timestamp, *key}
        yield from _missing_columns(conn, "scoring.spine", "staging", spine.relation, required)


def _missing_columns(
    conn: Connection, part: str, schema: str, relation: str, required: frozenset[str]
) -> Iterator[str]:
    """Yield a problem if a relation of the warehouse, or a column of it, is missing."""
    columns = table_columns(conn, schema, relation)
    missing = sorted(required - columns.keys())
    if not columns:
        yield f"{part}.relation: there is no {schema}.{relation}"
    elif missing:
        yield f"{part}: {schema}.{relation} lacks {', '.join(missing)}"


def _rule_problems(conn: Connection, spec: ModelSpec, types: Mapping[str, str]) -> Iterator[str]:
    """Yield a problem if the rule of a binary model gives values that are no probabilities.

    The newest published features show it.
    """
    feature = spec.scoring.fallback.feature
    if spec.task is not Task.BINARY or feature not in types:
        return
    # A boolean is a probability of 0 or 1; a type that is no number is reported already.
    if types[feature].lower().startswith(("boolean", *_NO_NUMBERS)):
        return
    query = model_query(
        spec,
        """
        select count(*) filter (where f.{rule} < 0 or f.{rule} > 1)
        from {features} f {published} where f.partition_date = %s
        """,
        published=join_published(spec.features_dataset, "f"),
    )
    newest = newest_published_day(conn, spec.features_dataset)
    row = conn.execute(query, [newest]).fetchone()
    if row and row[0]:
        yield (
            f"scoring.fallback.feature: {feature} is no probability, 0 to 1,"
            f" in {row[0]} rows of the newest published features"
        )
