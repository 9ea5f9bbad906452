"""An older warehouse learns of canaries when it is migrated; its rows and decisions stay."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = pytest.mark.integration
OLD = (
    "check (score_source in ('champion', 'named_version', 'previous_champion', 'carried_over',"
    " 'fallback_rule'))"
)


def test_tables_and_decisions_from_before_take_a_canary(conn: Connection) -> None:
    conn.execute("drop view ml.canaries; drop view ops.canary_nights")
    conn.execute("drop index ml.promotions_canary_once")
    conn.execute(
        f"create table predictions.parcel_late (score_source text not null {OLD})".encode()
    )
    conn.execute("insert into predictions.parcel_late values ('carried_over')")
    migration = files("nightshift.warehouse") / "migrations" / "0035_canary.sql"
    conn.execute(migration.read_bytes())
    conn.execute("insert into predictions.parcel_late values ('canary'), ('champion')")
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute("insert into predictions.parcel_late values ('somebody')")
    assert conn.execute("select count(*) from predictions.parcel_late").fetchone() == (3,)
    assert conn.execute("select count(*) from ml.canaries").fetchone() == (0,)
    [definition] = conn.execute("select pg_get_viewdef('ml.succession'::regclass)").fetchone() or (
        "",
    )
    assert "'canary'" in definition, "a share of the entities makes no champion"
