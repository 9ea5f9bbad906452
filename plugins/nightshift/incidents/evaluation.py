"""Evaluate the rules: open what is new, see what lasts, close what is gone.

Each rule stands alone: one that fails becomes an incident and leaves the facts of all others, and
its own earlier ones, as they are. One evaluation runs at a time.
Source: docs/adr/0046-incidents.md.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.errors import stack_of
from nightshift.incidents.context import SEEN_ELSEWHERE_FOR, EvaluationContext
from nightshift.incidents.facts import Fact, Rule
from nightshift.incidents.health_subjects import keep_subjects
from nightshift.incidents.records import SEEN_UNTIL, as_json
from nightshift.incidents.rule_answers import RuleResult, ask, failed_rule, keep_answers
from nightshift.incidents.rules.declared import RULES
from nightshift.incidents.runbook_commands import page_of
from nightshift.warehouse.connection import connect, warehouse_time
from nightshift.warehouse.schema_lock import locked_error, try_session_lock

if TYPE_CHECKING:
    from nightshift.incidents.context import AirflowState
    from nightshift.settings import Settings

logger = logging.getLogger(__name__)

EVALUATOR = "evaluator"
FAILED_RULE = "failed rule"
# Rules that say why others fail, with the error that those raise.
CAUSES = {
    "held locks": "LockNotAvailable",
    "missing views": "UndefinedTable",
    "missing tables": "UndefinedTable",
    "warehouse rights": "InsufficientPrivilege",
}
GONE = "its fact is gone"
OUT_OF_SIGHT = "its rule does not look at it any more; nobody has seen it repaired"
# A rule that takes longer is cancelled by the warehouse, and becomes an incident itself.
STATEMENT_TIMEOUT_SECONDS = 10
# A table that somebody holds keeps each rule that reads it so long; `held locks` says who does.
LOCK_TIMEOUT_SECONDS = 1
# What a lock kept from answering for a shorter time is no news: a deployment holds some.
LOCK_PATIENCE = dt.timedelta(minutes=4)


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation did.

    Attributes:
        at: The instant that deadlines were compared with, UTC.
        is_skipped: Another evaluation was in progress; nothing was done.
        opened: Numbers of the incidents that it opened.
        worsened: Those that have grown worse.
        closed: Those whose fact is gone.
        failed_rules: Rules that could not be evaluated.
        seconds: How long it took.
    """

    at: dt.datetime
    is_skipped: bool = False
    opened: tuple[int, ...] = ()
    worsened: tuple[int, ...] = ()
    closed: tuple[int, ...] = ()
    failed_rules: tuple[str, ...] = ()
    seconds: float = 0.0


def evaluate(
    settings: Settings,
    *,
    at: dt.datetime | None = None,
    airflow: AirflowState | None = None,
    rules: Sequence[Rule] = RULES,
) -> Evaluation:
    """Evaluate the rules that are due, and bring ``ops.incidents`` up to date.

    Idempotent, and safe from several places at once: a second one returns at once.

    Args:
        settings: Warehouse, object store and folders.
        at: The instant that deadlines are compared with; the warehouse's present by default.
        airflow: Airflow's API, where it can be reached.
        rules: The rules; all by default.

    Raises:
        TableLockedError: Somebody holds the tables of incidents.
        WarehouseError: The warehouse cannot be reached or written.
    """
    from psycopg.errors import LockNotAvailable

    started = time.monotonic()
    limits = {
        "statement_timeout_seconds": STATEMENT_TIMEOUT_SECONDS,
        "lock_timeout_seconds": LOCK_TIMEOUT_SECONDS,
    }
    impatient = settings.model_copy(update=limits)
    with (
        connect(impatient, "nightshift incidents") as conn,
        # An older evaluation must not overwrite a newer one.
        try_session_lock(conn, "nightshift incidents") as is_ours,
    ):
        at = at or warehouse_time(conn)
        if not is_ours:
            return Evaluation(at, is_skipped=True)
        context = EvaluationContext(impatient, conn, at, airflow)
        try:
            evaluation = _Evaluator(context, rules).run()
        except LockNotAvailable as error:
            # Without its own tables no incident can be kept: whoever is told must know why.
            raise locked_error(conn, "ops") or error from None
    seconds = time.monotonic() - started
    return Evaluation(
        at,
        opened=tuple(evaluation.opened),
        worsened=tuple(evaluation.worsened),
        closed=tuple(evaluation.closed),
        failed_rules=tuple(evaluation.failed),
        seconds=seconds,
    )


class _Evaluator:
    """One evaluation in progress."""

    def __init__(self, context: EvaluationContext, rules: Sequence[Rule]) -> None:
        self.context, self.rules = context, rules
        self.opened: list[int] = []
        self.worsened: list[int] = []
        self.closed: list[int] = []
        self.failed: list[str] = []
        self.explained: set[str] = set()
        # Open incidents by rule and key, as they were when this evaluation began.
        self.known: dict[str, dict[str, int]] = defaultdict(dict)

    def run(self) -> _Evaluator:
        """Evaluate each rule that is due, and store its facts before the next one."""
        conn = self.context.conn
        rows = conn.execute(
            "select kind, evaluated_at, succeeded_at from ops.incident_rules"
        ).fetchall()
        last: dict[str, dt.datetime] = {name: evaluated_at for name, evaluated_at, _ in rows}
        succeeded = {name: succeeded_at for name, _, succeeded_at in rows}
        for name, fact_key, incident_id in conn.execute(_OPEN_INCIDENTS):
            self.known[name][fact_key] = incident_id
        failures: dict[str, Fact] = {}
        untouched: set[str] = set()
        answers: list[tuple[Rule, RuleResult]] = []
        for rule in self.rules:
            if rule.kind in last and last[rule.kind] > self.context.now - rule.pause:
                untouched.add(rule.kind)
                continue
            if rule.needs_airflow and self.context.airflow is None:
                # Not recorded as evaluated: that would keep those who see Airflow from their turn.
                if self.known[rule.kind]:
                    recent = self.context.now - SEEN_ELSEWHERE_FOR
                    unseen = RuleResult({}, set(self.context.open_keys(rule.kind, recent)))
                    self._settle(rule.kind, rule.aspect, unseen, OUT_OF_SIGHT)
                untouched.add(rule.kind)
                continue
            result = ask(self.context, rule)
            answers.append((rule, result))
            if result.facts and rule.kind in CAUSES:
                self.explained.add(CAUSES[rule.kind])
            if result.error is None:
                self._settle(rule.kind, rule.aspect, result)
                continue
            self.failed.append(rule.kind)
            if self._is_symptom(result.error, succeeded.get(rule.kind)):
                untouched.add(rule.kind)
            else:
                failures[rule.kind] = failed_rule(rule, result.error)
        keep_answers(conn, answers)
        # A rule that was not due keeps the incident about its own failure.
        self._settle(FAILED_RULE, "evaluation", RuleResult(failures, untouched))
        if self.rules is RULES:
            self._forget_rules(last)
        keep_subjects(self.context)
        return self

    def _is_symptom(self, error: Exception, succeeded_at: dt.datetime | None) -> bool:
        """Return whether a rule failed for what another rule has found, or for a short lock."""
        name = type(error).__name__
        has_just_succeeded = (
            succeeded_at is not None and self.context.now - succeeded_at < LOCK_PATIENCE
        )
        is_short_lock = name == CAUSES["held locks"] and has_just_succeeded
        return name in self.explained or is_short_lock

    def _settle(self, rule_name: str, aspect: str, result: RuleResult, reason: str = GONE) -> None:
        """Open, see again and close the incidents of one rule in one transaction."""
        known = self.known[rule_name]
        # Most rules find nothing, and found nothing before.
        if not result.facts and not known:
            return
        with self.context.conn.transaction():
            for key, fact in result.facts.items():
                parameters = _parameters(self.context, rule_name, aspect, fact)
                if key in known:
                    self._see_again(known[key], parameters)
                else:
                    self._open(parameters)
            gone = [
                incident_id
                for key, incident_id in known.items()
                if key not in result.facts and key not in result.unchecked
            ]
            self._close(gone, reason)

    # A row that another evaluator has opened is no second incident.
    def _open(self, parameters: dict[str, Any]) -> None:
        row = self.context.conn.execute(_OPEN, parameters).fetchone()
        if row is not None:
            self.opened.append(row[0])

    def _see_again(self, incident_id: int, parameters: dict[str, Any]) -> None:
        row = self.context.conn.execute(_SEE, {**parameters, "incident_id": incident_id}).fetchone()
        if row is not None and row[0]:
            self.worsened.append(incident_id)

    def _close(self, incident_ids: list[int], reason: str) -> None:
        if not incident_ids:
            return
        rows = self.context.conn.execute(
            _CLOSE,
            {
                "incident_ids": incident_ids,
                "actor": EVALUATOR,
                "reason": reason,
                "out_of_sight": OUT_OF_SIGHT,
                "seen_until": SEEN_UNTIL,
            },
        )
        self.closed += [incident_id for (incident_id,) in rows]

    def _forget_rules(self, recorded: Collection[str]) -> None:
        """Close the incidents of rules that this code does not have any more."""
        names = {FAILED_RULE, *(rule.kind for rule in self.rules)}
        for name in self.known.keys() - names:
            self._close(list(self.known[name].values()), "its rule is gone")
        if not names.issuperset(recorded):
            self.context.conn.execute(
                "delete from ops.incident_rules where kind <> all(%s)", [list(names)]
            )


def _parameters(
    context: EvaluationContext, rule_name: str, aspect: str, fact: Fact
) -> dict[str, Any]:
    # Who depends on it is worked out now: specs and views change while an incident is open.
    try:
        # With a savepoint of its own: its failure must not abort what has been stored so far.
        with context.conn.transaction():
            tables, models, consumers = context.touched(fact.tables, fact.models)
    except Exception as error:  # noqa: BLE001 - a fact is worth more than what depends on it
        logger.warning("What %s touches is not known:\n%s", fact.subject, stack_of(error))
        tables, models, consumers = list(fact.tables), list(fact.models), []
    # Data has no owner of its own: those of the models that read it must know.
    owner = fact.owner or ", ".join(sorted({context.owner_of(model) for model in models} - {""}))
    facts = fact.facts
    if fact.seen_until is not None:
        facts = {**facts, SEEN_UNTIL: fact.seen_until}
    return {
        "kind": rule_name,
        "fact_key": fact.fact_key,
        "code": fact.code,
        "severity": fact.severity,
        "health": fact.health,
        "aspect": aspect,
        "subject_type": fact.subject_type,
        "subject": fact.subject,
        "partitions": list(fact.partitions),
        "owner": owner,
        "what": fact.what,
        "consequence": fact.consequence,
        "deadline_at": fact.deadline_at,
        "command": fact.command,
        "runbook": page_of(fact.code),
        "tables": tables,
        "models": models,
        "consumers": consumers,
        "facts": json.dumps(as_json(facts)),
        "worse_rank": fact.worse_rank,
        "actor": EVALUATOR,
    }


_OPEN_INCIDENTS = """
select kind, fact_key, incident_id from ops.incidents where closed_at is null
"""
_OPEN = """
with opened as (
    insert into ops.incidents (
        kind, fact_key, code, severity, health, aspect, subject_type, subject, partitions, owner,
        what, consequence, deadline_at, command, runbook, touched_tables, touched_models,
        touched_consumers, facts, worse_rank
    )
    values (
        %(kind)s, %(fact_key)s, %(code)s, %(severity)s, %(health)s, %(aspect)s, %(subject_type)s,
        %(subject)s, %(partitions)s, %(owner)s, %(what)s, %(consequence)s, %(deadline_at)s,
        %(command)s, %(runbook)s, %(tables)s, %(models)s, %(consumers)s, %(facts)s, %(worse_rank)s
    )
    on conflict (kind, fact_key) where closed_at is null do nothing
    returning incident_id, what, severity, worse_rank
)
insert into ops.incident_events (incident_id, event, actor, reason, severity, worse_rank)
select incident_id, 'opened', %(actor)s, what, severity, worse_rank from opened
returning incident_id
"""
# A snooze ends early when the fact has grown worse than it ever was.
_SEE = """
with before as (
    select incident_id, worse_rank, snoozed_until from ops.incidents
    where incident_id = %(incident_id)s and closed_at is null for update
), seen as (
    update ops.incidents i set
        code = %(code)s, severity = %(severity)s, health = %(health)s, partitions = %(partitions)s,
        owner = %(owner)s, what = %(what)s, consequence = %(consequence)s,
        deadline_at = %(deadline_at)s, command = %(command)s, runbook = %(runbook)s,
        touched_tables = %(tables)s, touched_models = %(models)s,
        touched_consumers = %(consumers)s, facts = %(facts)s,
        last_seen_at = clock_timestamp(), n_seen = n_seen + 1,
        worse_rank = greatest(i.worse_rank, %(worse_rank)s),
        snoozed_until = case when %(worse_rank)s > i.worse_rank then null else i.snoozed_until end,
        snoozed_by = case when %(worse_rank)s > i.worse_rank then null else i.snoozed_by end
    from before where i.incident_id = before.incident_id
    returning i.incident_id, %(worse_rank)s > before.worse_rank as is_worse,
        before.snoozed_until > clock_timestamp() as was_snoozed, i.severity, i.worse_rank, i.what
), events as (
    insert into ops.incident_events (incident_id, event, actor, reason, severity, worse_rank)
    select incident_id, event, %(actor)s, what, severity, worse_rank
    from seen
    cross join (values (1, 'worsened'), (2, 'woken')) as e (place, event)
    where is_worse and (event = 'worsened' or was_snoozed)
    order by place
)
select is_worse from seen
"""
_CLOSE = """
with closed as (
    update ops.incidents
    set closed_at = clock_timestamp(), snoozed_until = null, snoozed_by = null
    where incident_id = any(%(incident_ids)s) and closed_at is null
    returning incident_id, severity, worse_rank,
        (facts ->> %(seen_until)s)::timestamptz <= closed_at as is_out_of_sight
), events as (
    insert into ops.incident_events (incident_id, event, actor, reason, severity, worse_rank)
    select incident_id, 'closed', %(actor)s,
        case when is_out_of_sight then %(out_of_sight)s else %(reason)s end, severity, worse_rank
    from closed
)
select incident_id from closed order by incident_id
"""
