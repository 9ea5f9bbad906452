"""What the warehouse refuses for a while is one of our errors, with what to do."""

from __future__ import annotations

import psycopg
import pytest

from nightshift.errors import TableShapeError, WarehouseError
from nightshift.warehouse.connection import connect

pytestmark = pytest.mark.integration


def test_a_lock_that_is_not_free_is_named(settings, conn):
    conn.execute("create table public.held (n int)")
    impatient = settings.model_copy(update={"lock_timeout_seconds": 1})
    with conn.transaction():
        conn.execute("lock table public.held")
        with (
            pytest.raises(WarehouseError, match="lock was not free") as caught,
            connect(impatient) as other,
        ):
            other.execute("select * from public.held")
    assert isinstance(caught.value.__cause__, psycopg.errors.LockNotAvailable)
    assert (caught.value.code, caught.value.is_retryable) == ("NS-WAREHOUSE-001", True)


def test_a_statement_over_its_limit_is_named(settings):
    impatient = settings.model_copy(update={"statement_timeout_seconds": 1})
    with pytest.raises(WarehouseError, match="longer than its limit"), connect(impatient) as other:
        other.execute("select pg_sleep(5)")


def test_a_connection_that_breaks_is_named(settings):
    with (
        pytest.raises(WarehouseError, match="connection to the warehouse broke"),
        connect(settings) as other,
    ):
        other.execute("select pg_terminate_backend(pg_backend_pid())")


def test_a_mistake_of_ours_passes_as_it_is(settings):
    with pytest.raises(psycopg.errors.DivisionByZero), connect(settings) as other:
        other.execute("select 1 / 0")


@pytest.mark.parametrize(
    "query",
    ["select * from public.nowhere", "select nobody from ops.loads", "create table nowhere.t ()"],
)
def test_what_is_not_there_is_named_and_the_statement_is_not(settings, query):
    with pytest.raises(TableShapeError) as caught, connect(settings) as other:
        other.execute(query)
    assert (caught.value.code, caught.value.is_retryable) == ("NS-WAREHOUSE-014", False)
    assert not isinstance(caught.value, WarehouseError)
    assert "LINE 1" not in str(caught.value)
