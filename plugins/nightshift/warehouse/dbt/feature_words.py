"""Keep the words of features in the warehouse: reasons are put into words by SQL.

A column of a feature view declares them once, in the dbt project: its description, and ``meta``
with ``label`` and ``unit``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightshift.warehouse.dbt.project import feature_views, parsed_project

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


def keep_feature_words(conn: Connection, settings: Settings) -> None:
    """Make the words in the warehouse those of the dbt project; idempotent.

    Raises:
        DbtProcessError: The project cannot be parsed.
    """
    project = parsed_project(settings)
    rows: list[dict[str, str]] = []
    for view in feature_views(settings):
        key = project.find_model(view.table)
        if key is None:
            continue
        columns = project.models[key]["columns"]
        rows.extend(_words(view.name, column) for column in columns.values())
    with conn.transaction(), conn.cursor() as cursor:
        # Two deployments must not write the same rows in another order.
        cursor.execute("lock table ops.feature_words in share row exclusive mode")
        cursor.executemany(_KEEP, rows)


def _words(feature_view: str, column: dict[str, Any]) -> dict[str, str]:
    # dbt has it under config since 1.10, and of before next to it.
    config = column.get("config") or {}
    meta = config.get("meta") or column.get("meta") or {}
    name = column["name"]
    words = {
        "label": name.replace("_", " "),
        "unit": "",
    }
    for word in words.keys() & meta.keys():
        words[word] = str(meta[word])
    return {
        "feature_view": feature_view,
        "feature": name,
        "description": column["description"],
        **words,
    }


# Words of a column that is gone stay: older predictions still name it.
_KEEP = """
insert into ops.feature_words as kept (feature_view, feature, label, unit, description)
values (%(feature_view)s, %(feature)s, %(label)s, %(unit)s, %(description)s)
on conflict (feature_view, feature) do update
set label = excluded.label, unit = excluded.unit, description = excluded.description
where (kept.label, kept.unit, kept.description)
    is distinct from (excluded.label, excluded.unit, excluded.description)
"""
