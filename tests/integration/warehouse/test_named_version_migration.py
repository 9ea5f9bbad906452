"""The prediction tables of an older warehouse learn the new source when it is migrated."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = pytest.mark.integration
OLD = "check (score_source in ('champion', 'previous_champion', 'carried_over', 'fallback_rule'))"


def test_rows_of_a_named_version_are_taken_by_tables_from_before(conn: Connection) -> None:
    for model in ("parcel_late", "visitors"):
        conn.execute(
            f"create table predictions.{model} (score_source text not null {OLD})".encode()
        )
    conn.execute(
        (files("nightshift.warehouse") / "migrations" / "0013_named_version.sql").read_bytes()
    )
    for model in ("parcel_late", "visitors"):
        conn.execute(
            (
                f"insert into predictions.{model}"
                " values ('named_version'), ('champion'), ('carried_over')"
            ).encode()
        )
        with pytest.raises(psycopg.errors.CheckViolation):
            conn.execute(f"insert into predictions.{model} values ('somebody')".encode())
