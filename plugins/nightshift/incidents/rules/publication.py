"""Rules about partitions that readers should have: late ones, holes, stranded ones, lost views."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.incidents.context import deadline_of, describe_days, local_time
from nightshift.incidents.facts import Fact
from nightshift.monitoring.freshness import LOOK_BACK_DAYS
from nightshift.warehouse.analysts.missing_views import ViewsMissingError, missing_views_error
from nightshift.warehouse.ledger import lookback_days
from nightshift.warehouse.published import newest_published_day
from nightshift.warehouse.relations.schema_views import missing_schema_views
from nightshift.warehouse.relations.view_contracts import current_suffixes

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.incidents.context import EvaluationContext

# A rescue takes some minutes; after them the partition should be there.
RESCUE_MINUTES = dt.timedelta(minutes=15)
# Upstream may deliver a day after the next one; a hole is a hole after this time.
HOLE_PATIENCE = dt.timedelta(minutes=30)
# Time for the next stage, and for catch_up to emit its event again (twenty minutes).
STRANDED_PATIENCE = dt.timedelta(minutes=45)
# Views of all models together, which dbt makes.
SHARED_VIEWS = ("analytics.health", "analytics.data_dictionary")
MAX_SHOWN_VIEWS = 5
STRANDED_HORIZON = dt.timedelta(days=7)


def late_predictions(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models whose predictions should be there by now.

    A model is late for its due day and for each missing day of the week before, like in
    ``nightshift check-freshness``.
    """
    # Between the rescue and the deadline there is time to act; it grows worse then.
    due = {
        spec.name: spec.last_to_rescue(context.at - RESCUE_MINUTES)
        for spec in context.specs.values()
    }
    missing = _missing_predictions(context, due)
    for model, days in missing.items():
        spec = context.specs[model]
        if context.is_expected(spec.predictions_dataset, due[model]):
            yield _late(context, spec, tuple(days))


def _missing_predictions(
    context: EvaluationContext, due: dict[str, Partition]
) -> dict[str, list[dt.date]]:
    """Return the unpublished days of each model up to its due day, in one query.

    A model that has never published is awaited from the first night of its first champion.
    """
    rows = context.conn.execute(
        """
        select m.model, day::date
        from unnest(%(models)s::text[], %(due)s::date[]) as m (model, due)
        cross join lateral
            generate_series(m.due - %(n_days)s::int, m.due::timestamp, interval '1 day') day
        cross join lateral (
            select
                (select min(partition_date) from ops.published p
                where p.dataset = 'predictions/' || m.model) as first_day,
                coalesce((
                    select min(effective_partition) from ml.succession s where s.model = m.model
                ), '-infinity') as champion_from
        ) history
        where not exists (
            select from ops.published p
            where p.dataset = 'predictions/' || m.model and p.partition_date = day::date)
            and (day::date > history.first_day
                or history.first_day is null and day::date = m.due
                and m.due >= history.champion_from)
        order by 1, 2
        """,
        {
            "models": list(due),
            "due": [partition.day for partition in due.values()],
            "n_days": LOOK_BACK_DAYS,
        },
    )
    missing: dict[str, list[dt.date]] = defaultdict(list)
    for model, day in rows:
        missing[model].append(day)
    return missing


def _late(context: EvaluationContext, spec: ModelSpec, missing: tuple[dt.date, ...]) -> Fact:
    """Return the fact about a model that is late, before or after its deadline.

    Args:
        context: The evaluation.
        spec: The model.
        missing: The unpublished days, in order; at least one.
    """
    # The newest day decides how urgent it is: the deadlines of the days before are over.
    last = Partition(missing[-1])
    deadline = spec.deadline_of(last)
    is_over = deadline <= context.at
    lead = dt.timedelta(minutes=spec.scoring.rescue_minutes_before_deadline)
    # Readers keep it whatever happens: nothing is ever published partially.
    newest = newest_published_day(context.conn, spec.predictions_dataset)
    passed = f"the deadline {'was' if is_over else 'is'} {local_time(deadline)}"
    readers = f"readers keep {newest}" if newest else "readers have nothing"
    return Fact(
        code="NS-FRESH-001",
        severity="critical" if is_over else "warning",
        health="degraded",
        subject_type="model",
        subject=spec.name,
        what=f"{spec.name} of {describe_days(missing)} is not published; {passed}.",
        consequence=f"{readers.capitalize()} until somebody publishes it."
        if is_over
        else f"At {local_time(deadline)} the promise is broken; {readers}.",
        command=f"nightshift rescue {spec.name} --night {last}",
        partitions=missing,
        owner=spec.owner,
        deadline_at=None if is_over else deadline,
        tables=(spec.predictions_dataset,),
        models=(spec.name,),
        # The week before the due day then begins after it.
        seen_until=spec.deadline_of(last.shift(LOOK_BACK_DAYS + 1)) - lead + RESCUE_MINUTES,
        facts={"newest": newest, "deadline": deadline, "runbook_of_the_model": spec.runbook},
    )


def _is_published(context: EvaluationContext, dataset: str, day: dt.date) -> bool:
    """Return whether readers have a version of a day."""
    query = "select exists (select from ops.published where dataset = %s and partition_date = %s)"
    return context.conn.execute(query, [dataset, day]).fetchone() == (True,)


def missing_drops(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the daily datasets with days that upstream has not delivered.

    These are days between two published ones within the look-back, and the due day of a dataset
    that nights publish. A load that failed has reported its own error.
    """
    for contract in context.daily_contracts:
        missing = _holes(context, contract)
        due = _due_day(context, contract)
        if due is not None and due not in missing:
            missing.append(due)
        reported = _failed_loads(context, contract)
        missing = [day for day in missing if day not in reported]
        if missing:
            yield _missing_drop(context, contract, tuple(missing))


def _holes(context: EvaluationContext, contract: DatasetContract) -> list[dt.date]:
    """Return the missing days between published ones, within the look-back of the newest day."""
    # Days before the first published one are a history that nobody has loaded.
    newest = newest_published_day(context.conn, contract.dataset)
    if newest is None:
        return []
    rows = context.conn.execute(
        """
        with seen as (
            select partition_date, published_at from ops.published where dataset = %(dataset)s
        )
        select day::date
        from generate_series(%(first)s::timestamp, %(newest)s, interval '1 day') day
        where day::date not in (select partition_date from seen)
            and day::date > (select min(partition_date) from seen)
            and (
                select min(published_at) from seen where partition_date > day::date
            ) < clock_timestamp() - %(patience)s::interval
        order by 1
        """,
        {
            "dataset": contract.dataset,
            "first": newest - dt.timedelta(days=lookback_days()),
            "newest": newest,
            "patience": HOLE_PATIENCE,
        },
    )
    return [day for (day,) in rows if day >= contract.history_start]


def _due_day(context: EvaluationContext, contract: DatasetContract) -> dt.date | None:
    """Return the newest day whose maximum wait is over, if it should be there and is not."""
    # Until then a run waits for the file.
    # Only nights have a due day: a replayed history gets its days whenever it likes.
    wait = dt.timedelta(minutes=contract.maximum_wait_minutes)
    due = Partition(context.at.date())
    while due.cutoff + wait > context.at:
        due = due.shift(-1)
    if contract.dataset not in context.nightly_datasets or due.day < contract.history_start:
        return None
    return None if _is_published(context, contract.dataset, due.day) else due.day


def _failed_loads(context: EvaluationContext, contract: DatasetContract) -> set[dt.date]:
    """Return the days of which a load has failed for good lately."""
    # Its own code says more than that the day is missing.
    query = """
        select distinct partition_date from ops.task_tries
        where dag_id = 'ingest' and task_id = %s and is_final
            and started_at > clock_timestamp() - interval '7 days'
    """
    rows = context.conn.execute(query, [f"load_{contract.name}"])
    return {day for (day,) in rows}


def _missing_drop(
    context: EvaluationContext, contract: DatasetContract, missing: tuple[dt.date, ...]
) -> Fact:
    """Return the fact about days of a dataset that upstream owes, with what waits for them."""
    # What reads the dataset waits with it.
    _, models, _ = context.touched((contract.dataset,), ())
    deadline = deadline_of(context, models, missing[-1])
    names = ", ".join(models) or "no model"
    consequence = f"No features of {missing[-1]} are built; {names} get the last scores or the rule"
    at = f" at {local_time(deadline)}" if deadline else ""
    return Fact(
        code="NS-INGEST-001",
        severity="warning",
        health="degraded",
        subject_type="table",
        subject=contract.dataset,
        what=f"{contract.dataset} of {describe_days(missing)} is missing.",
        consequence=f"{consequence}{at}.",
        command=f"nightshift deliver {contract.name} {missing[-1]} <file>",
        partitions=missing,
        deadline_at=deadline,
        tables=(contract.dataset,),
    )


def stranded_partitions(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the stages that have not begun although the stage before them has published."""
    # The DAG before is run again: its equal content emits its event once more.
    for dataset, dag_before, upstream in _stages(context):
        rows = context.conn.execute(
            _STRANDED,
            {
                "upstream": upstream,
                "downstream": dataset,
                "patience": STRANDED_PATIENCE,
                "horizon": STRANDED_HORIZON,
            },
        )
        published: dict[dt.date, dt.datetime] = dict(rows.fetchall())
        days = tuple(published)
        if days:
            yield Fact(
                code="NS-INCIDENT-003",
                severity="warning",
                health="degraded",
                subject_type="table",
                subject=dataset,
                what=f"{dataset} of {describe_days(days)} has not begun although"
                f" {', '.join(upstream)} is published.",
                consequence="catch_up emits a lost event three times; then nothing begins by"
                " itself.",
                command=f"nightshift airflow dags clear {dag_before} --partition-key {days[-1]}"
                " --yes",
                partitions=days,
                tables=(dataset,),
                seen_until=max(published.values()) + STRANDED_HORIZON,
            )


def _stages(context: EvaluationContext) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each dataset with the DAG whose event starts its own, and what must be published.

    Monitoring is left out: it can wait for the morning, and catch_up looks after it.
    """
    raw = [contract.dataset for contract in context.daily_contracts]
    for view, models in context.models_of_view.items():
        yield view, "ingest", raw
        for model in models:
            yield f"predictions/{model}", "transform", [view]


# Only days that Airflow has published upstream: a history that a person loads need not be scored.
# Days before the first one downstream are a history too. A stage that has begun reports its error.
_STRANDED = """
select p.partition_date, min(p.published_at)
from ops.published p
join ops.loads l using (dataset, partition_date, load_id)
where p.dataset = any(%(upstream)s)
    and p.published_at > clock_timestamp() - %(horizon)s::interval
    and p.partition_date >= (
        select min(partition_date) from ops.published where dataset = %(downstream)s)
    and not exists (
        select from ops.published d
        where d.dataset = %(downstream)s and d.partition_date = p.partition_date)
    and not exists (
        select from ops.loads d
        where d.dataset = %(downstream)s and d.partition_date = p.partition_date
            and d.started_at > p.published_at)
group by p.partition_date
having count(*) = cardinality(%(upstream)s)
    and max(p.published_at) < clock_timestamp() - %(patience)s::interval
    and bool_or(l.actor = 'airflow')
order by p.partition_date
"""


def missing_views(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models whose views for analysts do not exist, and the warehouse's own views."""
    own = missing_schema_views(context.conn)
    own += [name for (name,) in context.conn.execute(_MISSING_SHARED, [list(SHARED_VIEWS)])]
    if own:
        yield _missing_own_views(context, own)
    # A view that was dropped fails no task: only its readers notice. The catalog is asked once; a
    # model that has all of its views needs no closer look.
    rows = context.conn.execute(
        "select viewname from pg_views where schemaname = 'analytics' order by 1"
    )
    existing = {name for (name,) in rows}
    for spec in context.specs.values():
        needed = {f"{spec.name}_{suffix}" for suffix in current_suffixes(spec)}
        if needed <= existing:
            continue
        error = missing_views_error(context.conn, spec)
        if error is not None:
            yield Fact(
                code=error.code,
                severity="critical",
                health="degraded",
                subject_type="model",
                subject=spec.name,
                what=error.what,
                consequence="Queries of analysts fail until the next scoring makes the views.",
                command="nightshift migrate",
                owner=spec.owner,
                tables=(spec.predictions_dataset,),
                models=(spec.name,),
            )


# A warehouse of which `migrate` was never run has no reader, and no view of dbt's.
_MISSING_SHARED = """
select name from unnest(%s::text[]) name
where to_regclass(name) is null and exists (select from ops.reader_roles)
"""


def _missing_own_views(context: EvaluationContext, names: list[str]) -> Fact:
    """Return the fact about views that stages, rules and all analysts read; at least one."""
    return Fact(
        code=ViewsMissingError.code,
        severity="critical",
        health="degraded",
        subject_type="service",
        subject="warehouse",
        what=f"Views of the warehouse do not exist: {', '.join(names[:MAX_SHOWN_VIEWS])}.",
        consequence="What reads them fails: stages, rules of incidents, queries of analysts.",
        command="nightshift migrate",
        models=tuple(context.specs),
        size=len(names),
        facts={"views": names},
    )
