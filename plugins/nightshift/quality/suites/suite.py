"""Expectation suites, parsed once into types that every evaluator reads.

A suite is a file in Great Expectations' JSON format. The fast evaluators (``sql_checks``,
``streaming_checks``, ``profile_checks``) read the typed rules; an expectation without a rule is
left to Great Expectations. Source: docs/adr/0025-large-loads.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nightshift.quality.gate_errors import SuiteError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_DATASET = re.compile(r"[a-z][a-z0-9_]*/[a-z_][a-z0-9_]*")
_WRITTEN_CONDITION = re.compile(r'col\("([a-z_][a-z0-9_]*)"\) (==|!=) "([a-zA-Z0-9_ -]*)"')
_WITHOUT_SQL_FORM = frozenset({
    "expect_column_values_to_be_dateutil_parseable", "expect_column_values_to_be_json_parseable",
    "expect_column_values_to_match_json_schema", "expect_column_values_to_match_strftime_format",
    "expect_column_values_to_be_increasing", "expect_column_values_to_be_decreasing",
    # Great Expectations knows the types of a table's columns, not those of a query's.
    "expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list",
    "expect_column_type_to_be",
})  # fmt: skip
"""Expectations that Great Expectations cannot evaluate on a query: most need a frame of pandas."""
_MAX_BYTES = 16 * 1024**2
"""Of a suite; a set of a hundred thousand values has two million."""
_NON_BLOCKING_SEVERITIES = frozenset({"warning", "info"})
"""Severities that stop nothing. Any other word stops the run, so a typo fails closed."""


Number = int | float


class ExpectationRule(BaseModel):
    """What an expectation demands; aliases are Great Expectations' names of the arguments."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class RowCount(ExpectationRule):
    """The batch has a number of rows within limits."""

    minimum: Number | None = Field(None, alias="min_value")
    maximum: Number | None = Field(None, alias="max_value")


class UniqueTogether(ExpectationRule):
    """No two rows agree in all of these columns."""

    columns: list[str] = Field(alias="column_list", min_length=1)


class NotNull(ExpectationRule):
    """The column has a value in each row."""

    column: str


class Between(ExpectationRule):
    """Each value lies within limits, which are allowed values unless they are strict."""

    column: str
    minimum: Number | None = Field(None, alias="min_value")
    maximum: Number | None = Field(None, alias="max_value")
    strict_min: bool = False
    strict_max: bool = False

    @model_validator(mode="after")
    def _has_limit(self) -> Between:
        if self.minimum is None and self.maximum is None:
            raise ValueError("neither minimum nor maximum")
        return self


class InSet(ExpectationRule):
    """Each value is one of some strings."""

    column: str
    allowed: list[str] = Field(alias="value_set", min_length=1)


class MatchesRegex(ExpectationRule):
    """Each value matches a pattern of PostgreSQL."""

    column: str
    pattern: str = Field(alias="regex")


class PairGreater(ExpectationRule):
    """The first column is greater than the second one."""

    column_a: str = Field(alias="column_A")
    column_b: str = Field(alias="column_B")
    or_equal: bool = False


_RULES: dict[str, type[ExpectationRule]] = {
    "expect_table_row_count_to_be_between": RowCount,
    "expect_compound_columns_to_be_unique": UniqueTogether,
    "expect_column_values_to_not_be_null": NotNull,
    "expect_column_values_to_be_between": Between,
    "expect_column_values_to_be_in_set": InSet,
    "expect_column_values_to_match_regex": MatchesRegex,
    "expect_column_pair_values_a_to_be_greater_than_b": PairGreater,
}


@dataclass(frozen=True)
class RowCondition:
    """A comparison with a string that restricts an expectation to some rows."""

    column: str
    is_equal: bool
    value: str


@dataclass(frozen=True)
class Expectation:
    """One expectation of a suite.

    Attributes:
        document: Its JSON, as the suite has it.
        rule: What it demands; None if only Great Expectations can evaluate it.
        mostly: Share of the considered rows that must meet it, 0 to 1.
        condition: The rows that it considers; None for all.
    """

    document: dict[str, Any]
    rule: ExpectationRule | None = None
    mostly: float = 1.0
    condition: RowCondition | None = None

    @property
    def type(self) -> str:
        """Return the type in Great Expectations' words."""
        return str(self.document["type"])

    @property
    def column(self) -> str:
        """Return the column that it is about; empty for a table or several columns."""
        return str(self.document.get("kwargs", {}).get("column", ""))

    def is_met(self, n_considered: int, n_unexpected: int) -> bool:
        """Return whether counts of considered and of unexpected rows meet it."""
        if isinstance(self.rule, RowCount):
            return is_within(
                n_considered,
                self.rule.minimum,
                self.rule.maximum,
            )
        # Nothing to consider is nothing unexpected, as in Great Expectations.
        n_met = n_considered - n_unexpected
        return n_considered == 0 or n_met / n_considered >= self.mostly


@dataclass(frozen=True)
class Suite:
    """The expectations of a dataset.

    Attributes:
        dataset: Name in the ledger.
        document: The JSON of the file.
        expectations: In the order of the file.
    """

    dataset: str
    document: dict[str, Any]
    expectations: tuple[Expectation, ...]


def read_suite(expectations_dir: Path, dataset: str) -> Suite:
    """Read and check a dataset's suite, ``<expectations_dir>/<dataset>.json``.

    Raises:
        SuiteError: The suite cannot be used, or it could not stop a run.
    """
    if not _DATASET.fullmatch(dataset):
        raise SuiteError(
            f"Not a dataset name: {dataset!r}.",
            expected="<layer>/<name>",
            todo="Correct the caller.",
        )
    path = expectations_dir / f"{dataset}.json"
    try:
        document = json.loads(_read_text(path))
        expectations = tuple(map(parse_expectation, document["expectations"]))
        suite = Suite(
            str(document["name"]),
            document,
            expectations,
        )
    except Exception as error:  # noqa: BLE001  (whatever is wrong, there is no verdict)
        raise unusable_suite(expectations_dir, dataset, error) from None
    _require_usable(dataset, suite)
    return suite


def _read_text(path: Path) -> str:
    # A pipe would be waited for without end, and a device has no end.
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES:,} bytes")
    return content.decode()


def unusable_suite(expectations_dir: Path, dataset: str, error: Exception) -> SuiteError:
    """Return the error for a suite that cannot be read or built."""
    return SuiteError(
        f"The expectation suite of {dataset} cannot be used.",
        expected=f"{dataset}.json in {expectations_dir}, in Great Expectations' JSON format",
        got=f"{type(error).__name__}: {str(error)[:500]}",
        todo="Correct or restore the suite; without one nothing is published.",
    )


def _require_usable(dataset: str, suite: Suite) -> None:
    if not suite.expectations:
        raise SuiteError(
            f"The expectation suite of {dataset} is empty.",
            expected="at least one expectation",
            todo="Add what must hold to the suite.",
        )
    without_sql = sorted({each.type for each in suite.expectations} & _WITHOUT_SQL_FORM)
    if without_sql:
        raise SuiteError(
            f"The suite of {dataset} has expectations that cannot be evaluated in a warehouse.",
            expected="expectations with a form in SQL",
            got=", ".join(without_sql),
            todo="Remove them, or use expect_column_values_to_match_regex instead.",
        )
    # A suite of warnings would pass every batch.
    if not any(is_blocking(severity_of(each.document)) for each in suite.expectations):
        raise SuiteError(
            f"No expectation of {dataset} can stop a run.",
            expected="at least one expectation of severity critical",
            got=f"{len(suite.expectations)} of severity warning or info",
            todo="Raise the severity of what must hold.",
        )


def severity_of(document: Mapping[str, Any]) -> str:
    """Return the severity of an expectation's JSON; critical is the default."""
    return str(document.get("severity") or "critical")


def is_blocking(severity: str) -> bool:
    """Return whether an unmet expectation of this severity stops the run."""
    return severity not in _NON_BLOCKING_SEVERITIES


def parse_expectation(document: dict[str, Any]) -> Expectation:
    """Parse one expectation; what the fast evaluators do not support gets no rule.

    Raises:
        KeyError: It has no type.
    """
    kwargs = dict(document.get("kwargs") or {})
    mostly = kwargs.pop("mostly", 1.0)
    restriction = kwargs.pop("row_condition", None)
    condition = _parse_condition(restriction, kwargs.pop("condition_parser", None))
    rule = _parse_rule(document["type"], kwargs)

    has_unknown_condition = restriction is not None and condition is None
    # Great Expectations has its own meaning of "mostly unique": only the strict form is counted.
    is_share_unsupported = isinstance(rule, UniqueTogether) and mostly != 1
    if not isinstance(mostly, Number) or has_unknown_condition or is_share_unsupported:
        return Expectation(document)
    return Expectation(
        document,
        rule,
        float(mostly),
        condition,
    )


def _parse_rule(
    expectation_type: str,
    kwargs: dict[str, Any],
) -> ExpectationRule | None:
    rule_class = _RULES.get(expectation_type)
    if rule_class is None:
        return None
    try:
        return rule_class.model_validate(kwargs)
    except ValidationError:
        return None


def _parse_condition(restriction: object, parser: object) -> RowCondition | None:
    """Parse a comparison with a string, as written or as Great Expectations stores it."""
    if parser != "great_expectations":
        return None
    if isinstance(restriction, str):
        written = _WRITTEN_CONDITION.fullmatch(restriction)
        if written is None:
            return None
        column, operator, value = written.groups()
        return RowCondition(column, operator == "==", value)
    match restriction:
        case {
            "type": "comparison",
            "column": {"name": str(column)},
            "operator": "==" | "!=" as operator,
            "parameter": str(value),
            **rest,
        } if not rest:
            return RowCondition(column, operator == "==", value)
    return None


def is_within(
    number: float,
    minimum: float | None,
    maximum: float | None,
) -> bool:
    """Return whether a number lies within limits, both included; None is no limit."""
    is_enough = minimum is None or number >= minimum
    return is_enough and (maximum is None or number <= maximum)
