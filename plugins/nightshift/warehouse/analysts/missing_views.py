"""Find views of a model's predictions that analysts read and that do not exist any more.

A dropped view fails no task: only its readers notice. Source: docs/runbooks/NS-WAREHOUSE-010.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.warehouse.connection import Connection


class ViewsMissingError(NightshiftError):
    """Views that analysts read do not exist."""

    code = "NS-WAREHOUSE-010"


def missing_views(conn: Connection, spec: ModelSpec) -> ViewsMissingError | None:
    """Return an error that names the missing views of a model; None if all are there."""
    values = {
        "model": spec.name,
        "label_relation": spec.label.relation,
        "label": spec.label.column,
    }
    views = [view for (view,) in conn.execute(_MISSING, values)]
    if not views:
        return None
    return ViewsMissingError(
        f"Views of {spec.name} that analysts read do not exist: {', '.join(views)}.",
        expected="the views that every scoring creates",
        todo="`nightshift migrate` creates them again, with their grants. No row was lost.",
    )


# A model without its table was never set up. The outcomes view needs the spec's label.
_MISSING = """
with label as (
    select count(*) > 0 as is_there from pg_attribute
    where attrelid = to_regclass(format('marts.%%I', %(label_relation)s::text))
        and attname = %(label)s and not attisdropped
), expected as (
    select format('analytics.%%I', %(model)s::text || '_' || suffix) as view
    from unnest(array['current', 'history', 'outcomes']) suffix, label
    where suffix <> 'outcomes' or label.is_there
)
select view from expected
where to_regclass(view) is null
    and to_regclass(format('predictions.%%I', %(model)s::text)) is not null
order by view
"""
