"""Ask one rule: its facts, or why there is no answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, cause_of, stack_of
from nightshift.incidents.facts import Fact, Rule, Unchecked

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)


class RuleFailedError(NightshiftError):
    """A rule could not be evaluated: what it looks at is not known."""

    code = "NS-INCIDENT-002"


@dataclass
class RuleResult:
    """The answer of one rule.

    Attributes:
        facts: What is wrong, by key.
        unchecked: Keys that it did not look at.
        error: Why there is no answer; None if there is one.
        seconds: How long it took.
    """

    facts: dict[str, Fact]
    unchecked: set[str]
    error: Exception | None = None
    seconds: float = 0.0


def ask(context: EvaluationContext, rule: Rule) -> RuleResult:
    """Return the answer of a rule, or why there is none."""
    started = time.monotonic()
    result = RuleResult({}, set())
    try:
        with _one_snapshot(context.conn):
            for finding in rule.find(context):
                if isinstance(finding, Unchecked):
                    result.unchecked.add(finding.fact_key)
                else:
                    result.facts[finding.fact_key] = finding
    except Exception as error:  # noqa: BLE001 - whatever a rule raises harms only its own answer
        logger.warning("The rule %r could not be evaluated:\n%s", rule.kind, stack_of(error))
        result.error = error
    result.seconds = time.monotonic() - started
    return result


@contextmanager
def _one_snapshot(conn: Connection) -> Iterator[None]:
    """Let a rule see one instant, and write nothing."""
    from psycopg import IsolationLevel

    # As attributes they are words of BEGIN, and take no statement of their own.
    conn.isolation_level, conn.read_only = IsolationLevel.REPEATABLE_READ, True
    try:
        with conn.transaction():
            yield
    finally:
        # A connection that broke keeps them; nothing is written by it any more.
        if not conn.closed:
            conn.isolation_level, conn.read_only = None, None


def keep_answers(conn: Connection, answers: Sequence[tuple[Rule, RuleResult]]) -> None:
    """Record when each rule answered, how long it took, and why it could not; in one statement."""
    rows = [
        (
            rule.kind,
            rule.aspect,
            result.seconds,
            len(result.facts),
            None if result.error is None else cause_of(result.error),
        )
        for rule, result in answers
    ]
    if rows:
        conn.execute(_KEEP_ANSWERS, [list(column) for column in zip(*rows, strict=True)])


_KEEP_ANSWERS = """
insert into ops.incident_rules as kept
    (kind, aspect, evaluated_at, succeeded_at, seconds, n_found, problem)
select kind, aspect, clock_timestamp(), case when problem is null then clock_timestamp() end,
    seconds, n_found, problem
from unnest(%s::text[], %s::text[], %s::double precision[], %s::integer[], %s::text[])
    as answer (kind, aspect, seconds, n_found, problem)
on conflict (kind) do update set
    aspect = excluded.aspect, evaluated_at = excluded.evaluated_at, seconds = excluded.seconds,
    problem = excluded.problem, succeeded_at = coalesce(excluded.succeeded_at, kept.succeeded_at),
    n_found = case when excluded.problem is null then excluded.n_found else kept.n_found end
"""


def failed_rule(rule: Rule, error: Exception) -> Fact:
    """Return the fact about a rule without an answer."""
    return Fact(
        code=RuleFailedError.code,
        severity="warning",
        health="unknown",
        subject_type="rule",
        subject=rule.kind,
        what=f"The rule {rule.kind!r} could not be evaluated: {cause_of(error)}",
        consequence="What it looks for would not be seen; its earlier incidents stay open.",
        command="nightshift migrate" if _lacks_relation(error) else "nightshift doctor",
        facts={"cause": cause_of(error)},
    )


def _lacks_relation(error: Exception) -> bool:
    """Return whether a table, view or column is missing that `migrate` can make again."""
    from psycopg.errors import UndefinedColumn, UndefinedTable

    return isinstance(error, (UndefinedTable, UndefinedColumn))
