"""Ask one rule: its facts, or why there is no answer."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, cause_of, stack_of
from nightshift.incidents.facts import Fact, Rule, Unchecked

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext

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
        # In one snapshot, and without a right to write.
        with context.conn.transaction():
            context.conn.execute("set transaction isolation level repeatable read, read only")
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
