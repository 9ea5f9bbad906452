"""Rules about models: requests, old champions, blocked evidence, slow changes, the mirror."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.incidents.facts import Fact
from nightshift.registry.canary.decision import AGAINST_CANARY

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext

# A training takes minutes to hours; a request that is open for a day was lost or cannot be met.
REQUEST_PATIENCE = dt.timedelta(days=1)
MIRROR_PATIENCE = dt.timedelta(days=1)
# Refused in a row while the champion loses: the data has changed, and retraining does not help.
MAX_REFUSALS = 3
MAX_NAMED = 5
# Nights after a return: by then a person has seen it, and the next canary may be open.
RETURN_IS_NEWS_DAYS = 7


def open_requests(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models with a retrain request that no training has consumed for long."""
    rows = context.conn.execute(
        """
        select model, array_agg(partition_date order by partition_date), min(opened_at)
        from monitoring.retrain_decisions
        where state = 'open' and opened_at < clock_timestamp() - %s::interval
        group by model
        """,
        [REQUEST_PATIENCE],
    )
    for model, days, opened_at in rows:
        yield Fact(
            code="NS-INCIDENT-005",
            severity="info",
            health="caution",
            subject_type="model",
            subject=model,
            what=f"A retrain request of {model} is open since {opened_at:%Y-%m-%d %H:%M} UTC.",
            consequence="The champion serves on although the evidence asks for another one.",
            command=f"nightshift airflow dags clear train__{model} --partition-key {days[-1]}"
            " --only-failed --yes",
            partitions=tuple(days),
            owner=context.owner_of(model),
            models=(model,),
        )


def old_champions(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models whose champion has learned from no day of today's training window."""
    rows = context.conn.execute(
        """
        select distinct on (s.model) s.model, s.version, v.fit_end, newest.day
        from ml.succession s
        join ml.model_versions v using (model, version)
        cross join lateral (
            select max(partition_date) as day from ops.published
            where dataset = 'predictions/' || s.model
        ) newest
        where s.effective_partition <= newest.day
        order by s.model, s.effective_partition desc, s.promotion_id desc
        """
    )
    for model, version, fit_end, newest in rows:
        spec = context.specs.get(model)
        if spec is None or (newest - fit_end).days <= spec.training.window_days:
            continue
        age = (newest - fit_end).days
        yield Fact(
            code="NS-INCIDENT-006",
            severity="info",
            health="caution",
            subject_type="model",
            subject=model,
            what=f"The champion of {model}, version {version}, has seen no day after {fit_end}:"
            f" {age} days ago.",
            consequence="It serves on; its promises of quality are as old.",
            command=f"nightshift train {model} {newest}",
            owner=spec.owner,
            models=(model,),
            size=age,
            facts={"version": version, "age_days": age, "window_days": spec.training.window_days},
        )


def refused_challengers(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models that have lost quality, and whose challengers are refused one by one."""
    # A refusal alone is the gate's daily work: a good champion is rarely beaten within a night.
    rows = context.conn.execute(
        """
        select p.model, count(*), max(p.version), max(p.partition_date)
        from ml.promotions p
        where p.verdict = 'refused' and p.promotion_id > coalesce((
            select max(last.promotion_id) from ml.promotions last
            where last.model = p.model
                and last.verdict not in ('refused', 'canary', 'returned')), 0)
            and 'breached' = (
                select v.performance_status from monitoring.verdicts_published v
                where v.model = p.model order by v.partition_date desc limit 1)
        group by p.model having count(*) >= %s
        """,
        [MAX_REFUSALS],
    )
    for model, n_refused, version, day in rows:
        yield Fact(
            code="NS-INCIDENT-006",
            severity="info",
            health="caution",
            subject_type="model",
            subject=model,
            what=f"{model} has lost quality, and its last {n_refused} challengers were refused; the"
            f" newest is version {version}.",
            consequence="The champion serves on with the measured loss.",
            command=f"nightshift evidence {model} --version {version}",
            partitions=(day,),
            owner=context.owner_of(model),
            models=(model,),
            size=n_refused,
        )


def returned_canaries(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models whose newest canary was returned lately because something spoke against it.

    A canary that only ran out of nights, or lost its champion, is no news for anybody.
    """
    rows = context.conn.execute(
        """
        select distinct on (c.model) c.model, c.version, c.champion_version, c.share,
            c.first_partition, c.last_partition, c.ended_because, p.newest
        from ml.canaries c
        cross join lateral (
            select max(partition_date) as newest from ops.published
            where dataset = 'predictions/' || c.model
        ) p
        where c.ended_by is null or c.ended_by = 'returned'
        order by c.model, c.promotion_id desc
        """
    )
    for model, version, champion, share, first, last, reasons, newest in rows:
        if last is None or newest is None or (newest - last).days > RETURN_IS_NEWS_DAYS:
            continue
        reason = next((reason for reason in reasons if reason.startswith(AGAINST_CANARY)), None)
        if reason is None:
            continue
        yield Fact(
            code="NS-INCIDENT-012",
            severity="info",
            health="caution",
            subject_type="model",
            subject=model,
            key=f"{model} version {version}",
            what=f"Version {version} of {model} scored {100 * share:.6g} % of the entities from"
            f" {first} to {last} and was returned: {reason}",
            consequence=f"Version {champion} scores every entity again; nobody needs to act.",
            command=f"nightshift models {model}",
            partitions=(last,),
            owner=context.owner_of(model),
            models=(model,),
            facts={"version": version, "champion": champion, "share": share},
        )


def blocked_evidence(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models whose newest verdict asks for a retrain that may not be requested."""
    rows = context.conn.execute(
        """
        select distinct on (model) model, partition_date, is_over_budget, severe_loss_status,
            jsonb_array_length(red_reasons), n_faults
        from monitoring.verdicts_published
        order by model, partition_date desc
        """
    )
    for model, day, is_over_budget, severe_loss, n_red, n_faults in rows:
        is_blocked = is_over_budget or n_red > 0 or n_faults > 0
        if model not in context.specs or not (is_blocked and severe_loss == "breached"):
            continue
        cause = "the budget of retrainings is used up"
        if n_red > 0:
            cause = "the data of the night cannot be trusted"
        elif n_faults > 0:
            cause = f"{n_faults} column(s) of its input are broken"
        yield Fact(
            code="NS-INCIDENT-005",
            severity="warning",
            health="degraded",
            subject_type="model",
            subject=model,
            what=f"{model} has lost severely by {day}, and no retrain is requested: {cause}.",
            consequence="The champion serves on with the measured loss.",
            command=f"nightshift report {model} --night {day}",
            partitions=(day,),
            owner=context.owner_of(model),
            models=(model,),
        )


def slow_changes(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models of which columns have moved away slowly since the champion's training."""
    # Only the newest verdict speaks: a champion that was trained on the change ends the incident.
    rows = context.conn.execute(
        """
        select d.model, d.partition_date,
            array_agg(d.feature order by d.slow_evidence desc), min(d.slow_since)
        from monitoring.drift_published d
        join (
            select model, max(partition_date) as partition_date
            from monitoring.verdicts_published group by model
        ) newest using (model, partition_date)
        where d.is_slow group by d.model, d.partition_date
        """
    )
    for model, day, features, since in rows:
        if model not in context.specs:
            continue
        named = ", ".join(features[:MAX_NAMED])
        remaining = f" and {len(features) - MAX_NAMED} more" if len(features) > MAX_NAMED else ""
        yield Fact(
            code="NS-MONITOR-011",
            severity="info",
            health="caution",
            subject_type="model",
            subject=model,
            what=f"{len(features)} column(s) of {model} change slowly, the first since {since}:"
            f" {named}{remaining}.",
            consequence="The champion serves on; a loss would request a retraining.",
            command=f"nightshift report {model} --night {day}",
            partitions=(day,),
            owner=context.owner_of(model),
            models=(model,),
            # A further night is the same change; a further column is not.
            size=len(features),
        )


def mirror_behind(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models whose newest versions MLflow does not show."""
    if not context.settings.mlflow_tracking_uri.get_secret_value():
        return
    rows = context.conn.execute(
        """
        select v.model, count(*), max(v.version), max(v.partition_date)
        from ml.model_versions v
        left join ml.mlflow_mirror m using (model, digest)
        where m.mirrored_at is null and v.created_at < clock_timestamp() - %s::interval
        group by v.model
        """,
        [MIRROR_PATIENCE],
    )
    for model, n_versions, version, day in rows:
        yield Fact(
            code="NS-INCIDENT-007",
            severity="info",
            health="caution",
            subject_type="model",
            subject=model,
            what=f"MLflow does not show {n_versions} version(s) of {model}, up to {version}.",
            consequence="Only people who look into MLflow miss them; scoring reads the warehouse.",
            command=f"nightshift airflow dags clear train__{model} --partition-key {day} --yes",
            owner=context.owner_of(model),
            models=(model,),
            size=n_versions,
        )
