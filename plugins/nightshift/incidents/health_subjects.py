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
    types = [subject_type for subject_type, _ in subjects]
    names = [name for _, name in subjects]
    context.conn.execute(_KEEP, {"types": types, "names": names, "owners": list(subjects.values())})


# In one statement, which writes nothing as long as no spec and no contract comes, goes or changes.
_KEEP = """
with known as (
    select * from unnest(%(types)s::text[], %(names)s::text[], %(owners)s::text[])
        as known (subject_type, subject, owner)
), gone as (
    delete from ops.health_subjects s
    where not exists (
        select from known
        where (known.subject_type, known.subject) = (s.subject_type, s.subject))
)
insert into ops.health_subjects as kept (subject_type, subject, owner)
select subject_type, subject, owner from known
on conflict (subject_type, subject) do update
    set owner = excluded.owner, seen_at = clock_timestamp()
    where kept.owner <> excluded.owner
"""
