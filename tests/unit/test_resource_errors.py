"""A full disk and short memory are named, in whatever library they show first."""

import errno

import psycopg
import pytest

from nightshift.errors import (
    LocalSpaceError,
    MemoryShortError,
    NightshiftError,
    ObjectStoreError,
    WarehouseError,
    WarehouseFullError,
)
from nightshift.resource_errors import translate_resource_errors

DBT = """dbt failed
  Database Error in model fct_flight_outcomes
    could not extend file "base/16384/16999": No space left on device
    HINT:  Check free disk space."""


class AdbcError(Exception):
    """As ADBC's: a subclass of nothing of ours, with a SQLSTATE."""

    sqlstate = "53100"


@pytest.mark.promise("R12")
@pytest.mark.parametrize(
    ("raised", "named"),
    [
        (psycopg.errors.DiskFull("could not extend file"), WarehouseFullError),
        (psycopg.errors.OutOfMemory("out of memory"), MemoryShortError),
        (AdbcError("anything"), WarehouseFullError),
        (NightshiftError(DBT), WarehouseFullError),
        (NightshiftError("The gate crashed: could not be evaluated: DiskFull"), WarehouseFullError),
        (
            NightshiftError(
                "PostgreSQL did not start.", got="write failed: No space left on device"
            ),
            LocalSpaceError,
        ),
        (OSError(errno.ENOSPC, "No space left on device", "rows.parquet"), LocalSpaceError),
        (OSError(errno.EFBIG, "File too large"), LocalSpaceError),
        (MemoryError(), MemoryShortError),
        (RuntimeError("lightgbm: std::bad_alloc"), MemoryShortError),
        (RuntimeError("can't start new thread"), MemoryShortError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryShortError),
    ],
)
def test_error_is_replaced_by_its_cause_when_something_ran_out(raised, named):
    with pytest.raises(named) as caught, translate_resource_errors():
        raise raised

    assert caught.value.__cause__ is raised
    assert caught.value.todo


def test_cause_is_found_when_a_stage_wrapped_it():
    def wrapped():
        try:
            raise psycopg.errors.DiskFull("could not extend file")
        except psycopg.OperationalError as error:
            raise WarehouseError("Load 7 could not be published; nothing changed.") from error

    with pytest.raises(WarehouseFullError, match="NS-WAREHOUSE-003"), translate_resource_errors():
        wrapped()


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("x"),
        OSError(errno.ENOENT, "No such file"),
        psycopg.errors.LockNotAvailable("lock timeout"),
        ObjectStoreError("Cannot write s3://b/k.", got="No space left on device"),
        WarehouseFullError("named already"),
        KeyboardInterrupt(),
    ],
)
def test_error_passes_as_it_is_when_nothing_ran_out_or_it_is_named_already(raised):
    with pytest.raises(type(raised)) as caught, translate_resource_errors():
        raise raised

    assert caught.value is raised


def test_line_that_names_the_disk_is_kept_when_the_text_is_long():
    with pytest.raises(WarehouseFullError) as caught, translate_resource_errors():
        raise NightshiftError(DBT)

    assert caught.value.got == 'could not extend file "base/16384/16999": No space left on device'
