"""Rules about what upstream delivered: refused files, and rows that wait in quarantine."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.incidents.context import deadline_of, describe_days, local_time
from nightshift.incidents.facts import Fact, Findings, Unchecked
from nightshift.ingestion.late_arrivals import find_late_drops
from nightshift.lake.drops import MANIFEST_SUFFIX, manifest_key
from nightshift.warehouse.ledger import lookback_days

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.incidents.context import EvaluationContext
    from nightshift.lake.drops import DropManifest
    from nightshift.lake.object_store import ObjectStore

# A manifest often arrives before its file; both are there after this time.
ABSENT_FILE_PATIENCE = dt.timedelta(minutes=60)
ABSENT_FILE = "NS-INGEST-003"
HORIZON = dt.timedelta(days=28)
# A person who delivers an old day mostly loads it next.
LATE_PATIENCE = dt.timedelta(minutes=30)
MAX_LATE_DAYS = 5
# A person looks at refused rows within a week.
QUARANTINE_PATIENCE = dt.timedelta(days=7)


def refused_drops(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the datasets with refused files that no newer version and no person has settled.

    A manifest without its file is left alone for an hour: the file mostly follows.
    """
    # One incident for a dataset and a cause: ten files of one wrong export are one fault.
    refused: dict[tuple[str, str], list[tuple[dt.date, str]]] = defaultdict(list)
    newest: dict[tuple[str, str], dt.datetime] = {}
    for dataset, code, day, uri, at in open_refusals(context):
        refused[dataset, code].append((day, uri))
        newest[dataset, code] = max(at, newest.get((dataset, code), at))
    for (dataset, code), files in refused.items():
        fact = _refused(context, dataset, code, files)
        yield replace(fact, seen_until=newest[dataset, code] + HORIZON)


def open_refusals(
    context: EvaluationContext,
) -> list[tuple[str, str, dt.date, str, dt.datetime]]:
    """Return the refused files that are not settled: dataset, code, day, address, refused when."""
    values = {"horizon": HORIZON, "absent": ABSENT_FILE, "patience": ABSENT_FILE_PATIENCE}
    return context.conn.execute(_REFUSED, values).fetchall()


# A file is settled when a version that was delivered later, or the same file, is published; or when
# a person has withdrawn it or set its manifest aside. A task that publishes an older good file and
# then fails for the refused one has settled nothing.
_REFUSED = """
select r.dataset, r.code, r.partition_date, r.source_uri, r.quarantined_at
from quarantine.refused_drops r
where r.quarantined_at > clock_timestamp() - %(horizon)s::interval
    and (r.code <> %(absent)s or r.quarantined_at < clock_timestamp() - %(patience)s::interval)
    and not exists (
        select from ops.loads l
        where l.dataset = r.dataset and l.partition_date = r.partition_date
            and l.state in ('published', 'duplicate')
            and (
                l.known_at >= r.known_at
                or l.published_at > r.quarantined_at
                and not exists (
                    select from ops.task_tries t
                    where t.dag_id = 'ingest' and 'raw/' || substr(t.task_id, 6) = r.dataset
                        and t.partition_date = r.partition_date and t.outcome = r.code
                        and t.ended_at > l.published_at)))
    and not exists (
        select from ops.drop_decisions d
        where d.dataset = r.dataset and d.partition_date = r.partition_date
            and right(r.source_uri, length(d.object_key)) = d.object_key)
order by r.dataset, r.partition_date, r.quarantined_at
"""


def _refused(
    context: EvaluationContext, dataset: str, code: str, files: list[tuple[dt.date, str]]
) -> Fact:
    """Return the fact about the files of a dataset that were refused for one reason.

    Args:
        context: The evaluation.
        dataset: Name in the ledger.
        code: Error code of the refusal.
        files: Day and address of each file, by day.
    """
    # The newest file is the one to act on; all of them are in the facts.
    days = tuple(sorted({day for day, _ in files}))
    day, uri = files[-1]
    has_none = _unpublished(context, dataset, days)
    _, models, _ = context.touched((dataset,), ())
    deadline = deadline_of(context, models, day)
    at = f" at {local_time(deadline)}" if deadline else ""
    # A file that only corrects a published day keeps nobody waiting.
    consequence = "Readers keep the version before it; the correction stays out."
    if has_none:
        consequence = f"No features of {has_none[-1]} are built; {', '.join(models)} get the last"
        consequence += f" scores or the rule{at}."
    return Fact(
        code=code,
        severity="warning" if has_none else "info",
        health="degraded" if has_none else "caution",
        subject_type="table",
        subject=dataset,
        what=f"{len(files)} file(s) of {dataset} of {describe_days(days)} were refused; upstream"
        " has to deliver a good one first.",
        consequence=consequence,
        command=_command(code, day, uri),
        key=f"{dataset} {code}",
        partitions=days,
        deadline_at=deadline if has_none else None,
        tables=(dataset,) if has_none else (),
        size=len(files),
        facts={"files": [uri for _, uri in files[-10:]]},
    )


def _unpublished(
    context: EvaluationContext, dataset: str, days: tuple[dt.date, ...]
) -> list[dt.date]:
    """Return the days of which readers have no version at all."""
    # These keep features from being built; a refused correction does not.
    rows = context.conn.execute(
        "select partition_date from ops.published where dataset = %s and partition_date = any(%s)",
        [dataset, list(days)],
    )
    published = {day for (day,) in rows}
    return [day for day in days if day not in published]


def _command(code: str, day: dt.date, uri: str) -> str:
    """Return the safe command, which loads again or sets aside and never changes a file."""
    if code == "NS-LAKE-010":
        # The key of a manifest, without the bucket.
        key = uri.partition("://")[2].partition("/")[2]
        return f'nightshift drop set-aside {key} --reason "<why>"'
    # Upstream delivers a good file first; then the load runs again.
    return f"nightshift airflow dags clear ingest --partition-key {day} --only-failed --yes"


def late_drops(context: EvaluationContext) -> Findings:
    """Yield the datasets with files that landed for a day that no run looks at any more.

    A run loads what came late for its look-back. An older day waits until a person decides.
    """
    store = context.store
    for contract in context.daily_contracts:
        try:
            late = _late_drops(context, store, contract)
        except NightshiftError:
            # `object_store` reports a store that does not answer.
            yield Unchecked(contract.dataset)
            continue
        if late:
            yield _late(contract, late)


def _late_drops(
    context: EvaluationContext, store: ObjectStore, contract: DatasetContract
) -> list[DropManifest]:
    """Return the late drops of the days before the look-back of the newest one."""
    row = context.conn.execute(_SPAN, [contract.dataset]).fetchone()
    first, newest = row or (None, None)
    if newest is None:
        return []
    # Days before the first published one are a history that nobody has loaded.
    beyond = newest - dt.timedelta(days=lookback_days())
    rows = context.conn.execute(_KNOWN_FILES, {"dataset": contract.dataset})
    known = {manifest_key(uri.partition("://")[2].partition("/")[2]) for (uri,) in rows}
    days: set[dt.date] = set()
    for listed in store.list_objects(f"landing/{contract.name}/"):
        day = _day_of_manifest(listed.key)
        if day is None or not first <= day < beyond or listed.key in known:
            continue
        age = context.now - listed.received_at
        if LATE_PATIENCE <= age < HORIZON:
            days.add(day)
    # A listing costs a request for a thousand files; only the manifests of few days are read.
    late: list[DropManifest] = []
    for day in sorted(days)[-MAX_LATE_DAYS:]:
        partitions = PartitionRange.single(Partition(day))
        late += find_late_drops(context.conn, store, contract.name, partitions)
    return late


_SPAN = "select min(partition_date), max(partition_date) from ops.published where dataset = %s"
_KNOWN_FILES = """
select source_uri from raw.ingested_drops where dataset = %(dataset)s
union
select source_uri from quarantine.refused_drops where dataset = %(dataset)s
"""


def _day_of_manifest(key: str) -> dt.date | None:
    """Return the day of a manifest's key; None for another object."""
    folder, _, name = key.rpartition("/")
    if not name.endswith(MANIFEST_SUFFIX):
        return None
    try:
        return dt.date.fromisoformat(folder.rpartition("dt=")[2])
    except ValueError:
        return None


def _late(contract: DatasetContract, late: list[DropManifest]) -> Fact:
    days = tuple(sorted({drop.partition for drop in late}))
    return Fact(
        code="NS-INCIDENT-011",
        severity="info",
        health="caution",
        subject_type="table",
        subject=contract.dataset,
        what=f"{len(late)} late file(s) of {contract.dataset} of {describe_days(days)} stay out.",
        consequence="Readers keep what was known before; no run looks at a day that old.",
        command=f"nightshift redo --dataset {contract.name} --from {days[0]} --to {days[-1]}"
        ' --reason "<why>"',
        partitions=days,
        size=len(late),
        facts={"files": [drop.data_key for drop in late[-10:]]},
    )


def rows_in_quarantine(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the datasets whose refused rows nobody has looked at for long, or are too many.

    Some refused rows each night are ordinary: the contract says how many, and a person looks at
    them within a week.
    """
    rows = context.conn.execute(_QUARANTINE, {"horizon": HORIZON})
    for dataset, n_open, oldest, n_delivered, n_refused in rows:
        name = dataset.partition("/")[2]
        contract = context.contract_files.documents.get(name)
        # The share of all files of the last weeks, as the contract limits it for one file.
        # Without a contract no row may be refused.
        limit = contract.maximum_refused_ratio if contract else 0.0
        ratio = n_refused / n_delivered if n_delivered else 0.0
        is_old = oldest < context.now - QUARANTINE_PATIENCE
        # A single file over the limit is refused as a whole; many files may each stay under it.
        if is_old or ratio > limit > 0:
            yield Fact(
                code="NS-INCIDENT-004",
                severity="info",
                health="caution",
                subject_type="table",
                subject=dataset,
                what=f"{n_open} refused row(s) of {dataset} wait for a person since"
                f" {oldest:%Y-%m-%d}.",
                consequence="Readers do without these rows.",
                command=f"nightshift quarantine list {name}",
                size=n_open,
                facts={"rows": n_open, "refused_ratio": round(ratio, 6), "limit": limit},
            )


_QUARANTINE = """
select q.dataset, q.n_open, q.oldest, coalesce(d.n_delivered, 0), coalesce(d.n_refused, 0)
from (
    select dataset, count(*) as n_open, min(quarantined_at) as oldest
    from quarantine.refused_rows where state = 'open' group by dataset
) q
left join (
    select dataset, sum(n_delivered)::bigint as n_delivered, sum(n_refused)::bigint as n_refused
    from raw.ingested_drops
    where partition_date > current_date - %(horizon)s::interval
    group by dataset
) d using (dataset)
order by q.dataset
"""
