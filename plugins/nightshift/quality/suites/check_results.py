"""Results of expectations: one per expectation, without any value of a row.

Fast evaluators give ``PassedCheck``, Great Expectations gives its own JSON; both become the same
document for the evidence and the same ``CheckResult`` for people.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.quality.suites.suite import Expectation, RowCount, is_blocking, severity_of

if TYPE_CHECKING:
    from collections.abc import Mapping


_COLUMN_ARGUMENTS = ("column", "column_A", "column_B", "column_list")
_MISSING_COLUMN = re.compile(
    r'(?:Error: )?The column "[A-Za-z0-9_]+" in BatchData does not exist\.?'
)


@dataclass(frozen=True)
class PassedCheck:
    """An expectation that a fast evaluator found to be met.

    Attributes:
        expectation: The expectation.
        n_considered: Rows that it considers.
        n_unexpected: Rows among them that do not meet it.
        evaluator: What counted the rows.
    """

    expectation: Expectation
    n_considered: int
    n_unexpected: int
    evaluator: str

    def as_document(self) -> dict[str, Any]:
        """Return the result in the form of Great Expectations."""
        percent = 100.0 * self.n_unexpected / max(self.n_considered, 1)
        measured: dict[str, Any] = {
            "element_count": self.n_considered,
            "unexpected_count": self.n_unexpected,
            "unexpected_percent": percent,
        }
        if isinstance(self.expectation.rule, RowCount):
            measured = {"observed_value": self.n_considered}
        return {
            "success": True,
            "expectation_config": {"kwargs": {}, **self.expectation.document},
            "result": measured,
            "exception_info": {},
            "meta": {"by": self.evaluator},
        }


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one expectation, for the log and the page.

    Attributes:
        expectation: Name of the expectation and the columns that it reads.
        arguments: Its other arguments, as JSON.
        severity: ``critical`` stops the run; ``warning`` and ``info`` are only shown.
        has_passed: Whether the batch meets it.
        has_crashed: Whether it could not be evaluated; that stops the run at every severity.
        observed: An aggregate or a count of unexpected rows, never a value of a row.
    """

    expectation: str
    arguments: str
    severity: str
    has_passed: bool
    has_crashed: bool
    observed: str

    def __str__(self) -> str:
        """Return one line for the log."""
        return f"{self.expectation} {self.arguments}: {self.observed}"

    @property
    def is_blocking(self) -> bool:
        """Return whether this outcome stops the run."""
        return not self.has_passed and (self.has_crashed or is_blocking(self.severity))


def read_check_result(document: dict[str, Any]) -> CheckResult:
    """Return the outcome that a result document describes; its traceback is removed from it.

    Raises:
        KeyError, TypeError, AttributeError: It is no result document.
    """
    config = document["expectation_config"]
    arguments = {**config["kwargs"]}
    # Great Expectations adds it, and it means nothing to a person.
    arguments.pop("batch_id", None)
    columns: list[str] = []
    for name in _COLUMN_ARGUMENTS:
        given = arguments.pop(name, [])
        columns += given if isinstance(given, list) else [given]

    # Messages and tracebacks may quote values of rows, so they do not enter the evidence.
    crash = _describe_crash(document.pop("exception_info", None) or {})
    return CheckResult(
        expectation=f"{config['type']}({', '.join(columns)})",
        arguments=json.dumps(arguments, sort_keys=True) if arguments else "",
        severity=severity_of(config),
        # Only the truth value counts: a result of "yes" or 1 is no verdict.
        has_passed=document["success"] is True and crash is None,
        has_crashed=crash is not None,
        observed=crash or _describe_counts(document["result"]),
    )


def redact_message(
    message: str,
    error_class: str,
) -> str:
    """Return what holds no value of a row: the class of an error, and that a column is missing."""
    database_error = re.search(r"psycopg\.errors\.(\w+)", message)
    if database_error:
        return database_error[1]
    # The name of a column is the suite's own word.
    missing = _MISSING_COLUMN.search(message)
    if missing:
        return f"{error_class}: {missing[0]}"
    return error_class


def _describe_crash(exception_info: Mapping[str, Any]) -> str | None:
    """Return why an expectation could not be evaluated; None if it was."""
    # Great Expectations nests one such mapping per metric.
    parts = [exception_info, *exception_info.values()]
    for part in parts:
        if isinstance(part, dict) and part.get("raised_exception"):
            traceback = str(part.get("exception_traceback"))
            # The last line that begins with a class names the error that was raised first to last.
            pattern = r"^(?:\w+\.)*(\w+(?:Error|Exception))(?::|$)"
            classes = re.findall(pattern, traceback, re.MULTILINE)
            error_class = classes[0] if classes else "an error"
            message = redact_message(
                str(part.get("exception_message")),
                error_class,
            )
            return f"could not be evaluated: {message}"
    return None


def _describe_counts(measured: Mapping[str, Any]) -> str:
    """Return in words what was counted; an aggregate, never a value of a row."""
    if "unexpected_count" not in measured:
        if "observed_value" in measured:
            return f"observed {measured['observed_value']}"
        return "the observed value is not shown"
    n_unexpected = measured["unexpected_count"]
    if "element_count" not in measured:
        return f"{n_unexpected} unexpected"
    n_rows = measured["element_count"]
    percent = measured.get("unexpected_percent") or 0.0
    return f"{n_unexpected} of {n_rows} rows unexpected ({percent:.2f} %)"
