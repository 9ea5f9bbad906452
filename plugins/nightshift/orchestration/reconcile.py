"""Find what was published and woke nobody, and wake it: the night follows from what stands in the warehouse, events only hurry it.

Airflow loses wake-ups: of a paused DAG, of two events at one moment, of a producer that died
between its commit and its report. So this looks at the state: a partition whose upstream a night
has published some time ago and whose downstream nobody has published, and on which nobody works.
Source: docs/adr/0012-tasks-tell-the-truth.md.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.contracts.datasets import Delivery, read_contracts
from nightshift.contracts.model_spec import load_spec, read_specs
from nightshift.contracts.partitions import Partition
from nightshift.orchestration.task_scope import ended_when_overdue
from nightshift.settings import load_settings
from nightshift.warehouse.analyst_sessions import end_hindering_sessions
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

DAG_ID = "catch_up"
PATIENCE = dt.timedelta(minutes=20)
"""How long after a publication, or after the last attempt downstream, nothing is wrong yet."""
HORIZON = dt.timedelta(days=7)
"""Older publications are left to a person."""
MAX_EMISSIONS = 3
"""Times that one partition of one asset is announced again: what fails so often needs a person,
and has a red run.
"""


@dataclass(frozen=True)
class Link:
    """One joint of the night's chain.

    Attributes:
        upstream: Datasets that must all be published; each is the name of an asset too.
        downstream: Dataset that must follow.
    """

    upstream: tuple[str, ...]
    downstream: str


def asset_chain(settings: Settings) -> list[Link]:
    """Return the chain from raw data to monitoring, without training: that is due, not owed."""
    contracts = read_contracts(settings.datasets_dir).documents.values()
    specs = read_specs(settings.models_dir).documents.values()
    daily = tuple(
        sorted(contract.dataset for contract in contracts if contract.delivery is Delivery.DAILY)
    )
    chain = [Link(daily, view) for view in sorted({spec.features_dataset for spec in specs})]
    for spec in specs:
        chain.append(Link((spec.features_dataset,), spec.predictions_dataset))
        chain.append(Link((spec.predictions_dataset,), f"monitoring/{spec.name}"))
    return chain


def stranded_partitions(conn: Connection, link: Link) -> list[Partition]:
    """Return the partitions that a night has published upstream of a joint and that did not get past it, oldest first.

    Partitions that only a person has loaded, in a range, are none: nobody promised to score a
    history. What a rescue published before the deadline stands in for the rest of the night, it is
    not its end. Of a downstream that nobody has published yet, as of a new view, only the newest
    night counts: older ones would take the place of tonight's, and are a history that a person may
    build.
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
    began = conn.execute(
        "select min(partition_date) from ops.published where dataset = %s", [link.downstream]
    ).fetchone()
    first = (began and began[0]) or max(days, default=dt.date.max)
    return [Partition(day) for day in days if day >= first]


_STRANDED = """
select p.partition_date from ops.published p join ops.loads l using (dataset, partition_date, load_id)
where p.dataset = any(%(upstream)s) and p.published_at > clock_timestamp() - %(horizon)s::interval
    and exists (
        select from ops.loads a where a.dataset = p.dataset and a.partition_date = p.partition_date and a.actor = 'airflow')
    and not exists (
        select from ops.published d join ops.loads by using (dataset, partition_date, load_id)
        where d.dataset = %(downstream)s and d.partition_date = p.partition_date and not starts_with(by.run_id, 'rescue__'))
    and not exists (
        select from ops.loads d where d.dataset = %(downstream)s and d.partition_date = p.partition_date
        and d.started_at > clock_timestamp() - %(patience)s::interval)
group by p.partition_date
having count(*) = %(n_upstream)s and max(p.published_at) < clock_timestamp() - %(patience)s::interval
order by p.partition_date
"""


def untrained_partitions(settings: Settings, conn: Connection, model: str) -> list[Partition]:
    """Return the newest night's partition if its training is due and was not begun, or an order to retrain has been open for some time."""
    from nightshift.training.pipeline import is_due

    spec = load_spec(settings.models_dir, model)
    row = conn.execute(
        _NEWEST_NIGHT,
        {
            "dataset": spec.features_dataset,
            "model": model,
            "patience": PATIENCE,
            "horizon": HORIZON,
        },
    ).fetchone()
    if row is None:
        return []
    day, has_training_set, has_old_order = row
    partition = Partition(day)
    return (
        [partition]
        if has_old_order or (not has_training_set and is_due(settings, spec, partition))
        else []
    )


_NEWEST_NIGHT = """
select p.partition_date,
    exists (select from ml.training_sets t where t.model = %(model)s and t.partition_date = p.partition_date),
    exists (select from monitoring.retrain_decisions r where r.model = %(model)s and r.state = 'open'
        and r.partition_date <= p.partition_date and r.opened_at < clock_timestamp() - %(patience)s::interval)
from ops.published p join ops.loads l using (dataset, partition_date, load_id)
where p.dataset = %(dataset)s and l.actor = 'airflow'
    and p.published_at between clock_timestamp() - %(horizon)s::interval and clock_timestamp() - %(patience)s::interval
order by p.partition_date desc limit 1
"""


def find_stranded() -> dict[str, list[str]]:
    """Return the partition keys to announce again, by asset; with nothing to do the task is skipped, and all after it.

    Raises:
        AirflowSkipException: Nothing is stranded.
    """
    context, settings = get_current_context(), load_settings()
    wanted: dict[str, set[str]] = {}
    with (
        ended_when_overdue(context["task"].execution_timeout),
        connect(settings, f"nightshift {DAG_ID}") as conn,
    ):
        end_hindering_sessions(conn)
        for link in asset_chain(settings):
            for partition in stranded_partitions(conn, link):
                for dataset in link.upstream:
                    wanted.setdefault(dataset, set()).add(partition.key)
        for model in read_specs(settings.models_dir).documents:
            wanted.setdefault(f"retrain/{model}", set()).update(
                partition.key for partition in untrained_partitions(settings, conn, model)
            )
    due = {
        name: sorted(key for key in keys if _may_wake(context, name, key))
        for name, keys in wanted.items()
    }
    if not any(due.values()):
        raise AirflowSkipException("Nothing is stranded.")
    return {name: keys for name, keys in due.items() if keys}


def _may_wake(context: Any, name: str, key: str) -> bool:  # noqa: ANN401 - Airflow's context
    """Return whether this partition was announced again neither just now nor too often."""
    from airflow.sdk import Asset

    now = dt.datetime.now(dt.UTC)
    events = context["inlet_events"][Asset(name)].after((now - HORIZON).isoformat())
    earlier = [
        event.timestamp
        for event in events
        if event.source_dag_id == DAG_ID and event.partition_key == key
    ]
    return len(earlier) < MAX_EMISSIONS and all(at < now - PATIENCE for at in earlier)


def emit_again(names: Iterable[str], found: dict[str, list[str]]) -> list[str]:
    """Emit one event for each stranded partition of these assets; without one the task is skipped and emits nothing.

    Raises:
        AirflowSkipException: None of the assets has a stranded partition.
    """
    from airflow.sdk import Asset

    announced = {name: found[name] for name in names if name in found}
    if not announced:
        raise AirflowSkipException("Nothing of this is stranded.")
    events = get_current_context()["outlet_events"]
    for name, keys in announced.items():
        events[Asset(name)].add_partitions(keys)
    return [f"{name} {key}" for name, keys in announced.items() for key in keys]
