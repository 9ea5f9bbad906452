"""The warehouse understands every statement that a runbook shows."""

from __future__ import annotations

import itertools
import re

import psycopg
import pytest
from tests.page_commands import page_commands

from nightshift.settings import PROJECT_ROOT, Settings

PAGES = sorted(
    [*(PROJECT_ROOT / "docs" / "runbooks").glob("*.md"), PROJECT_ROOT / "docs" / "production.md"]
)
_UNDERSTOOD = (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject)


def statements() -> list[tuple[str, str]]:
    """Return page and SQL of each ``-c`` of ``nightshift psql``, and of the alerts."""
    found = []
    for page in PAGES:
        for command in page_commands(page):
            words = command.words
            if words[:2] == ["nightshift", "psql"]:
                options = itertools.pairwise(words)
                found += [(page.stem, sql) for option, sql in options if option == "-c"]
        alerts = re.findall(r"\| `(select [^`]+)`", page.read_text(encoding="utf-8"))
        found += [(page.stem, sql) for sql in alerts]
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
            # An admin's change is parsed and its relation looked up: here nobody is the admin, and
            # the name of a trigger or constraint is a placeholder's value.
            if sql.startswith("alter ") and isinstance(error, _UNDERSTOOD):
                continue
            problems.append(f"{page}: {sql}\n    {error}")
    assert not problems, "\n".join(problems)
    assert [sql for _, sql in every if re.search(r"<\w+>", sql)] == []
