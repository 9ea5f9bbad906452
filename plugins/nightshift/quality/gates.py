"""Quality gates: run an expectation suite on staged rows before they are published.

A failure, or a missing verdict, stops the run. A large load is evaluated by the fast evaluators
first. Whatever they do not pass is evaluated by Great Expectations. Source:
docs/adr/0009-gates-and-monitoring.md.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.failpoints import Failpoint, hit
from nightshift.quality.gate_errors import GateCrashError, SuiteError, failed_gate
from nightshift.quality.suites.check_results import (
    CheckResult,
    PassedCheck,
    read_check_result,
    redact_message,
)
from nightshift.quality.suites.gate_page import render_page, store_page
from nightshift.quality.suites.great_expectations_checks import (
    NO_VERDICT_TODO,
    crash_error,
    evaluate_by_great_expectations,
)
from nightshift.quality.suites.sql_checks import evaluate_by_sql
from nightshift.quality.suites.suite import Suite, read_suite
from nightshift.stage_times import stage
from nightshift.warehouse.audit import is_known_unique
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import sql

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.quality.suites.streaming_checks import StreamingEvaluator
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

ONE_SCAN_ROWS = 100_000
"""Rows from which on a suite is evaluated in one scan first: below, the query for each expectation
is fast enough. Source: docs/adr/0025-large-loads.md.
"""


@dataclass(frozen=True)
class GateResult:
    """The verdict on one batch.

    Attributes:
        dataset: Name in the ledger.
        passed: Whether no critical expectation failed.
        n_expectations: Expectations evaluated.
        failed: What the batch does not meet; after a pass only warnings.
        docs_key: Key of the HTML page in the bucket, next to its JSON; None if the bucket could not
            take it.
    """

    dataset: str
    passed: bool
    n_expectations: int
    failed: list[CheckResult]
    docs_key: str | None


@dataclass(frozen=True)
class _Batch:
    """The staged rows of a load."""

    schema: str
    table: str
    load_id: int
    partitions: PartitionRange

    @property
    def query(self) -> sql.Composed:
        from psycopg import sql

        query = sql.SQL("select * from {} where load_id = {} and partition_date between {} and {}")
        # Literals and no parameters: Great Expectations takes a query as one string.
        return query.format(
            sql.Identifier(self.schema, self.table),
            sql.Literal(self.load_id),
            sql.Literal(self.partitions.first.day),
            sql.Literal(self.partitions.last.day),
        )


def run_gate(  # noqa: PLR0913, PLR0917  (the staged batch is addressed by all of these)
    settings: Settings,
    dataset: str,
    schema: str,
    table: str,
    load_id: int,
    partitions: PartitionRange,
    run: RunContext,
    streamed: StreamingEvaluator | None = None,
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
        run: Names the connection and the page.
        streamed: What was counted on the way into the stage; used if the stage has as many rows.

    Returns:
        The verdict of a batch that passed. The page in the bucket is evidence, not part of the
            verdict.

    Raises:
        GateError: A critical expectation failed; the message lists each with what was observed.
        SuiteError: The suite is missing, empty or wrong.
        GateCrashError: The suite could not be evaluated, completely or in part.
    """
    hit(Failpoint.GATE_BEFORE)
    # A suite that cannot be used stops the run before anything is evaluated.
    suite = read_suite(settings.expectations_dir, dataset)
    batch = _Batch(schema, table, load_id, partitions)
    with stage("gate", dataset=dataset, load_id=load_id) as known:
        documents = _evaluate(settings, suite, batch, run, streamed)
        checks = _read_results(suite, documents)
        blocking = [check for check in checks if check.is_blocking]
        known["verdict"] = "refused" if blocking else "passed"

    failed = [check for check in checks if not check.has_passed]
    evidence = {
        "dataset": dataset,
        "partitions": str(partitions),
        "load_id": load_id,
        "success": not blocking,
        "results": documents,
    }
    page = render_page(f"{dataset} · {partitions} · load {load_id}", not blocking, checks)
    key = f"data_docs/{dataset}/{partitions}/{load_id}-{run.attempt}"
    # Before the verdict is raised: a failed gate is what people want to read about.
    docs_key = store_page(settings, key, page, evidence)
    result = GateResult(dataset, not blocking, len(checks), failed, docs_key)
    if blocking:
        raise failed_gate(result, blocking, partitions)
    hit(Failpoint.GATE_AFTER)
    return result


def streaming_evaluator(settings: Settings, dataset: str) -> StreamingEvaluator | None:
    """Return the evaluator of a dataset's suite for rows on their way into the stage.

    Returns:
        None if the suite cannot be used; the gate reports that later.
    """
    from nightshift.quality.suites.streaming_checks import StreamingEvaluator

    try:
        suite = read_suite(settings.expectations_dir, dataset)
    except SuiteError:
        return None
    return StreamingEvaluator(suite.expectations)


def _evaluate(
    settings: Settings,
    suite: Suite,
    batch: _Batch,
    run: RunContext,
    streamed: StreamingEvaluator | None,
) -> list[dict[str, Any]]:
    """Return one result document per expectation: the fast passes first, then the rest."""
    passed = _evaluate_fast(settings, suite, batch, run, streamed)
    met = [check.expectation for check in passed]
    documents = [check.as_document() for check in passed]
    remaining = [each for each in suite.expectations if each not in met]

    # Most expectations hold on a batch without rows, so Great Expectations' module checks that too.
    # Without anything left, its import is spared: it takes longer than the scan.
    if remaining or not any(check.n_considered for check in passed):
        query = batch.query.as_string(None)
        with stage("great_expectations", dataset=suite.dataset):
            documents += evaluate_by_great_expectations(settings, suite, remaining, query, run)
    return documents


def _evaluate_fast(
    settings: Settings,
    suite: Suite,
    batch: _Batch,
    run: RunContext,
    streamed: StreamingEvaluator | None,
) -> list[PassedCheck]:
    """Return the expectations that a large load certainly meets; none for a small load."""
    try:
        with connect(settings, run.application_name) as conn:
            n_rows = _count_staged_rows(conn, batch.load_id)
            if n_rows < ONE_SCAN_ROWS:
                return []

            def is_unique(columns: Sequence[str]) -> bool:
                return is_known_unique(conn, batch.schema, batch.table, batch.load_id, columns)

            passed = []
            # Rows may have been withdrawn since, and the suite may have changed.
            if streamed and streamed.n_rows == n_rows:
                counted = streamed.passed(conn, is_unique)
                passed = [check for check in counted if check.expectation in suite.expectations]
            met = [check.expectation for check in passed]
            remaining = [each for each in suite.expectations if each not in met]
            return passed + evaluate_by_sql(conn, batch.query, remaining, is_unique)
    except Exception as error:  # noqa: BLE001  (Great Expectations then evaluates and reports all)
        reason = redact_message(str(error), type(error).__name__)
        table = f"{batch.schema}.{batch.table}"
        logger.warning("The suite of %s is evaluated query by query: %s", table, reason)
        return []


def _count_staged_rows(conn: Connection, load_id: int) -> int:
    """Return the rows of a load in the ledger; 0 for an unknown load."""
    statement = "select coalesce(sum(n_rows), 0) from ops.loads where load_id = %s"
    row = conn.execute(statement, [load_id]).fetchone()
    return int(row[0]) if row else 0


def _read_results(suite: Suite, documents: list[dict[str, Any]]) -> list[CheckResult]:
    """Return one check per expectation of the suite.

    Raises:
        GateCrashError: A result is missing, malformed or of another expectation.
    """
    try:
        checks = [read_check_result(document) for document in documents]
        evaluated = sorted(document["expectation_config"]["type"] for document in documents)
    except (KeyError, TypeError, AttributeError) as error:
        raise crash_error(suite.dataset, error) from None
    # Great Expectations may drop an expectation silently: fewer results are no pass.
    if evaluated != sorted(expectation.type for expectation in suite.expectations):
        raise GateCrashError(
            f"The gate {suite.dataset} evaluated other expectations than its suite has.",
            expected=f"{len(suite.expectations)} results, one per expectation",
            got=f"{len(evaluated)} results",
            todo=NO_VERDICT_TODO,
        )
    return checks
