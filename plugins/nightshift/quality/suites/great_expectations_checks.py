"""Evaluate expectations with Great Expectations; the only module that knows the library.

It decides: whatever the fast evaluators do not pass is evaluated here. Source:
docs/adr/0009-gates-and-monitoring.md.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from nightshift.quality.gate_errors import GateCrashError, GateError, SuiteError
from nightshift.quality.suites.check_results import redact_message
from nightshift.quality.suites.suite import Expectation, Suite, unusable_suite
from nightshift.warehouse.connection import conninfo
from nightshift.warehouse.faults import fault_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg
    import sqlalchemy
    from great_expectations.core import ExpectationSuite

    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings

# The library logs a hundred lines per import.
logging.getLogger("great_expectations._docs_decorators").setLevel(logging.WARNING)

NO_VERDICT_TODO = (
    "A missing verdict is a failure: nothing was published. Rerun the task; see the runbook if it"
    " fails again."
)
_RESULT_FORMAT = {
    "result_format": "BASIC",
    # Great Expectations collects no example rows then.
    "partial_unexpected_count": 0,
    "include_unexpected_rows": False,
}
_COUNTS = (
    "element_count", "missing_count", "missing_percent", "unexpected_count", "unexpected_percent",
    "unexpected_percent_total", "unexpected_percent_nonmissing",
)  # fmt: skip
"""What is kept of a result: no value of a row enters a log, a result or a page."""
_ROW_COUNT = "expect_table_row_count_to_be_between"
_COUNTING_TYPES = frozenset({
    _ROW_COUNT, "expect_table_row_count_to_equal", "expect_table_row_count_to_equal_other_table",
    "expect_table_column_count_to_be_between", "expect_table_column_count_to_equal",
    "expect_column_unique_value_count_to_be_between",
    "expect_column_proportion_of_unique_values_to_be_between",
    "expect_column_proportion_of_non_null_values_to_be_between",
})  # fmt: skip
"""Expectations whose observed value counts rows. A minimum, a mode or a set of values belongs to
single rows, and so does a mean of one row.
"""


def evaluate_by_great_expectations(
    settings: Settings,
    suite: Suite,
    expectations: Sequence[Expectation],
    query: str,
    run: RunContext,
) -> list[dict[str, Any]]:
    """Return one result document per expectation.

    Args:
        settings: Where the warehouse is.
        suite: The complete suite; all of it must be usable.
        expectations: Those of the suite to evaluate; without any, only the batch is checked.
        query: Selects the batch.
        run: Names the connection.

    Raises:
        SuiteError: The suite cannot be used.
        GateError: The batch has no rows, and the suite does not allow that.
        GateCrashError: There is no result.
    """
    # A crash anywhere below, an import that fails included, is a missing verdict.
    try:
        import sqlalchemy

        ge_suite = _build_suite(settings, suite)
        # A data context would write into the temporary folder, and its data source would hold a
        # URL with the password. So the engine is driven without one, on a connection of our own.
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=lambda: _connect(settings, run),
            pool_size=1,
            max_overflow=0,
        )
        try:
            _refuse_empty_batch(engine, suite, query)
            if not expectations:
                return []
            selected = [suite.expectations.index(expectation) for expectation in expectations]
            configurations = [ge_suite.expectations[index].configuration for index in selected]
            return _validate(engine, configurations, query)
        finally:
            engine.dispose()
    except GateError:
        raise
    except Exception as error:  # noqa: BLE001  (see above)
        raise fault_of(error) or crash_error(suite.dataset, error) from None


def crash_error(dataset: str, error: Exception) -> GateCrashError:
    """Return the error for a gate without a verdict; it shows no value of a row."""
    return GateCrashError(
        f"The gate {dataset} gave no verdict.",
        got=redact_message(str(error), type(error).__name__),
        todo=NO_VERDICT_TODO,
    )


def _build_suite(settings: Settings, suite: Suite) -> ExpectationSuite:
    from great_expectations.core import ExpectationSuite

    document = suite.document
    try:
        ge_suite = ExpectationSuite(
            name=document["name"], expectations=document["expectations"], meta=document.get("meta")
        )
    except Exception as error:  # noqa: BLE001  (a suite may be wrong in any way)
        raise unusable_suite(settings.expectations_dir, suite.dataset, error) from None
    n_known = len(ge_suite.expectations)
    # Great Expectations drops an expectation of an unknown type without any message.
    if n_known < len(suite.expectations):
        raise SuiteError(
            f"The suite of {suite.dataset} has expectations that Great Expectations does not know.",
            expected="each expectation of a known type",
            got=f"{n_known} known of {len(suite.expectations)}",
            todo="Correct the types in the suite.",
        )
    return ge_suite


def _connect(settings: Settings, run: RunContext) -> psycopg.Connection[Any]:
    """Connect as every other stage does, without nested loops."""
    import psycopg

    info = conninfo(settings, run.application_name)
    # Rows that were staged a second ago have no statistics yet. The join that counts repeated keys
    # then takes minutes for a year (7.6 s instead of less than 0.8 s for 8,760 rows).
    info["options"] += " -c enable_nestloop=off"
    return psycopg.connect(**info)


def _refuse_empty_batch(engine: sqlalchemy.Engine, suite: Suite, query: str) -> None:
    """Refuse a batch without rows, on which most expectations hold, unless the suite allows it."""
    import sqlalchemy

    statement = sqlalchemy.text(f"select exists ({query})".replace(":", r"\:"))
    with engine.connect() as connection:
        has_rows = connection.execute(statement).scalar()
    may_be_empty = any(
        expectation.type == _ROW_COUNT
        and (expectation.document.get("kwargs") or {}).get("min_value") == 0
        for expectation in suite.expectations
    )
    if has_rows is not True and not may_be_empty:
        raise GateError(
            f"The batch of {suite.dataset} has no rows.",
            expected=f"at least one row, or {_ROW_COUNT} with min_value 0 in the suite",
            todo="Nothing was published. Find out why the stage wrote no row, then rerun it.",
        )


def _validate(
    engine: sqlalchemy.Engine, configurations: list[Any], query: str
) -> list[dict[str, Any]]:
    from great_expectations.core.batch import Batch
    from great_expectations.core.batch_spec import RuntimeQueryBatchSpec
    from great_expectations.execution_engine import SqlAlchemyExecutionEngine
    from great_expectations.validator.validator import Validator

    execution = SqlAlchemyExecutionEngine(engine=engine, create_temp_table=False)
    data, markers = execution.get_batch_data_and_markers(RuntimeQueryBatchSpec(query=query))
    validator = Validator(execution, batches=[Batch(data=data, batch_markers=markers)])
    # Without a data context there is no other switch.
    validator._metrics_calculator.show_progress_bars = False  # noqa: SLF001
    results = validator.graph_validate(
        configurations, runtime_configuration={"result_format": _RESULT_FORMAT}
    )
    return [_keep_counts(result.to_json_dict()) for result in results]


def _keep_counts(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result of Great Expectations without anything that may be a value of a row."""
    config, measured = result["expectation_config"], result.get("result") or {}
    names = list(_COUNTS)
    if config["type"] in _COUNTING_TYPES:
        names.append("observed_value")
    return {
        "expectation_config": config,
        "success": _as_python(result["success"]),
        "exception_info": result.get("exception_info"),
        "result": {name: _as_python(measured[name]) for name in names if name in measured},
    }


def _as_python(value: Any) -> Any:  # noqa: ANN401  (a number or truth value, of Python or of numpy)
    """Return a value of Python: numpy's ``True`` is not ``True``, and not JSON."""
    return value.item() if hasattr(value, "item") else value
