"""The warehouse understands every statement that a runbook shows."""

from __future__ import annotations

import re

import psycopg
import pytest

from nightshift.settings import PROJECT_ROOT, Settings

PAGES = sorted(
    [*(PROJECT_ROOT / "docs" / "runbooks").glob("*.md"), PROJECT_ROOT / "docs" / "production.md"]
)
EXAMPLES = {
    "<day>": "2013-03-10", "<first>": "2013-03-01", "<last>": "2013-03-10", "<hole>": "2013-03-02",
    "<model>": "flight_delayed",
    "<dataset>": "weather", "<view>": "flight", "<column>": "distance_miles", "<load_id>": "1",
    "<label_relation>": "fct_flight_labels",
    "<label>": "is_delayed", "<login>": "nobody", "<database>": "warehouse", "<user>": "nightshift",
}  # fmt: skip


def statements() -> list[tuple[str, str]]:
    """Return page and SQL of each ``nightshift psql … -c "…"``, and of the alerts."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for sql in [
            *re.findall(r'nightshift psql (?:--role \w+ )?-c "([^"]+)"', text),
            *re.findall(r"\| `(select [^`]+)`", text),
        ]:
            for name, value in EXAMPLES.items():
                sql = sql.replace(name, value)  # noqa: PLW2901
            found.append((page.stem, sql))
    return found


@pytest.fixture
def settings(dbt_settings: Settings) -> Settings:
    """Return settings of a database in which dbt has made its relations."""
    return dbt_settings


@pytest.mark.integration
@pytest.mark.slow
def test_every_statement_of_a_page_runs(settings: Settings, conn: psycopg.Connection):
    from nightshift.contracts.model_spec import load_specs
    from nightshift.scoring.prediction_tables import ensure_prediction_relations

    for spec in load_specs(settings.models_dir).values():
        ensure_prediction_relations(conn, spec)
    every = statements()
    assert len(every) > 60
    problems = []
    for page, sql in every:
        try:
            with conn.transaction(force_rollback=True):
                conn.execute(sql.encode())
        except psycopg.Error as error:
            problems.append(f"{page}: {sql}\n    {error}")
    assert not problems, "\n".join(problems)
    assert [sql for _, sql in every if re.search(r"<\w+>", sql)] == []
