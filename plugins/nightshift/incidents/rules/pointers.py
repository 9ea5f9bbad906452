"""Rules about records that name what readers see: a partition's pointer, a champion's decision."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.incidents.context import describe_days
from nightshift.incidents.facts import Fact
from nightshift.scoring.prediction_tables import model_query
from nightshift.warehouse.damage import DamagedInputError

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.incidents.context import EvaluationContext

# What was published in this time is looked at.
HORIZON = dt.timedelta(days=28)


def lost_pointers(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the datasets with partitions that were published and that no pointer names any more.

    The write path moves pointers and never deletes one: a person or a partial restore has.
    """
    rows = context.conn.execute(_LOST_POINTERS, [HORIZON])
    for dataset, days in rows:
        layer, _, name = dataset.partition("/")
        command = f"nightshift backfill {days[0]} {days[-1]}"
        if layer == "predictions":
            command = f"nightshift score {name} {days[-1]}"
        yield Fact(
            code=DamagedInputError.code,
            severity="critical",
            health="degraded",
            subject_type="table",
            subject=dataset,
            what=f"Readers of {dataset} do not see {describe_days(tuple(days))} any more: the row"
            " of ops.published is gone.",
            consequence="Readers lack these days now; stages that need them fail.",
            command=command,
            partitions=tuple(days),
            owner=context.owner_of(name) if layer == "predictions" else "",
            tables=(dataset,),
        )


_LOST_POINTERS = """
select l.dataset, array_agg(distinct l.partition_date order by l.partition_date)
from ops.loads l
where l.state = 'published' and l.published_at > clock_timestamp() - %s::interval
    and split_part(l.dataset, '/', 1) in ('raw', 'features', 'predictions')
    and not exists (
        select from ops.published p
        where (p.dataset, p.partition_date) = (l.dataset, l.partition_date))
group by l.dataset
order by l.dataset
"""


def lost_champions(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models whose newest scores name a champion that no decision made one.

    Decisions are append-only: whoever deletes one has switched the guard of the table off.
    """
    for spec in context.specs.values():
        version = _newest_scoring_version(context, spec)
        if version is None:
            continue
        row = context.conn.execute(_DECIDED, [spec.name, version]).fetchone()
        if row is None or row[1]:
            continue
        day = row[0]
        yield Fact(
            code="NS-REGISTRY-006",
            severity="warning",
            health="degraded",
            subject_type="model",
            subject=spec.name,
            what=f"The decision that made version {version} champion of {spec.name} is gone from"
            " ml.promotions; a backup has it.",
            consequence="The next night is scored by the champion before it, else by the last"
            " scores or the rule.",
            command=f"nightshift train {spec.name} {day}",
            owner=spec.owner,
            models=(spec.name,),
            size=1,
            facts={"version": version},
        )


def _newest_scoring_version(context: EvaluationContext, spec: ModelSpec) -> int | None:
    """Return the version whose scores readers see of the newest day; None without a model."""
    table = model_query(spec, "{predictions}").as_string()
    if context.conn.execute("select to_regclass(%s)", [table]).fetchone() == (None,):
        return None
    query = model_query(spec, _NEWEST_VERSION)
    row = context.conn.execute(query, [spec.predictions_dataset]).fetchone()
    version: int | None = row[0] if row else None
    return version


# One row tells: a canary's rows stand next to those of a champion.
_NEWEST_VERSION = """
select t.model_version
from (
    select partition_date, load_id from ops.published
    where dataset = %s order by partition_date desc limit 1
) newest
join {predictions} t using (partition_date, load_id)
where t.score_source = 'champion'
limit 1
"""
# A decision that only refused it made it no champion.
_DECIDED = """
select v.partition_date,
    exists (
        select from ml.promotions p
        where (p.model, p.version) = (v.model, v.version)
            and p.verdict in ('first', 'promoted', 'refreshed', 'rolled_back'))
from ml.model_versions v where v.model = %s and v.version = %s
"""
