"""What a rule returns: a fact that is true now and that somebody must know of."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nightshift.incidents.records import Health, Severity, SubjectType

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
# A step of severity outweighs any number of partitions or files.
RANK_OF_A_STEP = 1_000_000


@dataclass(frozen=True)
class Fact:
    """Something that is wrong now.

    Attributes:
        code: Error code of the cause.
        severity: How urgent it is.
        health: The word that it gives its subject.
        subject_type: What the subject is.
        subject: Its name.
        what: What is wrong, in one sentence.
        consequence: What happens if nobody acts.
        command: The one command that is safe.
        key: Which fact of its rule it is; the subject by default.
        partitions: Operating days that it concerns.
        owner: Team that answers for it.
        deadline_at: When the consequence comes, UTC.
        tables: Datasets that it touches first; what depends on them is added.
        models: Models that it touches first.
        size: How many things it concerns; more is worse. The partitions by default.
        seen_until: When its rule stops looking at it, UTC; None if it never does.
        facts: Numbers and names; no value of a row and no secret.
    """

    code: str
    severity: Severity
    health: Health
    subject_type: SubjectType
    subject: str
    what: str
    consequence: str
    command: str
    key: str = ""
    partitions: tuple[dt.date, ...] = ()
    owner: str = ""
    deadline_at: dt.datetime | None = None
    tables: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    size: int | None = None
    seen_until: dt.datetime | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def fact_key(self) -> str:
        """Return its name within its rule."""
        return self.key or self.subject

    @property
    def worse_rank(self) -> int:
        """Return how bad it is; a greater number is worse."""
        # More partitions are worse within a severity, never beyond it.
        size = len(self.partitions) if self.size is None else self.size
        return SEVERITIES.index(self.severity) * RANK_OF_A_STEP + min(size, RANK_OF_A_STEP - 1)


@dataclass(frozen=True)
class Unchecked:
    """A fact that this evaluation did not look at: its incident stays as it is.

    Attributes:
        fact_key: Its name within its rule.
    """

    fact_key: str


Findings = Iterable[Fact | Unchecked]


@dataclass(frozen=True)
class Rule:
    """One declared rule: it looks at what is true and returns what is wrong.

    Attributes:
        kind: Its name, as ``ops.incidents.kind`` has it.
        aspect: The part of a subject's health that it judges.
        find: Returns the facts; whatever it raises becomes an incident of its own.
        pause: Time between two evaluations; zero for every one.
        needs_airflow: Whether an evaluator that cannot reach Airflow leaves it to another one.
    """

    kind: str
    aspect: str
    find: Callable[[EvaluationContext], Findings]
    pause: dt.timedelta = dt.timedelta()
    needs_airflow: bool = False
