"""The command of a code comes from its page, with the values of the fault."""

from __future__ import annotations

import pytest

from nightshift.incidents.runbook_commands import page_command

CLEAR = "nightshift airflow dags clear {} --partition-key 2013-03-05 --only-failed --yes"
VALUES = {"dag": "score__churn", "day": "2013-03-05", "model": "churn"}


@pytest.mark.parametrize(
    ("code", "command"),
    [
        ("NS-GATE-002", CLEAR.format("score__churn")),
        # The page begins with `nightshift up`, which is no repair of a run.
        ("NS-LAKE-001", CLEAR.format("score__churn")),
        ("NS-CONTRACT-004", CLEAR.format("ingest")),
        ("NS-WAREHOUSE-010", "nightshift migrate"),
        ("NS-NOWHERE-999", CLEAR.format("score__churn")),
    ],
)
def test_the_rerun_of_the_page_is_preferred(code, command):
    assert page_command(code, VALUES) == command


def test_no_command_has_a_placeholder():
    assert page_command("NS-NOWHERE-999", {}) == "nightshift status"
    assert page_command("NS-GATE-002", {"dag": "", "day": "2013-03-05"}) == "nightshift migrate"
