"""Emit lost asset events again: upstream is published, but the downstream run was never created.

Airflow loses events: for a paused DAG, of two events at one moment, of a producer that died between
its commit and its report. The warehouse holds the truth, and events only speed things up. So this
task compares what is published upstream and downstream.
Source: docs/adr/0012-tasks-tell-the-truth.md.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.contracts.datasets import daily_contracts, read_contracts
from nightshift.contracts.model_spec import load_spec, read_specs
from nightshift.contracts.partitions import Partition
from nightshift.orchestration.task_scope import ended_when_overdue
from nightshift.settings import load_settings
from nightshift.warehouse.analysts.sessions import end_hindering_sessions
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

DAG_ID = "catch_up"
# Time after a publication, after the last attempt downstream, or after a run's last sign of life,
# in which nothing is wrong yet; also the time between two reruns of one partition.
PATIENCE = dt.timedelta(minutes=20)
# Maximum age of a publication or a run; older ones are left to a person.
HORIZON = dt.timedelta(days=7)
# Repeated events per asset and partition: what fails so often needs a person.
MAX_EMISSIONS = 3


@dataclass(frozen=True)
class Link:
    """Two adjacent stages of the pipeline.

    Attributes:
        upstream: Datasets that must all be published; each is also the name of an asset.
        downstream: Dataset that must follow.
    """

    upstream: tuple[str, ...]
    downstream: str


@task
def find_stranded() -> dict[str, list[str]]:
    """Return the partition keys to emit again, by asset.

    Raises:
        AirflowSkipException: Nothing is stranded; all later tasks are skipped too.
    """
    context = get_current_context()
    settings = load_settings()
    with (
        ended_when_overdue(context["task"].execution_timeout),
        connect(settings, f"nightshift {DAG_ID}") as conn,
    ):
        end_hindering_sessions(conn)
        stranded = _stranded_by_asset(settings, conn)
    due: dict[str, list[str]] = {}
    for name, keys in stranded.items():
        allowed = sorted(key for key in keys if _may_emit_again(context, name, key))
        if allowed:
            due[name] = allowed
    if not due:
        raise AirflowSkipException("Nothing is stranded.")
    return due


@task
def emit_again(names: Iterable[str], stranded: dict[str, list[str]]) -> list[str]:
    """Emit one event per stranded partition of the named assets; return what was emitted.

    Raises:
        AirflowSkipException: None of the assets has a stranded partition; nothing is emitted.
    """
    keys_by_name = {name: stranded[name] for name in names if name in stranded}
    if not keys_by_name:
        raise AirflowSkipException("None of these assets is stranded.")
    events = get_current_context()["outlet_events"]
    emitted: list[str] = []
    for name, keys in keys_by_name.items():
        events[Asset(name)].add_partitions(keys)
        emitted += [f"{name} {key}" for key in keys]
    return emitted


def _stranded_by_asset(settings: Settings, conn: Connection) -> dict[str, set[str]]:
    stranded: dict[str, set[str]] = defaultdict(set)
    for link in asset_chain(settings):
        keys = {partition.key for partition in stranded_partitions(conn, link)}
        for dataset in link.upstream:
            stranded[dataset] |= keys
    for model in read_specs(settings.models_dir).documents:
        partition = untrained_partition(settings, conn, model)
        if partition is not None:
            stranded[f"retrain/{model}"].add(partition.key)
    return stranded


def _may_emit_again(context: Any, name: str, key: str) -> bool:  # noqa: ANN401 - Airflow's context
    """Return whether this DAG emitted the partition neither recently nor too often."""
    now = dt.datetime.now(dt.UTC)
    events = context["inlet_events"][Asset(name)].after((now - HORIZON).isoformat())
    earlier = [
        event.timestamp
        for event in events
        if event.source_dag_id == DAG_ID and event.partition_key == key
    ]
    return len(earlier) < MAX_EMISSIONS and all(at < now - PATIENCE for at in earlier)


def asset_chain(settings: Settings) -> list[Link]:
    """Return the links from raw data to monitoring; training has a schedule of its own."""
    contracts = read_contracts(settings.datasets_dir).documents.values()
    specs = read_specs(settings.models_dir).documents.values()
    daily = [contract.dataset for contract in daily_contracts(contracts)]
    raw = tuple(sorted(daily))
    chain = [Link(raw, view) for view in sorted({spec.features_dataset for spec in specs})]
    for spec in specs:
        chain.append(Link((spec.features_dataset,), spec.predictions_dataset))
        chain.append(Link((spec.predictions_dataset,), f"monitoring/{spec.name}"))
    return chain


def stranded_partitions(conn: Connection, link: Link) -> list[Partition]:
    """Return partitions published upstream of a link but not downstream, oldest first.

    Partitions that only a person has loaded, in a range, do not count: a history need not be
    scored. A rescue's publication does not count as downstream: it replaces the run until the
    deadline, and does not complete it.
    """
    rows = conn.execute(
        _STRANDED,
        {
            "upstream": list(link.upstream),
            "n_upstream": len(link.upstream),
            "downstream": link.downstream,
            "patience": PATIENCE,
            "horizon": HORIZON,
        },
    )
    days = [day for (day,) in rows]
    row = conn.execute(
        "select min(partition_date) from ops.published where dataset = %s", [link.downstream]
    ).fetchone()
    # Of a downstream dataset that has no partition yet, such as a new view, only the newest one is
    # due: older ones are a history that a person may build, and would delay the current run.
    first = row[0] if row and row[0] else max(days, default=dt.date.max)
    return [Partition(day) for day in days if day >= first]


# Both queries compare records of loads and read no rows, so they do without `join_published`.
_STRANDED = """
select p.partition_date
from ops.published p
join ops.loads l using (dataset, partition_date, load_id)
where p.dataset = any(%(upstream)s)
    and p.published_at > clock_timestamp() - %(horizon)s::interval
    and exists (
        select from ops.loads a
        where a.dataset = p.dataset and a.partition_date = p.partition_date and a.actor = 'airflow')
    and not exists (
        select from ops.published d
        join ops.loads by using (dataset, partition_date, load_id)
        where d.dataset = %(downstream)s and d.partition_date = p.partition_date
            and not starts_with(by.run_id, 'rescue__'))
    and not exists (
        select from ops.loads d
        where d.dataset = %(downstream)s and d.partition_date = p.partition_date
            and d.started_at > clock_timestamp() - %(patience)s::interval)
group by p.partition_date
having count(*) = %(n_upstream)s
    and max(p.published_at) < clock_timestamp() - %(patience)s::interval
order by p.partition_date
"""


def untrained_partition(settings: Settings, conn: Connection, model: str) -> Partition | None:
    """Return the newest partition if its training is due, or a retrain request is overdue."""
    from nightshift.training.schedule import is_due

    spec = load_spec(settings.models_dir, model)
    row = conn.execute(
        _NEWEST,
        {
            "dataset": spec.features_dataset,
            "model": model,
            "patience": PATIENCE,
            "horizon": HORIZON,
        },
    ).fetchone()
    if row is None:
        return None
    day, has_training_set, has_overdue_request = row
    partition = Partition(day)
    if has_overdue_request:
        return partition
    is_untrained = not has_training_set and is_due(settings, spec, partition)
    return partition if is_untrained else None


_NEWEST = """
select p.partition_date,
    exists (
        select from ml.training_sets t
        where t.model = %(model)s and t.partition_date = p.partition_date),
    exists (
        select from monitoring.retrain_decisions r
        where r.model = %(model)s and r.state = 'open' and r.partition_date <= p.partition_date
            and r.opened_at < clock_timestamp() - %(patience)s::interval)
from ops.published p
join ops.loads l using (dataset, partition_date, load_id)
where p.dataset = %(dataset)s and l.actor = 'airflow'
    and p.published_at between clock_timestamp() - %(horizon)s::interval
        and clock_timestamp() - %(patience)s::interval
order by p.partition_date desc limit 1
"""
