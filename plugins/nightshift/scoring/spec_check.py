"""What can be seen of a spec before its first night: its relations, their columns, its suites, its rule.

``nightshift migrate`` asks; a training or a scoring would find the same, minutes or nights later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.dbt.project import FeatureView

_LABEL_COLUMNS = frozenset({"partition_date", "event_timestamp", "known_at", "superseded_at"})
_SPINE_COLUMNS = frozenset({"partition_date", "load_id", "known_at", "superseded_at"})
_NO_NUMBERS = ("text", "varchar", "character", "date", "time", "json", "uuid", "bytea")
"""Beginnings of the types that no numeric feature can have."""


class UnfitSpecError(SpecError):
    """A spec or contract can be read, and what it names is not there or does not fit."""

    code = "NS-SPEC-004"


def check_spec(
    conn: Connection, settings: Settings, spec: ModelSpec, views: Iterable[FeatureView]
) -> UnfitSpecError | None:
    """Return what of a spec does not fit the dbt project, the warehouse and the suites; None if all does.

    Args:
        conn: Any connection to the warehouse.
        settings: The folder of suites.
        spec: The spec.
        views: The feature views of the dbt project.
    """
    view = next((view for view in views if view.name == spec.feature_view), None)
    problems = list(_label_problems(conn, spec))
    if view is None:
        problems.append(f"feature_view: the dbt project has no model {spec.feature_table}")
    else:
        problems += [*_view_problems(spec, view), *_rule_problems(conn, spec, view)]
    problems += _spine_problems(conn, spec)
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
    """Yield why a dataset's suite cannot be used, as far as its text shows; the gate has the last word."""
    path = expectations_dir / f"{dataset}.json"
    if not path.is_file():
        yield f"expectations/{dataset}.json does not exist: nothing of {dataset} is published"
        return
    try:
        has_any = bool(json.loads(path.read_text(encoding="utf-8"))["expectations"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"expectations/{dataset}.json cannot be read ({type(error).__name__})"
        return
    if not has_any:
        yield f"expectations/{dataset}.json is empty"


def _view_problems(spec: ModelSpec, view: FeatureView) -> Iterator[str]:
    if view.entity_key != spec.entity.key:
        yield f"entity.key: {spec.feature_table} has the key {view.entity_key}, not {spec.entity.key}"
    named = {
        *spec.features.names,
        spec.event_timestamp,
        spec.scoring.fallback.feature,
        *(part.column for part in spec.promotion.slices),
        *(part.column for part in spec.promotion.fairness),
    }
    if missing := sorted(named - view.columns.keys()):
        yield f"{spec.feature_table} lacks {', '.join(missing)}"
    numbers = {*spec.features.numeric, spec.scoring.fallback.feature} & view.columns.keys()
    no_numbers = [name for name in numbers if view.columns[name].lower().startswith(_NO_NUMBERS)]
    for name in sorted(no_numbers):
        yield f"{name} is no number in {spec.feature_table} but {view.columns[name]}"
    if spec.label.column in view.columns:
        yield (
            f"label.column: {spec.label.column} stands in {spec.feature_table} too, the model would read the answer"
        )


def _label_problems(conn: Connection, spec: ModelSpec) -> Iterator[str]:
    needed = _LABEL_COLUMNS | {spec.entity.key, spec.label.column}
    yield from _lacking(conn, "label", "marts", spec.label.relation, needed)


def _spine_problems(conn: Connection, spec: ModelSpec) -> Iterator[str]:
    spine = spec.scoring.spine
    if spine is not None:
        needed = _SPINE_COLUMNS | {spine.event_timestamp, *(spine.key_parts or [spec.entity.key])}
        yield from _lacking(conn, "scoring.spine", "staging", spine.relation, needed)


def _lacking(
    conn: Connection, part: str, schema: str, relation: str, needed: frozenset[str]
) -> Iterator[str]:
    """Yield what a relation of the warehouse lacks."""
    rows = conn.execute(
        "select attname from pg_attribute"
        " where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
        " and attnum > 0 and not attisdropped",
        [schema, relation],
    )
    columns = {name for (name,) in rows}
    if not columns:
        yield f"{part}.relation: there is no {schema}.{relation}"
    elif missing := sorted(needed - columns):
        yield f"{part}: {schema}.{relation} lacks {', '.join(missing)}"


def _rule_problems(conn: Connection, spec: ModelSpec, view: FeatureView) -> Iterator[str]:
    """Yield whether the rule of a binary model gave no probabilities on the newest published features."""
    from psycopg import sql

    feature = spec.scoring.fallback.feature
    if spec.task is not Task.BINARY or feature not in view.columns:
        return
    if view.columns[feature].lower().startswith(("boolean", *_NO_NUMBERS)):
        return
    query = sql.SQL(
        "select count(*) filter (where f.{column} < 0 or f.{column} > 1) from features.{table} f"
        " join (select partition_date, load_id from ops.published where dataset = %s"
        " order by partition_date desc limit 1) p using (partition_date, load_id)"
    ).format(column=sql.Identifier(feature), table=sql.Identifier(view.table))
    row = conn.execute(query, [spec.features_dataset]).fetchone()
    if row and row[0]:
        yield (
            f"scoring.fallback.feature: {feature} is no probability, 0 to 1, in {row[0]} rows of the newest published features"
        )
