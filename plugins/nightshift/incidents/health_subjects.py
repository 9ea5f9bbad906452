"""Record the tables and models whose health is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext


def keep_subjects(context: EvaluationContext) -> None:
    """Record whose health is known: models and tables of the specs and contracts."""
    subjects = {("model", spec.name): spec.owner for spec in context.specs.values()}
    for spec in context.specs.values():
        subjects["table", spec.predictions_dataset] = spec.owner
        subjects["table", spec.features_dataset] = ""
    for contract in context.contract_files.documents.values():
        subjects["table", contract.dataset] = ""
    # One statement for all of them.
    types = [subject_type for subject_type, _ in subjects]
    names = [name for _, name in subjects]
    with context.conn.transaction():
        context.conn.execute(
            """
            insert into ops.health_subjects (subject_type, subject, owner)
            select * from unnest(%s::text[], %s::text[], %s::text[])
            on conflict (subject_type, subject)
            do update set owner = excluded.owner, seen_at = clock_timestamp()
            """,
            [types, names, list(subjects.values())],
        )
        context.conn.execute(
            """
            delete from ops.health_subjects s where not exists (
                select from unnest(%s::text[], %s::text[]) as known (subject_type, subject)
                where (known.subject_type, known.subject) = (s.subject_type, s.subject))
            """,
            [types, names],
        )
