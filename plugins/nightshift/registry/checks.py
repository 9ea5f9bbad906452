"""A criterion of the evidence gate: a name, limit, number, interval and verdict. What crashed or was not asked counts as failed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.registry.promotion_context import PromotionContext
    from nightshift.training.statistics.confidence_intervals import Estimate

logger = logging.getLogger(__name__)

_REASON_LENGTH = 400


class CriterionVerdict(StrEnum):
    """What a criterion says."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not_applicable"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Criterion:
    """One answered question about a challenger.

    Attributes:
        name: Stable name; parts of a family stand in brackets, as in ``slice[carrier=UA]``.
        verdict: ``unknown`` refuses like ``failed``.
        reason: One sentence for people.
        limit: What the number is held against; None where the spec declares none.
        number: What was measured.
        interval: Bounds of the number, each with the spec's confidence.
        facts: What else was measured on the way.
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

    @property
    def objection(self) -> str:
        """Return the sentence of a refusal, the name first."""
        return f"{self.name}: {self.reason}"

    def as_json(self) -> dict[str, Any]:
        """Return plain values; a number that is undefined, as an AUC of one class, is None."""
        plain: dict[str, Any] = _defined({**asdict(self), "verdict": self.verdict.value})
        return plain


def _defined(value: Any) -> Any:  # noqa: ANN401 - plain values of any depth
    if isinstance(value, dict):
        return {key: _defined(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


Check = Callable[["PromotionContext"], "Criterion | Iterable[Criterion]"]


def held(
    name: str,
    *,
    is_held: bool,
    reason: str,
    limit: float | str | None,
    of: Estimate | float | None = None,
    **facts: object,
) -> Criterion:
    """Return a criterion that passes when its limit is held.

    Args:
        name: Its name.
        is_held: Whether the number keeps the limit; NaN keeps none.
        reason: One sentence for people.
        limit: The limit.
        of: The number, or its estimate with bounds.
        facts: What else was measured.
    """
    verdict = CriterionVerdict.PASSED if is_held else CriterionVerdict.FAILED
    if of is None or isinstance(of, int | float):
        return Criterion(name, verdict, reason, limit, of, None, facts)
    return Criterion(
        name, verdict, reason, limit, of.value, (of.low, of.high), {"n_days": of.n_days, **facts}
    )


def not_applicable(name: str, reason: str, **facts: object) -> Criterion:
    """Return a criterion that asks for something which does not exist here, and says what."""
    return Criterion(name, CriterionVerdict.NOT_APPLICABLE, reason, facts=facts)


def run_checks(case: PromotionContext, questions: dict[str, Check]) -> list[Criterion]:
    """Ask every question; one that crashes, or answers nothing, is unknown and refuses.

    Args:
        case: What is judged.
        questions: By the family's name, in the order of the record.

    Raises:
        NightshiftError: Something that a later try may have back: a decision must not stand on it
            for ever.
        OperationalError: The same of the warehouse.
    """
    return [
        criterion
        for name, question in questions.items()
        for criterion in _asked(case, name, question)
    ]


def _asked(case: PromotionContext, name: str, question: Check) -> list[Criterion]:
    import psycopg

    try:
        found = question(case)
        criteria = [found] if isinstance(found, Criterion) else list(found)
    except NightshiftError as error:
        if error.is_retryable:
            raise
        return [_unknown(name, f"{error.code}: {error.what}")]
    except psycopg.OperationalError:
        raise
    except Exception as error:
        logger.warning("Criterion %s crashed.", name, exc_info=True)
        return [_unknown(name, f"it crashed with {type(error).__name__}: {error}")]
    if not criteria or any(criterion.family != name for criterion in criteria):
        return [*criteria, _unknown(name, "it gave no answer.")]
    return criteria


def _unknown(name: str, reason: str) -> Criterion:
    return Criterion(name, CriterionVerdict.UNKNOWN, f"no verdict, {reason}"[:_REASON_LENGTH])
