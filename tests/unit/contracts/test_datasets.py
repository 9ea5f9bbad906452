"""What a contract may say of a dataset: it is refused when it is read, not when a file comes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from nightshift.contracts.datasets import DatasetContract


def contract(**changed: Any) -> dict[str, Any]:
    return {
        "name": "orders",
        "description": "d",
        "schema_version": 1,
        "delivery": "daily",
        "history_start": "2013-01-01",
        "grain": "g",
        "key": ["id"],
        "columns": [{"name": "id", "type": "text"}],
        **changed,
    }


@pytest.mark.parametrize(
    "timezone",
    [
        "Europe/Berln",
        "europe/berlin",
        "Europe",
        "W. Europe Standard Time",
        "CEST",
        "UTC+2",
        "+02:00",
        "",
        " UTC",
        "Europe/Berlin\n",
        "/etc/localtime",
        "../localtime",
        "localtime",
        "Factory",
        "posix/Europe/Berlin",
        "right/Europe/Berlin",
    ],
)
def test_a_timezone_that_is_none_or_differs_by_machine_is_refused(timezone: str) -> None:
    with pytest.raises(ValidationError, match="a timezone of the IANA database"):
        DatasetContract.model_validate(contract(timezone=timezone))


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin", "US/Eastern", "EST5EDT", "Etc/GMT+5"])
def test_a_timezone_of_the_iana_database_is_accepted(timezone: str) -> None:
    assert DatasetContract.model_validate(contract(timezone=timezone)).timezone == timezone


@pytest.mark.parametrize("number", [2**31, 5_000_000, 10**18])
@pytest.mark.parametrize(
    "key", ["schema_version", "maximum_wait_minutes", "maximum_backdating_days", "day_offset_days"]
)
def test_a_number_that_fills_the_memory_or_leaves_the_calendar_is_refused(key, number) -> None:
    """A list of so many versions has taken a process's memory before anything was compared."""
    with pytest.raises(ValidationError, match=f"{key}\\b.*\n.*less than or equal to"):
        DatasetContract.model_validate(contract(**{key: number}))


@pytest.mark.parametrize("key", ["event_timestamp", "day_column"])
@pytest.mark.parametrize("column_type", ["text", "integer", "number", "boolean"])
def test_a_time_of_a_row_is_read_as_a_time(key, column_type) -> None:
    """Its text would be compared with the day in UTC, and one that is no time ends the load."""
    columns = [{"name": "id", "type": "text"}, {"name": "at", "type": column_type}]

    with pytest.raises(ValidationError, match=f"{key} names a time or a date; at is {column_type}"):
        DatasetContract.model_validate(contract(columns=columns, **{key: "at"}))


def test_limits_that_no_number_keeps_are_refused() -> None:
    columns = [{"name": "id", "type": "integer", "minimum": 5, "maximum": 1}]

    with pytest.raises(ValidationError, match="at least minimum and at most maximum"):
        DatasetContract.model_validate(contract(columns=columns))
