"""No traceback of a failed statement quotes a row's value."""

from __future__ import annotations

import traceback

import psycopg
import pytest

from nightshift.errors import ConstraintError
from nightshift.warehouse.connection import connect

pytestmark = pytest.mark.integration
SECRET = "Anna Muster"


@pytest.mark.parametrize(
    "statement",
    [
        "insert into people values (1, 'Anna Muster')",
        "insert into people values (null, 'Anna Muster')",
        "select 'Anna Muster'::integer",
        "select 'Anna Muster'::timestamptz",
        "select ('[' || 'Anna Muster')::json",
    ],
)
def test_no_traceback_quotes_a_row_when_a_statement_fails(settings, statement):
    with connect(settings) as conn:
        conn.execute("create table people (id integer not null, name text, unique (name))")
        conn.execute("insert into people values (1, 'Anna Muster')")

    errors = (psycopg.Error, ConstraintError)
    with pytest.raises(errors) as caught, connect(settings) as conn:
        conn.execute(statement.encode())

    assert SECRET not in "".join(traceback.format_exception(caught.value))
    of_server = caught.value.__cause__ or caught.value
    assert isinstance(of_server, psycopg.Error)
    assert of_server.sqlstate
