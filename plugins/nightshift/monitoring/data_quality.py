"""Quality of what a verdict reads: damaged rows stop it, other problems block a retrain request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.datasets import daily_contracts, read_contracts
from nightshift.scoring.prediction_tables import predictions_target
from nightshift.training.feature_query import features_target
from nightshift.warehouse.damage import published_records, refuse_damaged

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.warehouse.connection import Connection


def intact_contents(
    conn: Connection, spec: ModelSpec, partitions: PartitionRange
) -> dict[str, str]:
    """Return the content hashes of the published features, predictions and labels.

    Raises:
        DamagedInputError: Published features or predictions are not what was published.
    """
    targets = (features_target(spec), predictions_target(spec))
    records = {}
    for target in targets:
        records[target.dataset] = published_records(conn, target.dataset, partitions.days)
        # A verdict about damaged rows would be recorded as if it were about the published ones.
        refuse_damaged(conn, target, records[target.dataset])
    labels = f"marts/{spec.label.relation}"
    records[labels] = published_records(conn, labels, partitions.days)

    contents = {}
    for dataset, loads in records.items():
        for load in loads:
            contents[f"{dataset} {load.partition_date}"] = load.content_hash
    return contents


def data_quality_problems(
    conn: Connection, spec: ModelSpec, partitions: PartitionRange, datasets_dir: Path
) -> list[str]:
    """Return what was refused or missing, and not repaired, when the last partition was monitored.

    Args:
        conn: Any connection.
        spec: The model: its features, predictions and labels count, and the raw data behind the
            features.
        partitions: From the evaluated partition to the monitored one.
        datasets_dir: Contracts, which tell what is delivered daily.
    """
    contracts = read_contracts(datasets_dir).documents.values()
    daily = [contract.dataset for contract in daily_contracts(contracts)]
    labels = f"marts/{spec.label.relation}"
    parameters = {
        "verdicts": f"monitoring/{spec.name}",
        "features": spec.features_dataset,
        "daily": daily,
        "own": [spec.features_dataset, spec.predictions_dataset, labels],
        "first": partitions.first.day,
        "last": partitions.last.day,
    }
    return [problem for (problem,) in conn.execute(_PROBLEMS, parameters)]


# The ledger is read, not rows that readers see: refused loads count, and repairs of them.
# Everything is read as of the first attempt to publish the partition's verdict (`look`), so that a
# rerun sees the same. A later repair counts for later partitions.
_PROBLEMS = """
with look as (
    select coalesce(min(started_at), clock_timestamp()) as at from ops.loads
    where dataset = %(verdicts)s and partition_date = %(last)s
), sources as (
    select d.dataset from unnest(%(daily)s::text[]) d (dataset)
    where exists (
        select from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.dataset = %(features)s and p.partition_date = %(last)s and l.inputs ? d.dataset
    )
), good as (
    select l.dataset, l.partition_date, l.load_id, l.started_at from ops.loads l, look
    where l.partition_date between %(first)s and %(last)s
        and l.state in ('published', 'duplicate') and l.started_at <= look.at
)
select l.dataset || ' of ' || l.partition_date || ' was refused by its gate' as problem
from ops.loads l, look
where (l.dataset = any(%(own)s) or l.dataset in (select dataset from sources))
    and l.partition_date between %(first)s and %(last)s
    and l.state = 'refused' and l.started_at <= look.at
    and not exists (
        select from good g
        where g.dataset = l.dataset and g.partition_date = l.partition_date
            and g.load_id > l.load_id
    )
union
select d.dataset || ' of ' || d.partition_date || ' has a refused file (' || d.code || ')'
from quarantine.refused_drops d, look
where d.dataset in (select dataset from sources)
    and d.partition_date between %(first)s and %(last)s and d.quarantined_at <= look.at
    and not exists (
        select from good g
        where g.dataset = d.dataset and g.partition_date = d.partition_date
            and g.started_at > d.quarantined_at
    )
union
select s.dataset || ' of ' || day::date || ' is missing'
from sources s, generate_series(%(first)s::date, %(last)s::date, interval '1 day') day
where not exists (
    select from good g where g.dataset = s.dataset and g.partition_date = day::date
)
order by problem
"""
