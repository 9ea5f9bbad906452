"""A check that crashed, was skipped, found nothing to check.

Or says something strange never counts as passed.
"""

from __future__ import annotations

import json
import sys

import pytest
from tests.integration.scoring.conftest import DAY

from nightshift.quality import gates
from nightshift.quality.gate_errors import GateError
from nightshift.quality.gates import run_gate

pytestmark = [pytest.mark.integration, pytest.mark.promise("R18")]
NOT_NULL = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "score"}}
GOOD = {"success": True, "expectation_config": NOT_NULL, "exception_info": None, "result": {}}
CRASHED = GOOD | {
    "exception_info": {
        "raised_exception": True,
        "exception_message": "boom",
        "exception_traceback": "",
    }
}


@pytest.fixture
def gate(warehouse, scoring_settings, run):
    """Return a function that runs the gate on two rows (or none) with one expectation."""

    def check(suite: list[dict] | None = None, load_id: int = 7):
        path = scoring_settings.expectations_dir / "predictions" / "parcel_late.json"
        path.write_text(
            json.dumps(
                {
                    "name": "predictions/parcel_late",
                    "expectations": [NOT_NULL] if suite is None else suite,
                }
            )
        )
        warehouse.execute(
            "insert into predictions.parcel_late (partition_date, load_id, shard, parcel_id,"
            " event_timestamp, score, decile,"
            " features_as_of, score_source, run_id) select '2013-07-01', 7, 0, n, now(), 0.5, 1,"
            " now(), 'champion', 'r'"
            " from generate_series(1, 2) n"
        )
        return run_gate(
            scoring_settings,
            "predictions/parcel_late",
            "predictions",
            "parcel_late",
            load_id,
            DAY,
            run,
        )

    return check


def test_the_batch_passes_when_nothing_is_broken(gate):
    assert gate().passed


@pytest.mark.parametrize(
    "results",
    [
        [],
        [GOOD, GOOD],
        [CRASHED],
        [{}],
        [GOOD | {"success": None}],
        [GOOD | {"success": "yes"}],
        [GOOD | {"success": 1}],
        [GOOD | {"expectation_config": NOT_NULL | {"type": "expect_something_else"}}],
        [None],
    ],
    ids=[
        "none",
        "too many",
        "crashed",
        "empty",
        "no verdict",
        "a word",
        "a number",
        "another check",
        "null",
    ],
)
def test_the_gate_stops_when_its_results_are_not_the_suites(gate, monkeypatch, results):
    monkeypatch.setattr(
        gates, "evaluate_by_great_expectations", lambda *_: json.loads(json.dumps(results))
    )
    with pytest.raises(GateError):
        gate()


def test_the_gate_stops_when_great_expectations_cannot_be_imported(gate, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "great_expectations"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    with pytest.raises(GateError, match="NS-GATE-003"):
        gate()


def test_the_gate_stops_when_there_are_no_rows(gate):
    with pytest.raises(GateError, match="has no rows"):
        gate(load_id=8)


def test_no_rows_pass_only_when_the_suite_itself_allows_them(gate):
    may_be_empty = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 0}}
    assert gate([NOT_NULL, may_be_empty], load_id=8).passed


@pytest.mark.parametrize("severity", ["warning", "info"])
def test_the_gate_stops_when_no_expectation_could_stop_anything(gate, severity):
    with pytest.raises(GateError, match="NS-GATE-002"):
        gate([NOT_NULL | {"severity": severity}])


def test_the_gate_stops_when_a_severity_is_not_known(gate):
    with pytest.raises(GateError):
        gate(
            [
                NOT_NULL,
                {
                    "type": "expect_column_values_to_be_between",
                    "kwargs": {"column": "score", "min_value": 1},
                    "severity": "fatal",
                },
            ]
        )
