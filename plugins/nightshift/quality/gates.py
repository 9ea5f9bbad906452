"""Gates: run an expectation suite on staged rows by SQL; a batch that fails, or a missing verdict, stops the run.

The only module that knows Great Expectations. Source: docs/adr/0009-gates-and-monitoring.md.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError, WarehouseError
from nightshift.failpoints import Failpoint, hit
from nightshift.quality.suites.gate_page import render_page
from nightshift.quality.suites.sql_checks import knows, passed_in_one_scan
from nightshift.warehouse.audit import is_audited_unique
from nightshift.warehouse.connection import connect, conninfo
from nightshift.warehouse.content_hash import has_unique_index
from nightshift.warehouse.faults import fault_in, fault_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg
    import sqlalchemy
    from great_expectations.core import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation
    from psycopg import sql

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.quality.suites.streaming_checks import StreamingEvaluator
    from nightshift.settings import Settings

logger = logging.getLogger(__name__)
logging.getLogger("great_expectations._docs_decorators").setLevel(
    logging.WARNING
)  # a hundred lines per import

_DATASET = re.compile(r"[a-z][a-z0-9_]*/[a-z_][a-z0-9_]*")
_RESULT_FORMAT = {
    "result_format": "BASIC",
    "partial_unexpected_count": 0,
    "include_unexpected_rows": False,
}
"""Great Expectations looks for no example rows then."""
_COUNTS = (
    "element_count", "missing_count", "missing_percent", "unexpected_count", "unexpected_percent",
    "unexpected_percent_total", "unexpected_percent_nonmissing",
)  # fmt: skip
"""What is kept of a result: no value of a row enters a log, a result or a page."""
_OBSERVED_IS_A_COUNT = frozenset({
    "expect_table_row_count_to_be_between", "expect_table_row_count_to_equal",
    "expect_table_row_count_to_equal_other_table", "expect_table_column_count_to_be_between",
    "expect_table_column_count_to_equal", "expect_column_unique_value_count_to_be_between",
    "expect_column_proportion_of_unique_values_to_be_between",
    "expect_column_proportion_of_non_null_values_to_be_between",
})  # fmt: skip
"""Expectations whose observed value counts rows; a minimum, a mode or a set of values is a row's
own, and a mean of one row too.
"""
_NOT_IN_SQL = frozenset({
    "expect_column_values_to_be_dateutil_parseable", "expect_column_values_to_be_json_parseable",
    "expect_column_values_to_match_json_schema", "expect_column_values_to_match_strftime_format",
    "expect_column_values_to_be_increasing", "expect_column_values_to_be_decreasing",
})  # fmt: skip
"""Expectations that Great Expectations can only evaluate on a frame of pandas or Spark."""
_NO_SUCH_COLUMN = re.compile(
    r'(?:Error: )?The column "[A-Za-z0-9_]+" in BatchData does not exist\.?'
)
ONE_SCAN_ROWS = 100_000
"""Rows from which on a suite is evaluated in one scan first. Source:
docs/adr/0025-large-loads.md.
"""
_ONLY_SHOWN = frozenset({"warning", "info"})
"""Severities that stop nothing; every other word does."""


class GateError(NightshiftError):
    """Staged rows failed their expectation suite, or the gate could give no verdict; nothing is published.

    Attributes:
        result: The verdict; None when there is none.
    """

    code = "NS-GATE-001"
    result: GateResult | None = None


class SuiteError(GateError):
    """The expectation suite is missing, empty or wrong; without one there is no verdict."""

    code = "NS-GATE-002"


class GateCrashError(GateError):
    """The suite could not be evaluated, as a whole or in part."""

    code = "NS-GATE-003"
    is_retryable = True


@dataclass(frozen=True)
class Check:
    """The outcome of one expectation.

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


@dataclass(frozen=True)
class GateResult:
    """The verdict on one batch.

    Attributes:
        dataset: Name in the ledger.
        passed: Whether no critical expectation failed.
        n_expectations: Expectations evaluated.
        failed: What the batch does not meet; after a pass only warnings.
        docs_key: Key of the HTML page in the bucket, the JSON lies beside it; None if the bucket
            could not take it.
    """

    dataset: str
    passed: bool
    n_expectations: int
    failed: list[Check]
    docs_key: str | None


def run_gate(  # noqa: PLR0913, PLR0917  (the staged batch is addressed by all of these)
    settings: Settings,
    dataset: str,
    schema: str,
    table: str,
    load_id: int,
    partitions: PartitionRange,
    run: RunContext,
    passing: StreamingEvaluator | None = None,
) -> GateResult:
    """Run the dataset's suite on the staged rows of a load, all partitions as one batch.

    Args:
        settings: Warehouse, bucket, and ``expectations_dir``.
        dataset: Name in the ledger; its suite is ``<expectations_dir>/<dataset>.json`` in Great
            Expectations' own format.
        schema: Schema of the table.
        table: Table with ``partition_date`` and ``load_id``.
        load_id: The staged load.
        partitions: Both ends included.
        run: Who asks; names the connection.
        passing: What was counted on the way into the stage; used if just as many rows are there.

    Returns:
        The verdict of a batch that passed. The page in the bucket is evidence, not part of the
            verdict.

    Raises:
        GateError: A critical expectation failed; the message lists each with what was observed.
        SuiteError: The suite is missing, empty or wrong.
        GateCrashError: The suite could not be evaluated, as a whole or in part.
    """
    hit(Failpoint.GATE_BEFORE)
    query, place = _batch_query(schema, table, load_id, partitions), (schema, table, load_id)
    results = _passed_as_a_whole(settings, dataset, query, place, run, passing)
    if results is None:
        suite = _read_suite(settings.expectations_dir, dataset)
        results = _passed_at_once(
            settings,
            [_json_of(expectation) for expectation in suite.expectations],
            query,
            place,
            run,
        )
        results += _evaluate(settings, _without(suite, results), query.as_string(None), run)
        checks = _read_results(suite, results)
    else:
        checks = [_check(result) for result in results]
    stopping = [
        check
        for check in checks
        if not check.has_passed and (check.has_crashed or check.severity not in _ONLY_SHOWN)
    ]
    passed = not stopping
    key = f"data_docs/{dataset}/{partitions}/{load_id}-{run.attempt}"
    page = render_page(
        f"{dataset} · {partitions} · load {load_id}", passed, [vars(check) for check in checks]
    )
    evidence = {
        "dataset": dataset,
        "partitions": str(partitions),
        "load_id": load_id,
        "success": passed,
        "results": results,
    }
    docs_key = _store_docs(settings, key, page, evidence)
    result = GateResult(
        dataset, passed, len(checks), [check for check in checks if not check.has_passed], docs_key
    )
    _stop_unless_passed(result, stopping, partitions)
    hit(Failpoint.GATE_AFTER)
    return result


def read_expectations(expectations_dir: Path, dataset: str) -> list[dict[str, Any]]:
    """Return the expectations of a dataset's suite, in Great Expectations' JSON.

    Raises:
        SuiteError: The suite cannot be used, or is empty.
    """
    return [
        _json_of(expectation) for expectation in _read_suite(expectations_dir, dataset).expectations
    ]


def _read_suite(expectations_dir: Path, dataset: str) -> ExpectationSuite:
    if not _DATASET.fullmatch(dataset):
        raise SuiteError(
            f"Not a dataset name: {dataset!r}.",
            expected="<layer>/<name>",
            todo="Correct the caller.",
        )
    try:
        from great_expectations.core import ExpectationSuite
    except Exception as error:
        # A library that cannot be loaded gives no verdict.
        raise _crash(dataset, error) from error
    path = expectations_dir / f"{dataset}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        suite = ExpectationSuite(
            name=document["name"], expectations=document["expectations"], meta=document.get("meta")
        )
    except Exception as error:  # noqa: BLE001  (whatever is wrong with a suite: without it there is no verdict)
        raise SuiteError(
            f"The expectation suite of {dataset} cannot be used.",
            expected=f"{dataset}.json in {expectations_dir}, a suite in Great Expectations' JSON format",
            got=f"{type(error).__name__}: {str(error)[:500]}",
            todo="Correct or restore the suite; without one nothing is published.",
        ) from None
    n_written, n_known = len(document["expectations"]), len(suite.expectations)
    if (
        not n_written or n_known < n_written
    ):  # Great Expectations drops an expectation whose type it does not know without a word.
        raise SuiteError(
            f"The expectation suite of {dataset} is empty or has expectations that Great Expectations does not know.",
            expected="at least one expectation, each of a known type",
            got=f"{n_known} known of {n_written}",
            todo="Correct the types in the suite.",
        )
    if no_sql := sorted(
        {expectation.configuration.type for expectation in suite.expectations} & _NOT_IN_SQL
    ):
        raise SuiteError(
            f"The expectation suite of {dataset} has expectations that cannot be evaluated in a warehouse.",
            expected="expectations with a form in SQL",
            got=", ".join(no_sql),
            todo="Take them out, or ask the same with expect_column_values_to_match_regex.",
        )
    if not any(
        _severity(_json_of(expectation)) not in _ONLY_SHOWN for expectation in suite.expectations
    ):
        raise SuiteError(
            f"No expectation of {dataset} can stop a run.",
            expected="at least one expectation of severity critical",
            got=f"{n_known} that are only shown",
            todo="Raise the severity of what must hold.",
        )
    return suite


def _passed_as_a_whole(
    settings: Settings,
    dataset: str,
    query: sql.Composed,
    place: tuple[str, str, int],
    run: RunContext,
    passing: StreamingEvaluator | None,
) -> list[dict[str, Any]] | None:
    """Return the results of a large load that meets all of its suite for certain; None leaves everything to Great Expectations.

    It spares an import that takes longer than the scan. Whatever is wrong, unknown or strange, with
    the suite or with a row, needs its words, and is then looked at once more.
    """
    try:
        document = json.loads(
            (settings.expectations_dir / f"{dataset}.json").read_text(encoding="utf-8")
        )
        expectations = document["expectations"]
        can_stop = any(_severity(expectation) not in _ONLY_SHOWN for expectation in expectations)
        if not (
            _DATASET.fullmatch(dataset) and document["name"] and can_stop and knows(expectations)
        ):
            return None
        results = _passed_at_once(settings, expectations, query, place, run, passing)
        n_rows = max(
            result["result"].get("observed_value", result["result"].get("element_count", 0))
            for result in results
        )
    except Exception:  # noqa: BLE001  (see the docstring)
        return None
    return results if len(results) == len(expectations) and n_rows else None


def streaming_evaluator(settings: Settings, dataset: str) -> StreamingEvaluator | None:
    """Return what counts a dataset's suite on rows that pass; None if there is none that can be used, which its gate will say."""
    from nightshift.quality.suites.streaming_checks import StreamingEvaluator

    try:
        return StreamingEvaluator(
            json.loads((settings.expectations_dir / f"{dataset}.json").read_text(encoding="utf-8"))[
                "expectations"
            ]
        )
    except Exception:  # noqa: BLE001  (see the docstring)
        return None


def _passed_at_once(
    settings: Settings,
    expectations: Sequence[Mapping[str, Any]],
    query: sql.Composed,
    place: tuple[str, str, int],
    run: RunContext,
    passing: StreamingEvaluator | None = None,
) -> list[dict[str, Any]]:
    """Return the results of what a large load meets for certain; Great Expectations would send a query for each and take minutes."""
    schema, table, load_id = place
    try:
        with connect(settings, run.application_name) as conn:
            row = conn.execute(
                "select sum(n_rows) from ops.loads where load_id = %s", [load_id]
            ).fetchone()
            if row is None or (row[0] or 0) < ONE_SCAN_ROWS:
                return []

            def is_unique(columns: Sequence[str]) -> bool:
                return has_unique_index(conn, schema, table, columns) or is_audited_unique(
                    conn, load_id, columns
                )

            passed = passing.passed(conn, is_unique) if passing and passing.n_rows == row[0] else []
            found = [result for result in passed if result["expectation_config"] in expectations]
            judged = [result["expectation_config"] for result in found]
            rest = [one for one in expectations if one not in judged]
            scanned = passed_in_one_scan(conn, query, rest, is_unique) if rest else {}
    except Exception as error:  # noqa: BLE001  (Great Expectations evaluates all of it then, and has the words for what is wrong)
        logger.warning(
            "A suite of %s.%s is evaluated query by query: %s",
            schema,
            table,
            _without_values(str(error), type(error).__name__),
        )
        return []
    return [*found, *scanned.values()]


def _json_of(expectation: Expectation) -> dict[str, Any]:
    return dict(expectation.configuration.to_json_dict())


def _without(suite: ExpectationSuite, results: list[dict[str, Any]]) -> ExpectationSuite:
    """Return the suite without the expectations of these results."""
    from great_expectations.core import ExpectationSuite

    judged = [result["expectation_config"] for result in results]
    left = [as_json for as_json in map(_json_of, suite.expectations) if as_json not in judged]
    return ExpectationSuite(name=suite.name, expectations=left) if judged else suite


def _batch_query(schema: str, table: str, load_id: int, partitions: PartitionRange) -> sql.Composed:
    from psycopg import sql

    query = sql.SQL("select * from {} where load_id = {} and partition_date between {} and {}")
    first, last = sql.Literal(partitions.first.day), sql.Literal(partitions.last.day)
    return query.format(sql.Identifier(schema, table), sql.Literal(load_id), first, last)


def _evaluate(
    settings: Settings, suite: ExpectationSuite, query: str, run: RunContext
) -> list[dict[str, Any]]:
    """Return one result per expectation as plain JSON.

    The engine is driven without a data context: a context writes into the temporary folder, and its
    data source would have to hold a URL with the password. Here the connection is opened by us.
    """
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: _open(settings, run), pool_size=1, max_overflow=0
    )
    try:
        from great_expectations.core.batch import Batch
        from great_expectations.core.batch_spec import RuntimeQueryBatchSpec
        from great_expectations.execution_engine import SqlAlchemyExecutionEngine
        from great_expectations.validator.validator import Validator

        _refuse_empty(engine, suite, query)
        if not suite.expectations:
            return []
        execution = SqlAlchemyExecutionEngine(engine=engine, create_temp_table=False)
        data, markers = execution.get_batch_data_and_markers(RuntimeQueryBatchSpec(query=query))
        validator = Validator(execution, batches=[Batch(data=data, batch_markers=markers)])
        validator._metrics_calculator.show_progress_bars = False  # noqa: SLF001  (without a context there is no other switch)
        configurations = [expectation.configuration for expectation in suite.expectations]
        results = validator.graph_validate(
            configurations, runtime_configuration={"result_format": _RESULT_FORMAT}
        )
        return [_counts_only(result.to_json_dict()) for result in results]
    except GateError:
        raise
    except Exception as error:  # noqa: BLE001  (a gate without a verdict has failed, whatever the reason)
        raise fault_of(error) or _crash(str(suite.name), error) from None
    finally:
        engine.dispose()


def _counts_only(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result of Great Expectations without anything that may be a value of a row."""
    kept = (
        *_COUNTS,
        *(
            ["observed_value"]
            if result["expectation_config"]["type"] in _OBSERVED_IS_A_COUNT
            else []
        ),
    )
    measured = result.get("result") or {}
    return {
        "expectation_config": result["expectation_config"],
        "success": _plain(result["success"]),
        "exception_info": result.get("exception_info"),
        "result": {name: _plain(measured[name]) for name in kept if name in measured},
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 - a number or truth value, of Python or of numpy
    """Return a value of Python: numpy's ``True`` is not ``True``, and no JSON."""
    return value.item() if hasattr(value, "item") else value


def _crash(name: str, error: Exception) -> GateCrashError:
    return GateCrashError(
        f"The gate {name} gave no verdict.",
        got=_without_values(str(error), type(error).__name__),
        todo="A missing verdict is a failure: nothing was published. Rerun the task; see the runbook if it stays so.",
    )


def _refuse_empty(engine: sqlalchemy.Engine, suite: ExpectationSuite, query: str) -> None:
    """Refuse a batch without rows, on which most expectations hold, unless the suite itself allows an empty table."""
    import sqlalchemy

    with engine.connect() as connection:
        has_rows = connection.execute(
            sqlalchemy.text(f"select exists ({query})".replace(":", r"\:"))
        ).scalar()
    counted = [
        e.configuration
        for e in suite.expectations
        if e.configuration.type == "expect_table_row_count_to_be_between"
    ]
    may_be_empty = any(configuration.kwargs.get("min_value") == 0 for configuration in counted)
    if has_rows is not True and not may_be_empty:
        raise GateError(
            f"The batch of {suite.name} has no rows.",
            expected="at least one row, or expect_table_row_count_to_be_between with min_value 0 in the suite",
            todo="Nothing was published. Find out why the stage wrote nothing, then rerun it.",
        )


def _open(settings: Settings, run: RunContext) -> psycopg.Connection[Any]:
    """Connect as any other stage does, without nested loops.

    Rows that were staged a second ago have no statistics yet, and the join by which Great
    Expectations counts repeated keys then takes minutes for a year (7.6 s instead of less than 0.8
    s for 8,760 rows).
    """
    import psycopg

    info = conninfo(settings, run.application_name)
    info["options"] += " -c enable_nestloop=off"
    return psycopg.connect(**info)


def _read_results(suite: ExpectationSuite, results: list[dict[str, Any]]) -> list[Check]:
    """Return one check per expectation of the suite; a result that is missing, strange or of another expectation is no verdict.

    Raises:
        GateCrashError: The results are not the suite's.
    """
    try:
        checks = [_check(result) for result in results]
        found = sorted(result["expectation_config"]["type"] for result in results)
        asked = sorted(expectation.configuration.type for expectation in suite.expectations)
    except (KeyError, TypeError, AttributeError) as error:
        raise _crash(str(suite.name), error) from None
    if found != asked:
        raise GateCrashError(
            f"The gate {suite.name} evaluated other expectations than its suite has.",
            expected=f"{len(asked)} results, one per expectation",
            got=f"{len(found)} results",
            todo="A missing verdict is a failure: nothing was published. Rerun the task; see the runbook if it stays so.",
        )
    return checks


def _severity(configuration: Mapping[str, Any]) -> str:
    return str(configuration.get("severity") or "critical")


def _check(result: dict[str, Any]) -> Check:
    configuration = result["expectation_config"]
    arguments = {
        name: value for name, value in configuration["kwargs"].items() if name != "batch_id"
    }
    names = [
        arguments.pop(name)
        for name in ("column", "column_A", "column_B", "column_list")
        if name in arguments
    ]
    columns = ", ".join(
        part for name in names for part in (name if isinstance(name, list) else [name])
    )
    crash = _crash_of(result)
    return Check(
        expectation=f"{configuration['type']}({columns})",
        arguments=json.dumps(arguments, sort_keys=True) if arguments else "",
        severity=_severity(configuration),
        has_passed=result["success"] is True and crash is None,
        has_crashed=crash is not None,
        observed=crash or _observed(result["result"]),
    )


def _crash_of(result: dict[str, Any]) -> str | None:
    """Return why an expectation could not be evaluated, and drop its traceback from the result: messages may quote values."""
    info = result.pop("exception_info", None) or {}
    parts = (
        [info]
        if "raised_exception" in info
        else [part for part in info.values() if isinstance(part, dict)]
    )
    raised = next((part for part in parts if part.get("raised_exception")), None)
    if raised is None:
        return None
    message, traceback = (
        str(raised.get("exception_message")),
        str(raised.get("exception_traceback")),
    )
    # The last line that begins with a class names the error that was raised first to last.
    classes = re.findall(r"^(?:\w+\.)*(\w+(?:Error|Exception))(?::|$)", traceback, re.MULTILINE)
    return (
        f"could not be evaluated: {_without_values(message, classes[0] if classes else 'an error')}"
    )


def _without_values(message: str, error_class: str) -> str:
    """Return what is known to hold no value of a row: the class of an error, and that a column is missing."""
    if database_error := re.search(r"psycopg\.errors\.(\w+)", message):
        return database_error.group(1)
    missing = _NO_SUCH_COLUMN.search(message)
    return f"{error_class}: {missing.group()}" if missing else error_class


def _observed(measured: dict[str, Any]) -> str:
    if "unexpected_count" not in measured:
        return (
            f"observed {measured['observed_value']}"
            if "observed_value" in measured
            else "what was observed is not shown"
        )
    if "element_count" not in measured:
        return f"{measured['unexpected_count']} unexpected"
    share = measured.get("unexpected_percent") or 0.0
    return f"{measured['unexpected_count']} of {measured['element_count']} rows unexpected ({share:.2f} %)"


def _store_docs(settings: Settings, key: str, page: str, evidence: dict[str, Any]) -> str | None:
    """Store page and JSON; a bucket that fails changes no verdict: the verdict stands in the log and in the ledger."""
    from nightshift.lake.object_store import ObjectStore

    try:
        store = ObjectStore.open(settings)
        store.put(
            f"{key}.json",
            json.dumps(evidence, indent=2, sort_keys=True).encode(),
            "application/json",
        )
        store.put(f"{key}.html", page.encode(), "text/html; charset=utf-8")
    except Exception as error:  # noqa: BLE001  (see the docstring)
        logger.warning(
            "The data docs %s.html could not be stored: %s", key, str(error).splitlines()[0]
        )
        return None
    return f"{key}.html"


def _stop_unless_passed(
    result: GateResult, stopping: list[Check], partitions: PartitionRange
) -> None:
    if result.passed:
        return
    has_crashed = not stopping or any(check.has_crashed for check in stopping)
    crashes = "\n".join(check.observed for check in stopping if check.has_crashed)
    if (fault := fault_in(crashes)) and type(fault) is not WarehouseError:
        raise fault  # The warehouse refused to evaluate: that says nothing about the rows.
    error = (GateCrashError if has_crashed else GateError)(
        f"{result.dataset} of {partitions} failed {len(stopping)} of {result.n_expectations} expectations:\n    "
        + "\n    ".join(map(str, stopping)),
        expected="every critical expectation evaluated and met",
        got=f"data docs: {result.docs_key or 'could not be stored'}",
        todo="Nothing was published. Correct the data upstream or, if the suite is wrong, the suite; then rerun the task.",
    )
    error.result = result
    raise error
