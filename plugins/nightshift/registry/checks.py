"""Checks of the promotion gate and their criteria: name, limit, number, interval and verdict.

The gate fails closed: a check that crashes, or gives no criterion of its name, is ``unknown``, and
``unknown`` refuses the challenger like ``failed``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.resource_errors import translate_resource_errors
from nightshift.training.statistics.confidence_intervals import BoundedEstimate

if TYPE_CHECKING:
    from nightshift.registry.promotion_context import PromotionContext

logger = logging.getLogger(__name__)

_REASON_LENGTH = 400


class CriterionVerdict(StrEnum):
    """The verdict of a criterion.

    Attributes:
        PASSED: The number keeps the limit.
        FAILED: It does not; the challenger is refused.
        UNPROVEN: Nothing speaks against the challenger, and too little for it: it stays in the
            shadow; nobody is refused.
        NOT_APPLICABLE: There is nothing to check, such as a champion; nobody is refused.
        UNKNOWN: The check crashed, or gave no criterion; the challenger is refused.
    """

    PASSED = "passed"
    FAILED = "failed"
    UNPROVEN = "unproven"
    NOT_APPLICABLE = "not_applicable"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Criterion:
    """The result of one check of a challenger.

    Attributes:
        name: Stable name; parts of a family stand in brackets, as in ``slice[region=north]``.
        verdict: ``unknown`` refuses like ``failed``.
        reason: One sentence for people.
        limit: What the number is compared with; None where the spec declares none.
        number: What was measured.
        interval: Bounds of the number, each with the spec's confidence.
        facts: Further measurements.
    """

    name: str
    verdict: CriterionVerdict
    reason: str
    limit: float | str | None = None
    number: float | None = None
    interval: tuple[float, float] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """Return the name without its part."""
        return self.name.partition("[")[0]

    @property
    def is_refusal(self) -> bool:
        """Return whether the challenger must not serve because of it."""
        return self.verdict in {CriterionVerdict.FAILED, CriterionVerdict.UNKNOWN}

    def as_json(self) -> dict[str, Any]:
        """Return plain values; an undefined number, such as an AUC of one class, is None."""
        # JSON knows neither NaN nor infinity.
        text = json.dumps(asdict(self))
        plain: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
        return plain


Check = Callable[["PromotionContext"], Criterion | Iterable[Criterion]]
"""A check returns one criterion, or one for each part of its family.

All of them carry the family's name, so that ``run_checks`` sees what is missing.
"""


def passed_if(
    is_passed: bool,
    name: str,
    measured: BoundedEstimate | float | None,
    limit: float | str | None,
    reason: str,
    **facts: object,
) -> Criterion:
    """Return a criterion that passes on a condition.

    Args:
        is_passed: The condition.
        name: Its name.
        measured: The number, or its estimate with bounds.
        limit: What the number is compared with.
        reason: One sentence for people.
        facts: Further measurements.
    """
    number = interval = None
    if isinstance(measured, BoundedEstimate):
        number = measured.value
        interval = (measured.low, measured.high)
        facts = {"n_days": measured.n_days, **facts}
    elif measured is not None:
        # A count is recorded as a number like all others.
        number = float(measured)
    verdict = CriterionVerdict.PASSED if is_passed else CriterionVerdict.FAILED
    return Criterion(name, verdict, reason, limit, number, interval, facts)


def at_most(
    name: str, measured: BoundedEstimate | float, limit: float, reason: str, **facts: object
) -> Criterion:
    """Return a criterion that passes when the number is at most the limit; NaN fails."""
    number = measured.value if isinstance(measured, BoundedEstimate) else measured
    return passed_if(number <= limit, name, measured, limit, reason, **facts)


def proved_if(
    is_proved: bool,
    name: str,
    measured: BoundedEstimate | float | None,
    limit: float | str | None,
    reason: str,
    **facts: object,
) -> Criterion:
    """Return a criterion that passes on a condition, as ``passed_if``, and else is unproven."""
    criterion = passed_if(is_proved, name, measured, limit, reason, **facts)
    return criterion if is_proved else replace(criterion, verdict=CriterionVerdict.UNPROVEN)


def not_applicable(name: str, reason: str, **facts: object) -> Criterion:
    """Return a criterion whose subject does not exist for this challenger."""
    return Criterion(name, CriterionVerdict.NOT_APPLICABLE, reason, facts=facts)


def run_checks(context: PromotionContext, checks: dict[str, Check]) -> list[Criterion]:
    """Run every check; one that crashes, or gives no criterion, is unknown and refuses.

    Args:
        context: What is decided about.
        checks: By the family's name, in the order of the record.

    Raises:
        NightshiftError: An error that a retry may cure: no final decision may rest on it.
        OperationalError: The same of the warehouse.
    """
    criteria = []
    for family, check in checks.items():
        criteria += _run_check(context, family, check)
    return criteria


def _run_check(context: PromotionContext, family: str, check: Check) -> list[Criterion]:
    import psycopg

    try:
        # A machine without memory or disk space is a passing trouble too.
        with translate_resource_errors():
            result = check(context)
            # A check of several parts is a generator: it runs, and may crash, here.
            criteria = [result] if isinstance(result, Criterion) else list(result)
    except NightshiftError as error:
        # A decision is final, so no passing trouble may be recorded as its reason.
        if error.is_retryable:
            raise
        return [_unknown(family, f"{error.code}: {error.what}")]
    # The warehouse may be back on the next try.
    except psycopg.OperationalError:
        raise
    # Fail closed: a bug in a check refuses the challenger, and never promotes it.
    except Exception as error:
        logger.warning("Check %s crashed.", family, exc_info=True)
        return [_unknown(family, f"it crashed with {type(error).__name__}: {error}")]
    # Fail closed here too: a renamed criterion would leave its family without a verdict.
    families = {criterion.family for criterion in criteria}
    if families != {family}:
        return [*criteria, _unknown(family, "the check returned no criterion of its name.")]
    return criteria


def _unknown(name: str, reason: str) -> Criterion:
    return Criterion(name, CriterionVerdict.UNKNOWN, f"no verdict, {reason}"[:_REASON_LENGTH])
